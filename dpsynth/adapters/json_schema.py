"""JSON Schema of one row -> Schema; also a pydantic model, by its JSON Schema.

A JSON Schema is written by people, so that what it says is taken as public: ranges, enums, and that a value may (not) be null. A property
that is not required may be missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dpsynth.adapters.document import as_dict
from dpsynth.privacy.errors import SchemaError
from dpsynth.schema import Column, Schema

# Formats of strings that are not just strings: (kind, entity of an identifier).
_IDENTIFIERS = {"email": "EMAIL_ADDRESS", "ipv4": "IP_ADDRESS", "ipv6": "IP_ADDRESS", "uri": "URL"}
_KINDS = {"date": "datetime", "date-time": "datetime", "duration": "timedelta", "uuid": "id"}


def read(model: Any) -> Schema:
    """A schema from a pydantic model class, a JSON Schema as dict, or the path of its JSON file.

    Raises SchemaError for what is none, and for nested properties.
    """
    body = as_dict(
        model,
        "model_json_schema",
        wanted="pass a pydantic model, a JSON Schema as a dict, or the path of its JSON file",
        not_object="the JSON Schema is not an object",
    )
    properties = body.get("properties")
    if not isinstance(properties, dict) or not properties:
        raise SchemaError("the JSON Schema describes no object with properties, the columns")
    required = set(body.get("required", ()))
    return Schema(_column(name, spec, body, name in required) for name, spec in properties.items())


def _column(name: str, spec: Any, body: Mapping[str, Any], required: bool) -> Column:
    nullable = not required
    options = [_resolved(name, option, body) for option in _options(_resolved(name, spec, body))]
    known = [option for option in options if option.get("type") != "null"]
    nullable |= len(known) < len(options)
    if len(known) != 1:
        return Column(name, nullable=nullable)  # of several types, or any: to be learned
    (option,) = known
    values = [option["const"]] if "const" in option else option.get("enum")
    if values is not None:
        return _categorical(name, list(values), nullable)
    kind = option.get("type")
    if kind in ("integer", "number"):
        return _numeric(name, option, kind == "integer", nullable)
    if kind == "boolean":
        return Column(name, "boolean", nullable=nullable)
    if kind in ("object", "array"):
        raise SchemaError(f"column {name!r} holds nested values; flatten or drop it")
    form = option.get("format", "")
    if form in _IDENTIFIERS:
        return Column(name, role="identifier", entity=_IDENTIFIERS[form])
    if form in _KINDS:
        own = _KINDS[form]
        return Column(name, own, nullable=None if own == "id" else nullable)  # type: ignore[arg-type]
    return Column(name, nullable=nullable)  # a string: labels or texts, to be learned


def _options(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    for word in ("anyOf", "oneOf"):
        if word in spec:
            return list(spec[word])
    if isinstance(spec.get("type"), list):
        return [{**spec, "type": kind} for kind in spec["type"]]
    return [spec]


def _resolved(name: str, spec: Any, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The property with its reference followed."""
    for _ in range(10):
        if not isinstance(spec, dict):
            break
        if "$ref" not in spec:
            return spec
        place: Any = body
        for step in str(spec["$ref"]).removeprefix("#/").split("/"):
            place = place.get(step) if isinstance(place, dict) else None
        spec = place
    raise SchemaError(f"column {name!r}: the JSON Schema refers to what it does not hold")


def _categorical(name: str, values: list[Any], nullable: bool) -> Column:
    labels = tuple(value for value in values if value is not None)
    nullable |= len(labels) < len(values)
    if set(labels) == {True, False} and all(isinstance(label, bool) for label in labels):
        return Column(name, "boolean", nullable=nullable)
    return Column(name, "categorical", categories=labels, nullable=nullable)


def _numeric(name: str, spec: Mapping[str, Any], integer: bool, nullable: bool) -> Column:
    low, high = spec.get("minimum"), spec.get("maximum")
    if low is None and (above := spec.get("exclusiveMinimum")) is not None:
        low = above + 1 if integer else above
    if high is None and (below := spec.get("exclusiveMaximum")) is not None:
        high = below - 1 if integer else below
    step = spec.get("multipleOf")
    decimals = round(-math.log10(step)) if step and not integer and step < 1 else None
    return Column(
        name,
        "numeric",
        bounds=(low, high) if low is not None and high is not None else None,
        integer=True if integer or step == 1 else None,
        decimals=decimals if decimals and math.isclose(step or 0, 10.0**-decimals) else None,
        nullable=nullable,
    )

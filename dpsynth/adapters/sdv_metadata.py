"""SDV Metadata (V1 or V2) -> Schema.

SDV writes the same JSON whether a range was declared by a person or detected in the rows, so the caller must say which:
a detected range is as private as the row that made it.
"""

from __future__ import annotations

from typing import Any, Literal

from dpsynth.adapters.document import as_dict
from dpsynth.privacy.errors import SchemaError
from dpsynth.schema import Column, Kind, Schema

_KINDS: dict[str, Kind] = {
    "numerical": "numeric",
    "categorical": "categorical",
    "ordinal": "categorical",
    "boolean": "boolean",
    "datetime": "datetime",
    "id": "id",
    "text": "text",
}
# SDV's own names for columns of identifiers, and what they are here.
_ENTITIES = {
    "name": "PERSON",
    "first_name": "PERSON",
    "last_name": "PERSON",
    "email": "EMAIL_ADDRESS",
    "phone_number": "PHONE_NUMBER",
    "ssn": "US_SSN",
    "credit_card_number": "CREDIT_CARD",
    "iban": "IBAN_CODE",
    "ipv4_address": "IP_ADDRESS",
    "ipv6_address": "IP_ADDRESS",
    "mac_address": "MAC_ADDRESS",
    "url": "URL",
}


def read(metadata: Any, *, ranges: Literal["declared", "ignore"]) -> Schema:
    """A schema from an SDV Metadata object, its dict, or the path of its JSON. One table only.

    ranges: "declared" takes ranges, categories, decimals and nullability as public; "ignore" leaves them to be learned under DP.
    Raises SchemaError for anything else, and for metadata of several tables.
    """
    if ranges not in ("declared", "ignore"):
        raise SchemaError(
            "ranges must be 'declared' (they are public knowledge) or 'ignore' (they were detected in rows)"
        )
    body = as_dict(
        metadata,
        "to_dict",
        wanted="the metadata must be an SDV Metadata object, its dict, or the path of its JSON",
        not_object="the metadata's JSON is not an object",
    )
    tables = body.get("tables", {"table": body})
    if len(tables) != 1:
        raise SchemaError("the metadata describes several tables; pass that of one")
    (table,) = tables.values()
    if not isinstance(table.get("columns"), dict):
        raise SchemaError("the metadata has no columns")
    return Schema(_column(name, spec, ranges == "declared") for name, spec in table["columns"].items())


def _column(name: str, spec: dict[str, Any], declared: bool) -> Column:
    sdtype = spec.get("sdtype", "unknown")
    if sdtype in _ENTITIES or (spec.get("pii") and sdtype not in _KINDS):
        return Column(name, role="identifier", entity=_ENTITIES.get(sdtype))
    kind = _KINDS.get(sdtype)
    if kind is None or not declared:
        return Column(name, kind)
    values, nullable = spec.get("range_values"), spec.get("range_is_nullable")
    low, high = spec.get("range_min"), spec.get("range_max")
    decimals = spec.get("decimal_places") if kind == "numeric" else None
    return Column(
        name,
        kind,
        bounds=(low, high) if kind in ("numeric", "datetime") and low is not None and high is not None else None,
        categories=tuple(values) if kind == "categorical" and values else None,
        decimals=decimals or None,
        integer=True if decimals == 0 else None,
        nullable=nullable if isinstance(nullable, bool) else None,
    )


def write(schema: Schema, table: str) -> dict[str, Any]:
    """The schema as SDV Metadata V2: a dict for `Metadata.load_from_dict`, or for a JSON file.

    What SDV has no word for is left out: constraints, bounds of durations (numerical there, in seconds), roles but identifiers.
    """
    columns = {column.name: _spec(column) for column in schema.columns}
    return {"tables": {table: {"columns": columns}}, "relationships": [], "METADATA_SPEC_VERSION": "V2"}


def _spec(column: Column) -> dict[str, Any]:
    if column.role == "identifier" or column.kind == "id":
        return _identifier(column)
    sdtypes = {"numeric": "numerical", "timedelta": "numerical", "text": "text", None: "unknown"}
    spec: dict[str, Any] = {"sdtype": sdtypes.get(column.kind, column.kind)}
    if column.kind is None:
        return spec | {"pii": False}
    if column.bounds is not None:
        spec |= {"range_min": column.bounds[0], "range_max": column.bounds[1]}
    if column.categories is not None and column.kind == "categorical":
        spec["range_values"] = list(column.categories)
    if column.kind == "numeric" and (column.integer or column.decimals is not None):
        spec["decimal_places"] = 0 if column.integer else column.decimals
    if column.nullable is not None:
        spec["range_is_nullable"] = column.nullable
    return spec


def _identifier(column: Column) -> dict[str, Any]:
    known = {entity: sdtype for sdtype, entity in reversed(_ENTITIES.items())}
    if column.kind == "id" and column.role != "identifier":
        return {"sdtype": "id"}
    return {"sdtype": known.get(column.entity or "", "unknown"), "pii": True}

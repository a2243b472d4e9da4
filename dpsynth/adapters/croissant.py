"""A release described as Croissant 1.0: JSON-LD by which search engines and loaders know a data set.

Format: https://docs.mlcommons.org/croissant/docs/croissant-spec.html and its vocabulary for responsible AI (rai).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpsynth.privacy.statement import PrivacyStatement
from dpsynth.schema import Column, Schema

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "sc": "https://schema.org/",
    "source": "cr:source",
}
FORMATS = {"data.parquet": "application/x-parquet", "data.csv": "text/csv"}


def describe(schema: Schema, files: Mapping[str, str], statement: PrivacyStatement) -> dict[str, Any]:
    """The JSON-LD of a release. files: SHA-256 of data.parquet and data.csv by name."""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": f"synthetic-{statement.run}",
        "description": "A synthetic table: no row stands for a person. " + statement.sentence(),
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "datePublished": statement.created,
        "license": "TERMS.md",
        "rai:dataCollection": f"drawn from a model that dpsynth {statement.version} fitted under differential privacy",
        "rai:personalSensitiveInformation": f"epsilon {statement.epsilon:g}, delta {statement.delta:g}; see privacy.json",
        "rai:dataLimitations": "see README.md and gate.json; confirm conclusions on the source",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": name,
                "name": name,
                "contentUrl": name,
                "encodingFormat": FORMATS[name],
                "sha256": sha256,
            }
            for name, sha256 in files.items()
        ],
        "recordSet": [
            {"@type": "cr:RecordSet", "@id": "rows", "name": "rows", "field": [_field(c) for c in schema.columns]}
        ],
    }


def _field(column: Column) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"rows/{column.name}",
        "name": column.name,
        "dataType": _type(column),
        "source": {"fileObject": {"@id": "data.parquet"}, "extract": {"column": column.name}},
    }


def _type(column: Column) -> str:
    if column.kind == "numeric":
        return "sc:Integer" if column.integer else "sc:Float"
    return {"boolean": "sc:Boolean", "datetime": "sc:DateTime"}.get(column.kind or "", "sc:Text")

"""Frequent values that are direct identifiers themselves: a doctor's name that many rows share, a site's address.

Which values are frequent was bought, so looking at them is post-processing. Dropping the column would lose what goes with whom, and
leaving a value out would lose its rows; so each such label becomes a made-up one, the same in all of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Protocol

import numpy as np

from dpsynth.privacy.pii.columns import CELL_CLASSES
from dpsynth.privacy.pii.languages import foreign
from dpsynth.privacy.pii.scrub import fill_placeholders
from dpsynth.privacy.source import IntArray

# Languages that the detector reads, as Faker has their given names.
_GIVEN_NAMES = ("en_US", "en_GB", "fr_FR", "de_DE", "es_ES", "it_IT", "pt_PT", "nl_NL")
_TRIES = 20


class _Detector(Protocol):
    def classify(self, cells: Sequence[str], header: str) -> IntArray: ...

    def scrub(self, texts: Sequence[str]) -> list[str]: ...


def made_up_labels(
    labels: Sequence[str], header: str, detector: _Detector, rng: np.random.Generator, *, of_people: bool
) -> dict[str, str]:
    """A made-up label for each that is or holds a direct identifier; all different, and none that is a label already.

    of_people: whether the column's labels are names or streets for the most part. Where they are not, a label must be a name as a
    whole, and begin with a given name: "Gift Card" names nobody, and "Grade 10" is no street.
    """
    read = [label for label in labels if foreign(label) is None]  # others hold no name that a detector would know
    classes = [CELL_CLASSES[i] for i in detector.classify(read, header)]
    hits = [
        label
        for label, found in zip(read, classes, strict=True)
        if found != "NONE" and (of_people or (found == "PERSON" and _begins_with_given_name(label)))
    ]
    out: dict[str, str] = {}
    used = set(labels)
    for number, (label, scrubbed) in enumerate(zip(hits, detector.scrub(hits), strict=True), 1):
        drawn = (str(fill_placeholders([scrubbed], rng)[0]) for _ in range(_TRIES))
        out[label] = next((made for made in drawn if made not in used), f"{header} {number}")
        used.add(out[label])
    return out


def _begins_with_given_name(label: str) -> bool:
    return label.replace("-", " ").split()[0].casefold() in _given_names()


@lru_cache(maxsize=1)
def _given_names() -> frozenset[str]:
    providers = [import_module(f"faker.providers.person.{locale}").Provider for locale in _GIVEN_NAMES]
    return frozenset(name.casefold() for provider in providers for name in provider.first_names)

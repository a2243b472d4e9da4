"""Neighbour replay: does every query move by no more than its declared sensitivity?

Run once on a table with a `Recorder`, then on a neighbour with its `replay()`: the second run is given the first run's
noisy answers, so by the definition of adaptive composition it must ask the same queries, and each exact answer may differ by at
most the sensitivity the mechanism declared. (The method of Cebere et al., "Re:cord-play", 2026.) Both runs need an
insecure seed: exact answers are shown to tests alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.source import IntArray
from dpsynth.privacy.table import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One query on both tables: L2 distance of the exact answers, against the declared sensitivity."""

    label: str
    distance: float
    sensitivity: float

    @property
    def holds(self) -> bool:
        return self.distance <= self.sensitivity * (1 + 1e-12)


class Recorder:
    """Witness of the first run."""

    def __init__(self) -> None:
        self._answers: list[tuple[str, IntArray, IntArray]] = []
        self._vocabularies: list[tuple[str, dict[object, int], Vocabulary]] = []

    def answer(self, label: str, exact: IntArray, sensitivity: float, noisy: IntArray) -> IntArray:
        self._answers.append((label, exact, noisy))
        return noisy

    def vocabulary(
        self, label: str, exact: Mapping[object, int], sensitivity: float, released: Vocabulary
    ) -> Vocabulary:
        self._vocabularies.append((label, dict(exact), released))
        return released

    def replay(self) -> Replay:
        """A witness for the run on the neighbour."""
        return Replay(self._answers, self._vocabularies)


class Replay:
    """Witness of the second run: gives back the first run's answers and compares the exact ones."""

    def __init__(
        self,
        answers: list[tuple[str, IntArray, IntArray]],
        vocabularies: list[tuple[str, dict[object, int], Vocabulary]],
    ) -> None:
        self._answers, self._vocabularies = iter(answers), iter(vocabularies)
        self.comparisons: list[Comparison] = []

    def answer(self, label: str, exact: IntArray, sensitivity: float, noisy: IntArray) -> IntArray:
        first_label, first_exact, first_noisy = next(self._answers, ("", exact, noisy))
        if first_label != label or first_exact.shape != exact.shape:
            raise PrivacyError(
                f"the runs part ways at {label}: with equal answers so far they must ask the same queries"
            )
        self._compare(label, float(np.linalg.norm((exact - first_exact).astype(np.float64))), sensitivity)
        return first_noisy

    def vocabulary(
        self, label: str, exact: Mapping[object, int], sensitivity: float, released: Vocabulary
    ) -> Vocabulary:
        first_label, first_exact, first_released = next(self._vocabularies, ("", {}, released))
        if first_label != label:
            raise PrivacyError(
                f"the runs part ways at {label}: with equal answers so far they must ask the same queries"
            )
        moved = [exact.get(value, 0) - first_exact.get(value, 0) for value in {*exact, *first_exact}]
        self._compare(label, float(np.linalg.norm(np.array(moved, np.float64))), sensitivity)
        return first_released

    def _compare(self, label: str, distance: float, sensitivity: float) -> None:
        self.comparisons.append(Comparison(label=label, distance=distance, sensitivity=sensitivity))

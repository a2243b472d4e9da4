"""MAUVE and repeated runs of words."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc

from dpsynth.fidelity.texts import mauve, repeated


def test_mauve_goes_from_nothing_in_common_to_not_to_be_told_apart() -> None:
    rng = np.random.default_rng(0)
    real, same = rng.normal(size=(2, 400, 8))
    far = rng.normal(size=(400, 8)) + 20 * np.eye(8)[0]
    half = np.concatenate([same[:200], far[:200]])
    values = [mauve(real, other, clusters=12) for other in (far, half, same)]
    assert values[0] < 0.05 < 0.2 < values[1] < 0.8 < 0.95 < values[2] <= 1


def test_mauve_of_two_known_histograms_is_the_area_by_hand() -> None:
    places = np.array([[1.0, 0.0], [0.0, 1.0]])
    real, synthetic = places[[0] * 80 + [1] * 20], places[[0] * 20 + [1] * 80]
    p, q = np.array([0.8, 0.2]), np.array([0.2, 0.8])
    points = [(0.0, 1.0)]
    for mix in np.linspace(1e-6, 1 - 1e-6, 20_001)[::-1]:
        r = mix * p + (1 - mix) * q
        points.append((np.exp(-5 * (q * np.log(q / r)).sum()), np.exp(-5 * (p * np.log(p / r)).sum())))
    x, y = np.array([*points, (1.0, 0.0)]).T
    assert mauve(real, synthetic, clusters=2) == pytest.approx(auc(x, y), abs=0.01)


def test_a_repeated_run_of_words_is_found_in_any_case() -> None:
    source = ["one two three four five six seven eight nine"]
    assert repeated(["So: Two three FOUR five six seven eight nine!"], source, words=7) == 1.0
    assert repeated(["two three four", "", "one two three four five six seven nine"], source) == 0.0

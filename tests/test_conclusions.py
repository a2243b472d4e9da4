"""What is concluded from noisy answers."""

from __future__ import annotations

import numpy as np
import pytest

from dpsynth.conclusions import filled_in, kind_of, together
from dpsynth.encode.cells import LabelCells
from dpsynth.encode.codec import Codec
from dpsynth.privacy.table import Measurement, Vocabulary
from dpsynth.schema import Column


def found(sigma: float, **counts: float) -> Vocabulary:
    return Vocabulary(values=tuple(counts), counts=np.array([*counts.values()]), sigma=sigma, threshold=50.0)


def test_two_looks_are_averaged_by_precision_and_say_the_largest_noise_of_any_value() -> None:
    both = together(found(30.0, a=900.0, b=400.0), found(40.0, a=950.0, b=350.0))
    assert both.values == ("a", "b") and both.sigma == pytest.approx(24.0)
    assert both.counts == pytest.approx([0.64 * 900 + 0.36 * 950, 0.64 * 400 + 0.36 * 350])
    assert together(found(30.0, a=900.0, b=400.0), found(90.0, a=900.0)).sigma == 30.0  # b by the first alone
    assert together(found(30.0, a=900.0), found(10.0, a=900.0, c=60.0)).sigma == 10.0  # c by the second alone


def test_the_looks_noise_is_what_it_is_said_to_be() -> None:
    rng = np.random.default_rng(2)
    drawn = [
        together(found(30.0, a=1000 + rng.normal(0, 30)), found(40.0, a=1000 + rng.normal(0, 40))).counts[0]
        for _ in range(4000)
    ]
    assert np.std(drawn) == pytest.approx(24.0, rel=0.06)


@pytest.mark.parametrize(
    ("votes", "kind"),  # missing, numbers, dates, labels, texts, with noise of sd 1
    [
        ((9, 900, 3, -2, 1), "numeric"),
        ((0, 1, 900, -3, 2), "datetime"),
        ((0, 900, 0, 300, 0), "categorical"),
        ((0, 2, 0, 100, 400), "text"),
        ((0, 8, 1, 2, -1), "numeric"),  # few rows: the others may be noise
        ((0, 2, -1, 4, 0), "categorical"),  # labels lead, whatever noise takes off the sum
        ((90, 3, 1, 2, 3), None),
    ],
)
def test_the_kind_of_strings_is_what_stands_out_of_the_noise(votes: tuple[float, ...], kind: str | None) -> None:
    assert kind_of(Measurement(values=np.array(votes, float), sigma=1.0)) == kind


@pytest.mark.parametrize(
    ("declared", "recurring", "written", "released"),
    [
        (False, 0.2, True, False),
        (False, 1.0, False, False),
        (False, 0.2, False, True),  # all but the frequent texts are left empty
        (True, 1.0, True, True),
        (None, 1.0, True, True),
    ],
)
def test_texts_that_are_declared_to_be_there_are_released_as_such_where_none_is_left_empty(
    declared: bool | None, recurring: float, written: bool, released: bool
) -> None:
    codec = Codec(LabelCells("note", ("as before",)), np.array([recurring, 1 - recurring, 0.0]), np.array([0, 1, 1]))
    column = Column("note", "text", nullable=declared)
    assert filled_in(column, codec, None, written=written).nullable is released

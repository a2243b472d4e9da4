"""Public rules, and the choice among drafts."""

from __future__ import annotations

import numpy as np
import pytest

from dpsynth.encode.cells import LabelCells
from dpsynth.models.language.embedding import Projection
from dpsynth.models.language.guide import Groups, Guide
from dpsynth.models.language.selection import chosen, cleaned
from dpsynth.models.language.shapes import SIZE, ShapeOf, shape_of


def guide(counts: list[float], sums: np.ndarray, sigma: float, names: np.ndarray | None = None) -> Guide:
    labels = tuple(f"l{i}" for i in range(len(counts) - 2))
    shapes = np.zeros(ShapeOf("note").size)
    shapes[shape_of("why is it so?")] = 100.0
    return Guide(
        column="note",
        groups=Groups(cells=(LabelCells("label", labels),), counts=np.array(counts)),
        shapes=shapes,
        shape_sigma=1.0,
        words=(),
        word_counts=np.zeros((len(counts), 0)),
        word_sigma=1.0,
        projection=Projection(np.zeros(384, np.float32), np.eye(384, sums.shape[1], dtype=np.float32)),
        sums=sums,
        sum_sigma=sigma,
        names=np.zeros(sums.shape, np.float32) if names is None else names,
    )


@pytest.mark.parametrize(
    "text, found",
    [
        ("  Where is\x00 my card? ", "Where is my card?"),
        ('"Quoted."', "Quoted."),
        ("", None),
        ("?!...", None),
        ("no no no no no no no no", None),
        ("a" * 30, None),
        ("My card. Words: fee, rate", None),
    ],
)
def test_public_rules(text: str, found: str | None) -> None:
    assert cleaned(text) == found


def test_a_text_that_did_not_end_loses_what_follows_its_last_sentence() -> None:
    assert cleaned("It came. And then it", ended=False) == "It came."
    assert cleaned("and then it", ended=False) is None and cleaned("and then it") == "and then it"


def test_texts_go_where_they_belong_each_once_and_in_wanted_shapes() -> None:
    of = guide([50, 50, 0, 0], np.eye(4)[:, :3] * 50, 0.1)
    near = np.tile([[0.9, 0.1, -1, -1]], (20, 1))
    near[::2] = [0.1, 0.9, -1, -1]
    wanted = shape_of("why is it so?")
    shapes = np.where(np.arange(20) % 4 < 2, wanted, 0)
    asked = np.array([0, 1, 1, 0, 0])
    taken = chosen(asked, np.zeros(20, np.int64), near, shapes, of, np.random.default_rng(0))
    assert len(set(taken.tolist())) == 5
    assert (taken % 2 == 1 - asked).all(), "odd texts lie at the first group, whatever they were written for"
    assert (shapes[taken] == wanted).all()


def test_a_group_without_texts_of_its_own_takes_the_nearest() -> None:
    of = guide([50, 50, 0, 0], np.eye(4)[:, :3] * 50, 0.1)
    near = np.array([[0.9, 0.1, -1, -1], [0.9, 0.7, -1, -1], [0.9, 0.2, -1, -1]])
    taken = chosen(np.array([1]), np.zeros(3, np.int64), near, np.zeros(3, np.int64), of, np.random.default_rng(0))
    assert taken.tolist() == [1]
    everything = chosen(
        np.array([1, 1, 0, 0]), np.zeros(3, np.int64), near, np.zeros(3, np.int64), of, np.random.default_rng(0)
    )
    assert sorted(set(everything.tolist())) == [0, 1, 2]


def test_a_centroid_is_drawn_to_its_groups_name_where_noise_hides_it() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(42, 16))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    names = (truth + 0.15 * rng.normal(size=truth.shape)).astype(np.float32)
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    noisy = 20 * truth + rng.normal(0, 30, truth.shape)
    clear = 20 * truth + rng.normal(0, 0.1, truth.shape)
    counts = [20.0] * 42

    def right(of: Guide) -> float:
        return float((of.centroids * truth).sum(axis=1).mean())

    assert right(guide(counts, noisy, 30.0, names)) > right(guide(counts, noisy, 30.0)) + 0.15
    assert right(guide(counts, clear, 0.1, names)) > 0.99


def test_blank_texts_are_told_from_noise() -> None:
    of = guide([50, 50, 0, 0], np.eye(4)[:, :3], 0.1)
    of.shapes[SIZE] = 3.0
    assert of.blank_share == 0.0
    of.shapes[SIZE] = 25.0
    assert of.blank_share == pytest.approx(0.2)

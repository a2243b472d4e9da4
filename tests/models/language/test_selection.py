"""Public rules, and the choice among drafts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dpsynth.encode.cells import LabelCells
from dpsynth.models.language.embedding import Projection
from dpsynth.models.language.guide import Groups, Guide
from dpsynth.models.language.selection import chosen, cleaned, first
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


def at(*rows: list[float]) -> np.ndarray:
    """Embeddings with these first numbers."""
    out = np.zeros((len(rows), 384), np.float32)
    out[:, : len(rows[0])] = rows
    return out


def test_texts_go_where_they_belong_each_once_and_in_wanted_shapes() -> None:
    of = guide([50, 50, 0, 0], np.eye(4)[:, :3] * 50, 0.1)
    places = at(*[[0.1, 0.9, 0], [0.9, 0.1, 0]] * 10)
    texts = [
        "why is it so?" if i % 4 < 2 else "It is so much longer than is wanted here, and ends in a stop."
        for i in range(20)
    ]
    asked = np.array([0, 1, 1, 0, 0])
    taken = chosen(asked, np.zeros(20, np.int64), texts, places, of, np.random.default_rng(0))
    assert len(set(taken.tolist())) == 5
    assert (taken % 2 == 1 - asked).all(), "odd texts lie at the first group, whatever they were written for"
    assert all(texts[i] == "why is it so?" for i in taken)


def test_the_chosen_have_the_means_that_were_bought_not_only_the_direction() -> None:
    rng = np.random.default_rng(0)
    mean = np.array([0.4, 0.3, 0.0])  # far within the sphere: the group's texts differ among themselves
    of = guide([400, 0, 0], np.array([mean * 400, np.zeros(3), np.zeros(3)]), 0.1)
    drafts = rng.normal(size=(600, 3)) * [1, 1, 1] + [1.0, 0, 0]
    places = at(*(drafts / np.linalg.norm(drafts, axis=1, keepdims=True)).tolist())
    taken = chosen(
        np.zeros(100, np.int64), np.zeros(600, np.int64), ["why is it so?"] * 600, places, of, np.random.default_rng(0)
    )
    assert len(set(taken.tolist())) == 100
    assert np.abs(places[taken, :3].mean(axis=0) - mean).max() < 0.01
    assert np.abs(places[:100, :3].mean(axis=0) - mean).max() > 0.1, "any hundred of them would not do"


def test_words_are_matched_to_their_noisy_counts() -> None:
    of = replace(
        guide([100, 0, 0], np.zeros((3, 3)), 0.1), words=("fee", "rate"), word_counts=np.array([[80.0, 20], [0, 0], [0, 0]])
        * 6**0.5, word_sigma=1.0,
    )  # fmt: skip
    texts = ["why is the fee so?", "why is the rate so?"] * 100
    taken = chosen(
        np.zeros(50, np.int64), np.zeros(200, np.int64), texts, at(*[[0.0] * 3] * 200), of, np.random.default_rng(0)
    )
    assert sum(texts[i] == texts[0] for i in taken) == pytest.approx(40, abs=1)


def test_the_better_of_texts_that_fit_alike_are_taken_and_means_are_kept() -> None:
    rng = np.random.default_rng(0)
    mean = np.array([0.4, 0.3, 0.0])
    of = guide([400, 0, 0], np.array([mean * 400, np.zeros(3), np.zeros(3)]), 0.1)
    drafts = rng.normal(size=(600, 3)) * [1, 1, 1] + [1.0, 0, 0]
    places = at(*(drafts / np.linalg.norm(drafts, axis=1, keepdims=True)).tolist())
    marks = rng.normal(-3.0, 0.1, 600)  # whatever their unit

    def taken(weight: float) -> np.ndarray:
        return chosen(
            np.zeros(100, np.int64), np.zeros(600, np.int64), ["why is it so?"] * 600, places, of, np.random.default_rng(0),
            marks=marks, weight=weight,
        )  # fmt: skip

    assert abs((marks[taken(0.0)] + 3).mean()) < 0.02, "without weight they say nothing"
    better = taken(1.0)
    assert len(set(better.tolist())) == 100 and (marks[better] + 3).mean() > 0.08
    assert np.abs(places[better, :3].mean(axis=0) - mean).max() < 0.05
    assert np.abs(places[np.argsort(-marks)[:100], :3].mean(axis=0) - mean).max() > 0.1, "the best hundred would not do"
    level = np.full(600, -3.0)
    assert (
        chosen(
            np.zeros(100, np.int64), np.zeros(600, np.int64), ["why is it so?"] * 600, places, of, np.random.default_rng(0),
            marks=level, weight=1.0,
        ) == taken(0.0)
    ).all()  # fmt: skip


def test_a_group_without_texts_of_its_own_takes_the_nearest() -> None:
    of = guide([50] * 6 + [0, 0], np.eye(8)[:, :6] * 50, 0.1)
    places = at([0.9, 0.3, 0.3, 0.3, 0.1, 0], [0.9, 0.3, 0.3, 0.3, 0.2, 0], [0.9, 0.3, 0.3, 0.3, 0.0, 0])
    texts = ["why is it so?"] * 3
    taken = chosen(np.array([4]), np.zeros(3, np.int64), texts, places, of, np.random.default_rng(0))
    assert taken.tolist() == [1]
    everything = chosen(np.array([4, 4, 0, 0]), np.zeros(3, np.int64), texts, places, of, np.random.default_rng(0))
    assert sorted(set(everything.tolist())) == [0, 1, 2]


def test_without_a_choice_each_row_gets_a_text_of_its_own_group() -> None:
    wanted, made_for = np.array([2, 0, 2, 0, 1]), np.array([0, 2, 0, 2, 2])
    assert first(wanted, made_for).tolist()[:4] == [1, 0, 3, 2]
    assert first(np.array([0, 0, 0]), made_for).tolist() == [0, 2, 0]


def test_many_texts_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpsynth.models.language.selection._PART", 7)
    of = guide([50, 0, 0], np.eye(3) * 50, 0.1)
    taken = chosen(
        np.zeros(30, np.int64), np.zeros(40, np.int64), ["why is it so?"] * 40, at(*[[1.0, 0, 0]] * 40), of,
        np.random.default_rng(0),
    )  # fmt: skip
    assert len(set(taken.tolist())) == 30


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
    assert of.blank_share == pytest.approx(0.25), "of the hundred that are to be written"
    of.shapes[:SIZE] += np.random.default_rng(0).normal(0, 5, SIZE)
    assert of.blank_share == pytest.approx(0.25), "noise in the other shapes does not add up"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("write to anna.schmidt@gmail.com please", False),
        ("write to anna.schmidt@example.com please", True),
        ("write to <EMAIL_ADDRESS_1> please", True),
        ("write to <EMAIL_ADDRESS_1>@gmail.com please", False),
        ("my card 4539 1488 0343 6467 was declined", False),
        ("my card <CREDIT_CARD_1> was declined", True),
    ],
)
def test_a_text_with_an_identifier_that_could_be_somebodys_is_refused(text: str, kept: bool) -> None:
    """A language model can make one up, and the gate lets no such text out."""
    assert (cleaned(text) is not None) == kept

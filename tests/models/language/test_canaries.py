"""Canaries: secrets planted once among the rows. Under DP-SGD the model knows them no better than secrets that it never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpsynth.models.language import pretrained
from dpsynth.models.language.guide import Groups
from dpsynth.models.language.prompt import Prompt
from dpsynth.models.language.tuning import Part, Reading, tuned_prompt
from dpsynth.privacy.accounting import Cost
from dpsynth.privacy.budget import Account, Reserve
from dpsynth.privacy.dpsgd.plan import Training
from dpsynth.privacy.dpsgd.rows import TrainingRows
from dpsynth.privacy.dpsgd.trainer import PrivateTrainer
from dpsynth.privacy.noise import Noise
from tests.models.language.test_tuning import strings

CANARIES, ROWS, RATE, STEPS = 32, 150, 0.25, 120
ALPHA = 1e-4  # a false alarm in 10,000 runs; the test without noise shows that it still has power
SAMPLES = 20_000
WHOLE = Part((np.ones(1),), 1.0)


def secrets(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(map(str, rng.integers(0, 10, 10))) for _ in range(n)]


def losses_after(tiny: str, noise_multiplier: float, samples: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(losses of the planted secrets, of as many others, so many texts that the model writes)."""
    rng = np.random.default_rng(1)
    texts = [f"my {rng.choice(['card', 'fee', 'refund'])} is {rng.choice(['late', 'wrong'])}" for _ in range(ROWS)]
    planted, others = secrets(CANARIES, 2), secrets(CANARIES, 3)
    assert not set(planted) & set(others)
    prompt = tuned_prompt(Prompt(subject="", description="Notes", examples=()), "note")
    lm = pretrained.own_language_model(tiny, "cpu")
    lm.model.requires_grad_(True)
    reading = Reading.of(lm, [prompt], [Groups(cells=(), counts=np.ones(1))], (), 2, 16, [frozenset()])
    plan = Training(
        sampling_rate=RATE, steps=STEPS, noise_multiplier=noise_multiplier, expected_batch=RATE * (ROWS + CANARIES)
    )
    n = ROWS + CANARIES
    rows = TrainingRows(
        {"text 0": reading.texts[0].encode(strings([*texts, *planted]))}, np.arange(n), max_rows=1,
        account=Account(Reserve(adaptive=Cost(), planned=(plan.event,))), noise=Noise(),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        PrivateTrainer(
            lm.model, torch.optim.Adam(lm.model.parameters(), lr=0.01), reading.loss(WHOLE, "cpu"), plan=plan, rows=rows,
            probe=reading.probe(len(lm.tokenizer), WHOLE, "cpu"), micro_batch=64,
        ).run()  # fmt: skip
        lm.model.eval()
        loss = reading.loss(WHOLE, "cpu")
        with torch.no_grad():
            found = [
                loss(lm.model, {"text 0": torch.from_numpy(reading.texts[0].encode(strings(list(t))))}).numpy()
                for t in (planted, others)
            ]
            head = [*reading.heads[0][0], *lm.tokenizer("Words: \nText:").input_ids]
            drawn = lm.model.generate(
                torch.tensor([head]).repeat(samples, 1), do_sample=True, max_new_tokens=14, pad_token_id=0
            )
    return found[0], found[1], lm.tokenizer.batch_decode(drawn[:, len(head) :], skip_special_tokens=True)


def p_value(planted: np.ndarray, others: np.ndarray) -> float:
    """Of a permutation test: planted secrets have no lower loss than others."""
    pooled, rng = np.concatenate([planted, others]), np.random.default_rng(0)
    seen = planted.mean() - others.mean()
    moved = rng.permuted(np.tile(pooled, (20_000, 1)), axis=1)
    differences = moved[:, :CANARIES].mean(1) - moved[:, CANARIES:].mean(1)
    return float((1 + (differences <= seen).sum()) / (1 + len(differences)))


@pytest.mark.slow
def test_under_dp_planted_secrets_are_as_unknown_as_others(tiny: str) -> None:
    noise = 6.0
    planted, others, written = losses_after(tiny, noise, SAMPLES)
    plan = Training(sampling_rate=RATE, steps=STEPS, noise_multiplier=noise, expected_batch=1.0)
    assert 1 < Reserve(adaptive=Cost(), planned=(plan.event,)).epsilon(1e-5) < 4
    assert p_value(planted, others) > ALPHA
    assert not any(secret in text for text in written for secret in secrets(CANARIES, 2))


@pytest.mark.slow
def test_without_noise_to_speak_of_they_are_told_apart(tiny: str) -> None:
    planted, others, _ = losses_after(tiny, 1e-3, 1)
    assert p_value(planted, others) < ALPHA

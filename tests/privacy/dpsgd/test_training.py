"""A training: charged before a row is touched, noise as booked, batches by coins, and sums no longer than one unit may add."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpsynth.privacy.accounting import Cost, cost_of
from dpsynth.privacy.audit import Recorder
from dpsynth.privacy.budget import Account, Reserve, budget_of
from dpsynth.privacy.dpsgd.batch import Rows
from dpsynth.privacy.dpsgd.plan import MARGIN, Training
from dpsynth.privacy.errors import ModelError, PrivacyError
from dpsynth.privacy.events import Gaussian
from dpsynth.privacy.meaning import profile
from tests.privacy.dpsgd.tables import ENCODINGS, PLAN, handle, probe, squares, table, trainer, weights

EPSILON, DELTA = 1.0, 1e-6


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_a_calibrated_plan_fits_its_budget_with_what_stands_beside_it_and_no_less() -> None:
    beside = Cost(mu_squared=0.2 * budget_of(EPSILON, DELTA).mu_squared, delta=1e-7)
    plan = Training.calibrated(epsilon=EPSILON, delta=DELTA, units=10_000, expected_batch=500, steps=300, beside=beside)
    run = Reserve(adaptive=beside, planned=(plan.event,))
    assert 0.998 * EPSILON < run.epsilon(DELTA) <= EPSILON
    less = Reserve(adaptive=beside, planned=(replace(plan, noise_multiplier=0.98 * plan.noise_multiplier).event,))
    assert less.epsilon(DELTA) > EPSILON
    # Adaptive queries in pieces, and the training, recompute to no more than the plan.
    piece = Gaussian(stage="s", label="l", sensitivity=math.sqrt(beside.mu_squared / 4), sigma=1.0)
    assert profile((piece, piece, plan.event, piece, piece)).epsilon(DELTA - beside.delta) <= EPSILON
    assert run.cost.epsilon(DELTA) >= run.epsilon(DELTA)  # what adds up in the ledger is never below


def test_a_capped_batch_is_planned_at_six_deviations_and_costs_next_to_nothing() -> None:
    kwargs = {"epsilon": EPSILON, "delta": DELTA, "units": 10_000, "expected_batch": 500, "steps": 300}
    free, capped = Training.calibrated(**kwargs), Training.calibrated(**kwargs, units_at_most=12_000)
    assert capped.max_batch == math.ceil(600 + 6 * math.sqrt(600 * 0.95))
    assert free.noise_multiplier <= capped.noise_multiplier <= 1.01 * free.noise_multiplier


@pytest.mark.parametrize(
    "wrong",
    [
        {"clipping_norm": 0.0},
        {"expected_batch": math.nan},
        {"steps": 0},
        {"sampling_rate": 1.5},
        {"noise_multiplier": 1e4},
    ],
)
def test_impossible_plans_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PrivacyError):
        replace(PLAN, **wrong)


# -- the charge --------------------------------------------------------------------------------------------------------


def test_the_whole_training_is_charged_before_the_first_row_is_touched() -> None:
    private = table()
    seen: list[int] = []

    def loss(model: nn.Module, rows: Rows) -> Tensor:
        seen.append(len(private.account.events))
        return squares(model, rows)

    trained = trainer(private.training_rows(ENCODINGS), loss=loss)
    steps = trained.steps()
    assert private.account.events == () and not seen
    assert list(steps) == [1, 2, 3]
    assert private.account.events == (PLAN.event,)
    assert seen[0] == 0 and seen[-1] == 1  # first on the probe, then on rows that were paid for


def test_a_training_that_was_not_planned_is_refused_and_none_happens_twice() -> None:
    unplanned = table(account=Account(Cost(mu_squared=100.0, delta=0.1)))
    with pytest.raises(PrivacyError, match="must be planned"):
        trainer(unplanned.training_rows(ENCODINGS)).run()
    rows = handle()
    trained = trainer(rows)
    trained.run()
    with pytest.raises(PrivacyError, match="taken once"):
        trained.run()
    with pytest.raises(PrivacyError, match="must be planned"):
        trainer(rows).run()
    with pytest.raises(PrivacyError, match="must be planned"):
        trainer(handle(), replace(PLAN, noise_multiplier=0.9)).run()


def test_planned_events_leave_the_allowance_for_gaussian_queries_alone() -> None:
    account = Account(Reserve(adaptive=Cost(mu_squared=1.0), planned=(PLAN.event,)))
    account.charge(PLAN.event)
    assert account.left.mu_squared == 1.0
    account.charge(Gaussian(stage="s", label="l", sensitivity=1.0, sigma=1.0))
    with pytest.raises(PrivacyError, match="would pass"):
        account.charge(Gaussian(stage="s", label="l", sensitivity=0.1, sigma=1.0))
    assert cost_of(account.events).mu_squared == pytest.approx(1.0 + cost_of([PLAN.event]).mu_squared)


# -- the door ----------------------------------------------------------------------------------------------------------


def test_the_handle_shows_names_types_and_shapes_alone() -> None:
    rows = handle()
    assert rows.layout == {"a": ("float32", ()), "b": ("float32", ())}
    assert "private" in repr(rows) and "100" not in repr(rows)
    with pytest.raises(PrivacyError, match="pickled"):
        pickle.dumps(rows)
    public = {name for name in dir(rows) if not name.startswith("_")}
    assert public == {"layout", "max_rows", "insecure"}


# -- batches -----------------------------------------------------------------------------------------------------------


def test_each_unit_is_in_a_batch_with_the_planned_chance_by_itself() -> None:
    rows = handle(n=300)
    drawn = np.zeros((400, 300), bool)
    for i in range(400):
        drawn[i, rows._sample(PLAN)] = True
    assert abs(drawn.mean() - 0.2) < 5 * math.sqrt(0.16 / drawn.size)
    together = (drawn[:, 0:-1] & drawn[:, 1:]).mean()
    assert abs(together - 0.04) < 5 * math.sqrt(0.04 / drawn.size)
    assert drawn.sum(axis=1).std() == pytest.approx(math.sqrt(300 * 0.16), rel=0.2)  # Poisson batches vary


def test_every_row_of_every_chosen_unit_is_there_once_and_weighs_one_over_its_units_rows() -> None:
    units = np.repeat(np.arange(40), np.random.default_rng(1).integers(1, 8, 40))
    rows = handle(n=len(units), units=units, max_rows=5)
    counts = np.minimum(np.bincount(units), 5)
    for most in (1, 4, 16, 1000):
        total = 0.0
        seen: list[float] = []
        for part in rows._batches(np.arange(0, 40, 2), most):
            assert part.weights.size <= max(most, 8)
            flat = part.weights.reshape(-1)
            assert set(np.round(part.weights.sum(1), 5)) <= {0.0, 1.0}
            seen += part.rows["a"][flat > 0].tolist()
            total += float(flat.sum())
        assert total == pytest.approx(20)
        assert len(seen) == len(set(seen)) == counts[::2].sum()


def test_a_cut_batch_is_moved_by_one_unit_at_most() -> None:
    plan = replace(PLAN, sampling_rate=0.5, max_batch=20, units_at_most=150)
    for seed in range(30):
        one = set(handle(n=100, seed=seed)._sample(plan))
        more = set(handle(n=101, seed=seed)._sample(plan))  # the same coins and lots, and those of one unit more
        assert len(one) == len(more) == 20
        assert len(more - one) <= 1 and more - one <= {100}
    with pytest.raises(PrivacyError, match="more units than"):
        handle(n=151)._sample(plan)


# -- a step ------------------------------------------------------------------------------------------------------------


class Sums:
    """A witness that keeps the exact sums."""

    def __init__(self) -> None:
        self.exact: list[np.ndarray] = []
        self.noisy: list[np.ndarray] = []

    def answer(self, label: str, exact: np.ndarray, sensitivity: float, noisy: np.ndarray) -> np.ndarray:
        self.exact.append(exact * PLAN.grid)
        self.noisy.append(noisy * PLAN.grid)
        return noisy

    def vocabulary(self, *args: object) -> object:
        raise AssertionError


def test_a_step_is_the_clipped_sum_with_noise_over_the_expected_batch() -> None:
    witness = Sums()
    plan = replace(PLAN, steps=1, sampling_rate=1.0)
    rows = handle(plan=plan, witness=witness)
    trained = trainer(rows, plan)
    before = weights(trained)
    model = trained._model
    by_hand = torch.zeros(2, dtype=torch.float64)
    a, b = (torch.from_numpy(rows._arrays[k]) for k in "ab")
    for i in range(100):
        own = torch.autograd.grad(squares(model, {"a": a[i : i + 1], "b": b[i : i + 1]})[0], list(model.parameters()))
        flat = torch.cat([g.flatten().double() for g in own])
        by_hand += flat * min(1.0, plan.limit / float(flat.norm()))
    trained.run()
    assert np.allclose(witness.exact[0], by_hand.numpy(), rtol=1e-5)
    moved = (weights(trained) - before).double().numpy()
    assert np.allclose(moved, -0.1 * witness.noisy[0] / plan.expected_batch, rtol=1e-4, atol=1e-7)


def test_the_noise_has_the_scale_that_was_booked() -> None:
    witness = Sums()
    plan = replace(PLAN, steps=1500, noise_multiplier=2.0)
    trainer(handle(plan=plan, witness=witness), plan, rate=0.0).run()
    noise = np.concatenate(witness.noisy) - np.concatenate(witness.exact)
    ratio = noise.std() / plan.sigma
    assert abs(ratio - 1) < 5 / math.sqrt(2 * noise.size) < 0.1


def test_an_empty_batch_is_noise_alone() -> None:
    witness = Sums()
    plan = replace(PLAN, sampling_rate=1e-12)
    trainer(handle(plan=plan, witness=witness), plan).run()
    assert all((e == 0).all() for e in witness.exact) and all((n != 0).all() for n in witness.noisy)


def test_broken_rows_add_nothing_and_masked_rows_do_no_harm() -> None:
    made = np.random.default_rng(2).normal(size=60)
    witness, clean = Sums(), Sums()
    plan = replace(PLAN, sampling_rate=1.0, steps=1)

    def breaking(model: nn.Module, rows: Rows) -> Tensor:
        return squares(model, rows) / (rows["a"] != 3.5).float()  # 1/0 for some rows

    columns = {"a": np.append(made, [3.5, 3.5]), "b": np.append(2 * made, [1.0, 2.0])}
    trainer(handle(plan=plan, witness=witness, columns=columns), plan, loss=breaking).run()
    trainer(handle(plan=plan, witness=clean, columns={"a": made, "b": 2 * made}), plan).run()
    assert np.allclose(witness.exact[0], clean.exact[0], rtol=1e-5)


def test_where_memory_runs_out_the_micro_batch_is_halved_and_the_sum_is_the_same() -> None:
    plan = replace(PLAN, sampling_rate=1.0, steps=2)
    sums = {}
    for limit in (1000, 7):
        witness = Sums()

        def greedy(model: nn.Module, rows: Rows, limit: int = limit) -> Tensor:
            if len(rows["a"]) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return squares(model, rows)

        trained = trainer(handle(plan=plan, witness=witness), plan, loss=greedy, clipping="loop", micro_batch=1000)
        if limit == 7:  # the preflight needs 8 rows: give it a model that holds them
            trained._check = lambda t=trained: setattr(t, "_clipper", clip(t))  # type: ignore[method-assign, misc]
        trained.run()
        sums[limit] = np.concatenate(witness.exact)
    assert np.allclose(sums[7], sums[1000], rtol=1e-6)
    with pytest.raises(ModelError, match="do not fit into memory"):
        trained = trainer(handle(plan=plan), plan, loss=out_of_memory, micro_batch=8)
        trained._check = lambda: setattr(trained, "_clipper", clip(trained))  # type: ignore[method-assign]
        trained.run()


def clip(trained: object) -> object:
    from dpsynth.privacy.dpsgd.clipping import clipper

    return clipper("ghost", trained._model)  # type: ignore[attr-defined]


def out_of_memory(model: nn.Module, rows: Rows) -> Tensor:
    raise RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
    )


def test_an_error_on_private_rows_tells_its_kind_alone() -> None:
    def telling(model: nn.Module, rows: Rows) -> Tensor:
        if (rows["a"] == 3.25).any():
            raise IndexError("index 3.25 is out of range")
        return squares(model, rows)

    plan = replace(PLAN, sampling_rate=1.0)
    rows = handle(plan=plan, columns={"a": np.array([3.25, 1.0]), "b": np.array([0.0, 1.0])})
    with pytest.raises(ModelError, match="IndexError") as caught:
        trainer(rows, plan, loss=telling).run()
    assert "3.25" not in str(caught.value) and caught.value.__cause__ is None and caught.value.__context__ is None


def test_one_unit_more_moves_no_sum_by_more_than_the_clipping_norm() -> None:
    """Neighbour replay with rows that are far too large, in units of up to three rows."""
    rng = np.random.default_rng(8)
    units = np.repeat(np.arange(61), rng.integers(1, 4, 61))
    columns = {"a": rng.normal(size=len(units)) * 3, "b": rng.normal(size=len(units)) * 100}
    plan = replace(PLAN, steps=20, sampling_rate=0.5)

    def run(kept: np.ndarray, witness: object) -> None:
        part = {k: v[kept] for k, v in columns.items()}
        rows = handle(plan=plan, columns=part, units=units[kept], max_rows=2, witness=witness)
        trainer(rows, plan).run()

    first = Recorder()
    run(units >= 0, first)
    second = first.replay()
    run(units < 60, second)
    assert len(second.comparisons) == 20 and all(c.holds for c in second.comparisons)
    largest = max(c.distance / c.sensitivity for c in second.comparisons)
    assert 1 - 2 * MARGIN < largest <= 1  # the bound is reached: a wrong factor would be seen


# -- learning ----------------------------------------------------------------------------------------------------------


def test_it_learns_and_the_average_of_the_weights_is_calmer() -> None:
    plan = replace(PLAN, steps=150, sampling_rate=0.05, expected_batch=100, noise_multiplier=2.0)
    trained = trainer(
        handle(n=2000, plan=plan), plan, rate=0.5, average=0.95, schedule=lambda step: 1.0 if step < 100 else 0.5
    )
    trained.run()
    assert weights(trained)[0] == pytest.approx(2, abs=0.3)
    last = weights(trained)
    with trained.averaged():
        assert weights(trained)[0] == pytest.approx(2, abs=0.15)
        assert not torch.equal(weights(trained), last)
    assert torch.equal(weights(trained), last)


def test_a_large_batch_leaves_more_to_rounding() -> None:
    few, many = replace(PLAN, expected_batch=100.0), replace(PLAN, expected_batch=102_400.0)
    assert few.limit == PLAN.clipping_norm * (1 - MARGIN) and many.margin == pytest.approx(10 * MARGIN)


def test_the_optimizer_holds_what_learns() -> None:
    from tests.privacy.dpsgd.tables import Line

    model = Line()
    with pytest.raises(ModelError, match="just the model's parameters"):
        trainer(handle(), model=model, optimizer=torch.optim.SGD([model.line.weight], lr=0.1))
    with pytest.raises(ModelError, match="names and shapes"):
        trainer(handle(), probe=lambda n: {"a": probe(n)["a"]}).run()


@pytest.mark.parametrize("seed", [None, 3])
def test_random_numbers_of_model_and_augment_are_fresh_but_under_a_tests_seed(seed: int | None) -> None:
    """Power: were their seed known, a row more would change the numbers of all rows after it, and no clipping bounds that."""

    def drawn() -> tuple[list[float], float]:
        seen: list[float] = []

        def augment(rows: Rows) -> Rows:
            seen.append(float(torch.rand(())))
            return rows

        trained = trainer(handle(seed=seed), augment=augment)
        torch.manual_seed(7)
        trained.run()
        return seen[-3:], float(torch.rand(()))  # of the three steps

    (first, left), (second, left_again) = drawn(), drawn()
    assert (first == second) is (seed is not None) and len(set(first + second)) == (3 if seed is not None else 6)
    assert left == left_again, "a caller's own numbers stay his"

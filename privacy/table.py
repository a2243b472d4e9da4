"""The one door to private rows.

`PrivateTable` hands out nothing raw: each question comes back as a *measurement*, a noisy answer together with the scale
of its noise, and is charged to the run's account before the rows are touched. What a question may cost is given as its
share of the run's squared Gaussian-DP parameter (`mu_squared`); the noise follows from that and the sensitivity.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dpsynth.privacy.accounting import pure_of_mu
from dpsynth.privacy.budget import Account
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import AboveThreshold, Event, Gaussian, Leaf, StabilityHistogram
from dpsynth.privacy.noise import Noise
from dpsynth.privacy.source import Coding, CountingSource, Encoding, FloatArray, IntArray, Rewrite, Vectors

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from dpsynth.privacy.dpsgd.rows import TrainingRows
    from dpsynth.privacy.dpsgd.trainer import StepJournal

# Cells of exact tables that are held at a time, 8 bytes each.
BATCH_CELLS = 2**21


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measurement:
    """Noisy counts in units (a unit's rows add up to at most 1): values of any shape, each with noise of sd `sigma`."""

    values: FloatArray
    sigma: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Vocabulary:
    """Values that enough units hold, with noisy counts in units; noise of sd `sigma`, nothing below `threshold`."""

    values: tuple[object, ...]
    counts: FloatArray
    sigma: float
    threshold: float


class Witness(Protocol):
    """Sees exact answers, in tests alone: how a neighbour replay checks sensitivities (see `audit`)."""

    def answer(self, label: str, exact: IntArray, sensitivity: float, noisy: IntArray) -> IntArray:
        """Called with each exact and noisy answer; returns the noisy answer to go on with."""

    def vocabulary(
        self, label: str, exact: Mapping[object, int], sensitivity: float, released: Vocabulary
    ) -> Vocabulary:
        """The same for a stability histogram."""


class Kept(Protocol):
    """What a run has bought so far, on disk, so that it can be taken up again; see `ledger.RunFolder`."""

    def once(self, events: Sequence[Event], draw: Callable[[], list[list[Any]]]) -> list[list[Any]]:
        """The stored answers to a call's events, or those that are drawn now, once they are stored. JSON values."""

    def training(self, label: str) -> tuple[StepJournal, Path]:
        """(journal of a training's steps, path of its checkpoint)."""


class PrivateTable:
    """Private rows behind an account: every answer is noisy and paid for.

    kept: where the run's answers are kept; those that it has already are given again, and no rows are touched for them.

    Guarantee: everything this object returns is differentially private under add/remove of one unit, at the cost booked
    in `account` (Gaussian-DP filter plus the deltas of the stability histograms).
    """

    def __init__(
        self,
        source: CountingSource,
        *,
        account: Account,
        noise: Noise,
        witness: Witness | None = None,
        kept: Kept | None = None,
    ) -> None:
        if witness is not None and not noise.insecure:
            raise PrivacyError("exact answers are shown to a test only, under an insecure seed")
        self._source, self._noise, self._witness = source, noise, witness
        self.account, self.kept = account, kept

    def __repr__(self) -> str:
        return f"PrivateTable({len(self.names)} columns, {self.account!r})"

    @property
    def names(self) -> tuple[str, ...]:
        return self._source.names

    @property
    def unit(self) -> str | None:
        return self._source.unit

    @property
    def max_rows(self) -> int:
        return self._source.max_rows

    @property
    def insecure(self) -> bool:
        return self._noise.insecure

    def rewrite(self, column: str, function: Rewrite) -> None:
        """Replace each string of a column by a function of that string alone. Free: rows stay apart."""
        self._source.rewrite(column, function)

    def training_rows(self, encodings: Mapping[str, Encoding]) -> TrainingRows:
        """The rows, encoded, behind a handle that only `privacy.dpsgd` opens; by the names that the model's loss uses.

        Free: nothing can be read from the handle but names, types and shapes. A training charges the account before it samples
        from it.
        """
        from dpsynth.privacy.dpsgd.rows import TrainingRows

        arrays, units = self._source.encoded(encodings)
        return TrainingRows(
            arrays, units, max_rows=self.max_rows, account=self.account, noise=self._noise, witness=self._witness
        )

    def counts(
        self, queries: Sequence[Sequence[Coding]], *, mu_squared: float, stage: str, labels: Sequence[str]
    ) -> list[Measurement]:
        """Noisy contingency tables, one for each set of codings, flat in C order; the budget is shared equally.

        Sensitivity: a unit's rows weigh at most `scale` together, so each table moves by at most `scale` in L2.
        """
        sigma = self._sigma(self._source.scale, mu_squared / max(len(queries), 1))
        events = [self._charge_gaussian(stage, label, self._source.scale, sigma) for label in labels]
        return self._noisy(events, lambda: self._source.count(queries))

    def distances(
        self,
        queries: Sequence[Sequence[Coding]],
        targets: Iterable[FloatArray],
        *,
        weights: IntArray | csr_array[Any],
        mu_squared: float,
        stage: str,
        label: str,
    ) -> Measurement:
        """Noisy weighted sums of L1 distances between private tables and public ones.

        queries: Q sets of codings.  targets: Q public tables in units, flat in C order; taken a few at a time, so that they may
        be made as they are needed.  weights: integers >= 0 of shape (G, Q), dense or sparse; answer g is sum_q weights[g, q] |exact_q - target_q|_1 (in units).  Returns G values.

        Sensitivity: one unit moves each table by at most `scale` in L1, so each distance by at most `scale`; answer g by
        at most scale * sum_q weights[g, q], and all together by the root of the sum of their squares in L2. Targets are
        rounded to integers on the counts' grid, so the answers are integers.
        """
        scale = self._source.scale
        totals = np.asarray(weights.sum(axis=1), np.float64)
        sensitivity = scale * math.sqrt(float((totals**2).sum()))
        sigma = self._sigma(sensitivity, mu_squared)
        event, left = self._charge_gaussian(stage, label, sensitivity, sigma), iter(targets)

        def exact() -> list[IntArray]:
            each = [
                np.abs(counts - np.rint(target * scale).astype(np.int64)).sum()
                for batch in _batches(queries)
                for counts, target in zip(self._source.count(batch), itertools.islice(left, len(batch)), strict=True)
            ]
            return [np.asarray(weights @ np.array(each, np.int64))]

        (noisy,) = self._noisy([event], exact)
        _exhaust(left)
        return noisy

    def sums(
        self, groups: Sequence[Coding], vectors: Vectors, *, mu_squared: float, stage: str, label: str
    ) -> Measurement:
        """Noisy sums over units of the vectors of a column's texts, by group: shape (cells of the groups' table, width), in the
        vectors' own units.

        Proof of the sensitivity. Let D' = D plus one unit, with k rows of weights w_i >= 0 whose sum is at most `scale`, groups g_i and
        vectors v_i, each a function of its row alone and of L2 norm at most `norm` (longer ones count as zero). The answer moves by
        sum_i w_i (e_{g_i} tensor v_i), whose norm is at most sum_i w_i |v_i| <= scale * norm, over all groups together, by the
        triangle inequality. One row reaches that, so it is not loose. Vectors and weights are whole numbers: the sum is exact.
        """
        scale = self._source.scale
        sensitivity = scale * vectors.norm
        sigma = self._sigma(sensitivity, mu_squared)
        event = self._charge_gaussian(stage, label, sensitivity, sigma)
        (noisy,) = self._noisy([event], lambda: [self._source.sum_vectors(groups, vectors).ravel()])
        return Measurement(values=noisy.values.reshape(-1, vectors.width), sigma=noisy.sigma)

    def first_within(
        self,
        queries: Sequence[Sequence[Coding]],
        targets: Iterable[Sequence[FloatArray]],
        limits: Sequence[float],
        *,
        mu_squared: float,
        stage: str,
        label: str,
    ) -> int | None:
        """The first of several public tables that is, noisily, within its limit of the private one; None where none is.

        queries: Q sets of codings.  targets: for each of them the tables in units of all candidates, flat in C order.
        limits: for each candidate the sum of its Q L1 distances, in units, that is allowed.

        Sensitivity: one unit moves each distance by at most `scale`, so a candidate's sum by s = scale * Q.
        Guarantee: AboveThreshold, epsilon = s / b + 2 s / c with discrete Laplace noise of scale b on the threshold (drawn once) and
        of scale c on each sum, however many candidates there are.
        Proof. Let q_i be candidate i's sum less its limit (whole numbers), z and v_i the noise; the answer is the first k with
        q_k + v_k <= z. Fix v_i for i < k and let g = min over i < k of q_i + v_i: the answer is k where q_k + v_k <= z < g. On the
        neighbour g and q_k become g' and q'_k, each at most s away. Where (z, v_k) gives k here, (z + g' - g, v_k + (g' - g) -
        (q'_k - q_k)) gives k there, and this is one-to-one on whole numbers: it moves z by at most s, v_k by at most 2 s, so it
        changes the probability of each by at most e^(s/b) and e^(2s/c). For the first candidate g is infinite, and for the answer
        None only z moves: less. Summing over v_i, i < k, on which both agree, gives the bound. (Dwork, Roth 2014, thm. 3.23; Lyu, Su,
        Li, "Understanding the Sparse Vector Technique", 2017, on why the factor 2 stays.)
        """
        sensitivity = self._source.scale * len(queries)
        if not mu_squared > 0:
            raise PrivacyError("a query needs a part of the budget above zero")
        epsilon = pure_of_mu(math.sqrt(mu_squared))
        event = AboveThreshold.costing(epsilon, sensitivity=sensitivity, stage=stage, label=label)
        self._charge(event)
        left = iter(targets)
        ((found,),) = self._once([event], lambda: [[self._first(event, self._excess(queries, left, limits))]])
        _exhaust(left)
        return None if found < 0 else found

    def _first(self, event: AboveThreshold, exact: IntArray) -> int:
        """The first that is noisily at most the noisy threshold; -1 where none is."""
        threshold = int(self._noise.discrete_laplace(event.threshold_scale, 1)[0])
        noisy = exact + self._noise.discrete_laplace(event.query_scale, len(exact))
        for i, reached in enumerate((noisy <= threshold).astype(np.int64)):
            said = np.array([reached])
            if self._witness is not None:
                said = self._witness.answer(_name(event), exact[i : i + 1], event.sensitivity, said)
            if said[0]:
                return i
        return -1

    def _excess(
        self, queries: Sequence[Sequence[Coding]], targets: Iterable[Sequence[FloatArray]], limits: Sequence[float]
    ) -> IntArray:
        """By how much each candidate's distances pass its limit, exactly, on the counts' grid."""
        scale, left = self._source.scale, iter(targets)
        total: IntArray = -np.rint(np.array(limits) * scale).astype(np.int64)
        for batch in _batches(queries):
            for counts, tables in zip(self._source.count(batch), itertools.islice(left, len(batch)), strict=True):
                total += [int(np.abs(counts - np.rint(t * scale).astype(np.int64)).sum()) for t in tables]
        return total

    def distinct(self, columns: Sequence[str], *, mu_squared: float, stage: str) -> list[Measurement]:
        """Noisy number of different values in each column. One unit moves it by at most its rows, `max_rows`."""
        sensitivity = self._source.max_rows
        sigma = self._sigma(sensitivity, mu_squared / max(len(columns), 1))
        events = [self._charge_gaussian(stage, f"distinct values of {c}", sensitivity, sigma) for c in columns]
        found = self._noisy(events, lambda: [np.array([self._source.count_distinct(c)], np.int64) for c in columns])
        # `_noisy` divides by the weight of a unit; this count is one of values.
        return [Measurement(values=noisy.values * self._source.scale, sigma=sigma) for noisy in found]

    def vocabulary(self, column: str, *, mu_squared: float, delta: float, stage: str) -> Vocabulary:
        """Values that occur in a column and that enough units hold, with noisy counts.

        Proof. Let D' = D plus one unit. On values present in both, counts move by at most `scale` in L1, so releasing
        them with noise is a Gaussian mechanism, and the threshold is post-processing. Values held by the new unit alone, at most
        max_rows of them, have counts of at most `scale`; by the threshold's choice each passes it with probability at
        most delta / max_rows, so together they show with probability at most delta. (Wilkins et al., "Exact Privacy
        Analysis of the Gaussian Sparse Histogram Mechanism", 2022, gives the same bound, less loosely.)
        """
        from scipy.special import ndtri

        scale = self._source.scale
        sigma = self._sigma(scale, mu_squared)
        # Released when count + round(noise) >= threshold: of a value held by one unit, when noise > threshold - scale - 1/2.
        threshold = math.ceil(scale + 0.5 - sigma * float(ndtri(delta / self._source.max_rows)))
        label = f"values of {column}"
        event = StabilityHistogram(
            stage=stage, label=label, sensitivity=float(scale), sigma=sigma, threshold=float(threshold), delta=delta
        )
        self._charge(event)
        values, counts = self._once([event], lambda: _parts(self._frequent(column, event), scale))
        return _vocabulary(values, np.array(counts, np.int64), event, scale)

    def _frequent(self, column: str, event: StabilityHistogram) -> Vocabulary:
        """The values whose noisy counts reach the threshold."""
        scale, threshold = self._source.scale, event.threshold
        values, exact = self._source.count_values(column)
        noisy = exact + self._noise.rounded_gaussian(event.sigma, len(exact))
        kept = np.flatnonzero(noisy >= threshold)
        # In an order that says nothing of the rows': by noisy count, then by value.
        kept = (
            kept[sorted(range(len(kept)), key=lambda i: (-noisy[kept[i]], str(values[kept[i]])))] if len(kept) else kept
        )
        released = _vocabulary(values[kept], noisy[kept], event, scale)
        if self._witness is not None:
            by_value = dict(zip(values.tolist(), exact.tolist(), strict=True))
            released = self._witness.vocabulary(_name(event), by_value, scale, released)
        return released

    def _sigma(self, sensitivity: float, mu_squared: float) -> float:
        if not mu_squared > 0:
            raise PrivacyError("a query needs a part of the budget above zero")
        return sensitivity / math.sqrt(mu_squared)

    def _charge_gaussian(self, stage: str, label: str, sensitivity: float, sigma: float) -> Gaussian:
        event = Gaussian(stage=stage, label=label, sensitivity=float(sensitivity), sigma=sigma)
        self._charge(event)
        return event

    def _charge(self, event: Event) -> None:
        self.account.charge(event)

    def _once(self, events: Sequence[Event], draw: Callable[[], list[list[Any]]]) -> list[list[Any]]:
        return draw() if self.kept is None else self.kept.once(events, draw)

    def _noisy(self, events: Sequence[Gaussian], exact: Callable[[], Sequence[IntArray]]) -> list[Measurement]:
        """One measurement for each event, which was charged. exact: called where they are drawn now."""

        def draw() -> list[IntArray]:
            return [self._drawn(event, answer) for event, answer in zip(events, exact(), strict=True)]

        if self.kept is None:
            answers = draw()
        else:
            stored = self.kept.once(events, lambda: [a.tolist() for a in draw()])
            answers = [np.array(a, np.int64) for a in stored]
        scale = self._source.scale
        return [Measurement(values=a / scale, sigma=e.sigma / scale) for e, a in zip(events, answers, strict=True)]

    def _drawn(self, event: Gaussian, exact: IntArray) -> IntArray:
        noisy: IntArray = exact + self._noise.rounded_gaussian(event.sigma, exact.size)
        if self._witness is not None:
            noisy = self._witness.answer(_name(event), exact, event.sensitivity, noisy)
        return noisy


def _name(event: Leaf) -> str:
    return f"{event.stage}/{event.label}"


def _vocabulary(values: Iterable[object], counts: IntArray, event: StabilityHistogram, scale: int) -> Vocabulary:
    return Vocabulary(
        values=tuple(values), counts=counts / scale, sigma=event.sigma / scale, threshold=event.threshold / scale
    )


def _parts(released: Vocabulary, scale: int) -> list[list[Any]]:
    """(values, counts on the grid) as JSON values."""
    return [list(released.values), np.rint(released.counts * scale).astype(np.int64).tolist()]


def _exhaust(targets: Iterator[object]) -> None:
    """Whoever makes tables as they are needed may note something of each: have them made where an answer is given again, too."""
    for _ in targets:
        pass


def _batches(queries: Sequence[Sequence[Coding]]) -> Iterator[Sequence[Sequence[Coding]]]:
    """Runs of queries whose tables hold at most `BATCH_CELLS` together (a larger table is a run of its own)."""
    start, cells = 0, 0
    for i, query in enumerate(queries):
        size = math.prod(c.size for c in query)
        if i > start and cells + size > BATCH_CELLS:
            yield queries[start:i]
            start, cells = i, 0
        cells += size
    if start < len(queries):
        yield queries[start:]

"""How much an attacker really learns from one step: a lower bound on epsilon, to hold beside the upper bound that is claimed.

The attack is the strongest that the guarantee speaks of: all rows but one unit's are known, the unit's gradient is as long and as alone
in its direction as can be, and the noisy gradient itself is seen. Many steps are taken on the table with the unit and on the one without;
a test that tells them apart with true-positive rate t and false-positive rate f proves epsilon >= log((t - delta) / f) (Jagielski,
Ullman, Oprea, "Auditing Differentially Private Machine Learning", 2020; Nasr et al., "Tight Auditing", 2023). For made-up tables only:
the steps are those of a training with an insecure or a spent budget, never of a run on real rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float64]


class Watching(torch.optim.Optimizer):
    """An optimizer that moves nothing and keeps a figure of each step's noisy gradient: so each step is a first step."""

    def __init__(self, parameters: Any, figure: Callable[[FloatArray], float]) -> None:
        super().__init__(parameters, {"lr": 0.0})
        self._figure, self.seen = figure, list[float]()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        flat = torch.cat([g.detach().double().flatten() for g in gradients])
        self.seen.append(self._figure(flat.cpu().numpy()))


def empirical_epsilon(present: FloatArray, absent: FloatArray, delta: float, confidence: float = 0.95) -> float:
    """A lower bound on epsilon at `delta`, right with chance `confidence`; 0 where the two cannot be told apart.

    present, absent: figures of independent steps on the table with and without the unit. Half of each picks the test (a threshold, a
    side, and whether it detects or clears), the other half, which it has not seen, says how good it is: by Clopper-Pearson bounds
    on both of its error rates.
    """
    thresholds = np.quantile(np.concatenate([present[::2], absent[::2]]), np.linspace(0.002, 0.998, 250))
    picked = _proved(present[::2], absent[::2], thresholds, delta, confidence)
    test, threshold = np.unravel_index(int(picked.argmax()), picked.shape)
    found = _proved(present[1::2], absent[1::2], thresholds[[threshold]], delta, confidence)
    return max(float(found[test, 0]), 0.0)


def _proved(
    present: FloatArray, absent: FloatArray, thresholds: FloatArray, delta: float, confidence: float
) -> FloatArray:
    """What four tests prove at each threshold, shape (4, thresholds): above or below it, saying "there" or "not there"."""
    above = (present[:, None] > thresholds).sum(0), (absent[:, None] > thresholds).sum(0)
    rates = []
    for hits, misses in (above, above[::-1]):
        for yes, no in ((hits, misses), (len(present) - hits, len(absent) - misses)):
            t, f = _bounds(yes, len(present), confidence)[0], _bounds(no, len(absent), confidence)[1]
            rates.append(np.log(np.maximum(t - delta, 1e-300) / f))
    return np.array(rates)


def _bounds(hits: npt.NDArray[np.int64], n: int, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Clopper-Pearson bounds of rates; both of a test's hold together with chance `confidence`."""
    from scipy.stats import beta

    level = (1 - confidence) / 2
    low = np.where(hits > 0, beta.ppf(level, np.maximum(hits, 1), n - hits + 1), 0.0)
    high = np.where(hits < n, beta.ppf(1 - level, hits + 1, np.maximum(n - hits, 1)), 1.0)
    return low, high

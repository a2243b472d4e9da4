"""Where values found in the rows take nearly all of delta, what is left for the rest is too little to compose to, and is not tried."""

from __future__ import annotations

import math
import time

from dpsynth.privacy.accounting import profile_of
from dpsynth.privacy.events import StabilityHistogram, SubsampledGaussian


def test_a_delta_that_is_all_but_spent_is_answered_at_once() -> None:
    found = StabilityHistogram(
        stage="v", label="v", sensitivity=1.0, sigma=20.0, threshold=150.0, delta=1e-7 * (1 - 1e-9)
    )
    training = SubsampledGaussian(stage="t", label="t", sampling_rate=0.1, noise_multiplier=2.0, steps=8)
    profile = profile_of([found, training])
    start = time.process_time()
    at = profile.epsilon(1e-7)
    assert time.process_time() - start < 2
    assert profile.epsilon(1e-6) < at < math.inf

"""From a budget to noise: the other way round."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dpsynth.privacy.accounting.gaussian import require_budget
from dpsynth.privacy.accounting.total import profile_of
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import Event

# How close, relatively, the noise comes to the least that will do.
_PRECISION = 1e-4
_LARGEST = 1e9


def calibrate(
    plan: Callable[[float], Iterable[Event]], *, epsilon: float, delta: float, most: float = _LARGEST
) -> float:
    """The least noise, up to one part in ten thousand, with which a plan is (epsilon, delta)-DP.

    plan: the events for a noise level, of which more noise costs less; e.g.
    lambda noise: [SubsampledGaussian(..., noise_multiplier=noise, steps=1000)].
    most: a level, at least 1, above which noise is of no use.
    Returns a noise level at which the plan's own accounting stays within the budget. Raises PrivacyError where none up to `most` does.
    """
    require_budget(epsilon, delta)

    def fits(noise: float) -> bool:
        return profile_of(plan(noise)).epsilon(delta) <= epsilon

    enough = 1.0
    while not fits(enough):
        if enough >= most:
            raise PrivacyError(f"no noise up to {most:g} makes this plan fit the budget")
        enough = min(2 * enough, most)
    too_little = enough / 2
    while fits(too_little):
        enough, too_little = too_little, too_little / 2
        if too_little < 1 / _LARGEST:
            return enough
    while enough - too_little > _PRECISION * enough:
        middle = (enough + too_little) / 2
        enough, too_little = (middle, too_little) if fits(middle) else (enough, middle)
    return enough

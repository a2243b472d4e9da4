"""What a training does and costs, as one value fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dpsynth.privacy.accounting import Cost, calibrate, require_budget
from dpsynth.privacy.budget import Reserve
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.events import Event, SubsampledGaussian

# A unit's gradient is clipped to a little less than the clipping norm. What is left out pays for float32: the sum over a batch is
# rounded, and another unit in the batch may move the sums of the others by their last digits. Measured on a critic, that was .0008 of the norm
# with 2,000 units in the batch, .0021 with 20,000 and .0049 with 100,000, so it grows as the root of them; this is three to four times that.
MARGIN, MARGIN_UNITS = 2.0**-9, 1024
# Gradients are summed as whole multiples of clipping norm / 2^30, or a little less; so fine that rounding d coordinates moves the sum
# by at most sqrt(d) / 2^30 of the norm, within the margin below 2^36 coordinates.
_GRID_BITS = 30
# More noise than this is above what the grid carries, and trains nothing.
_MOST_NOISE = 2.0**9
_TOO_MUCH = (
    f"this budget asks for noise of more than {_MOST_NOISE:g} clipping norms at each step, in which nothing can be learned; take fewer "
    "steps, a lower sampling rate or a larger budget"
)
# A cap on the batch is this many standard deviations above its mean: then it costs next to nothing.
_DEVIATIONS = 6
# A plan's epsilon is computed again from its events, on another grid: room for that.
_ROOM = 2e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """The steps of DP-SGD (Abadi et al., "Deep Learning with Differential Privacy", 2016).

    Each step takes each unit into its batch with chance `sampling_rate`, clips each unit's gradient to L2 norm `clipping_norm`, adds
    noise of sd noise_multiplier * clipping_norm to the sum, and divides by `expected_batch`.

    Guarantee: what the steps give is as private as `event`, under add/remove of one unit. All numbers are public: none may come
    from the rows, nor from how many there are. Where the number of units is known from a noisy count alone, fix `sampling_rate`
    beforehand and `replace` expected_batch later: neither it nor clipping_norm is part of the event.

    max_batch: cut larger batches to this many units, chosen by lot; then units_at_most, a public bound on the number of units.
    """

    sampling_rate: float
    steps: int
    noise_multiplier: float
    expected_batch: float
    clipping_norm: float = 1.0
    max_batch: int | None = None
    units_at_most: int | None = None
    stage: str = "training"
    label: str = "DP-SGD"

    def __post_init__(self) -> None:
        for name in ("expected_batch", "clipping_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise PrivacyError(f"{self.stage}/{self.label}: {name} must be positive and finite")
        if self.noise_multiplier > _MOST_NOISE:
            raise PrivacyError(f"{self.stage}/{self.label}: {_TOO_MUCH}")
        self.event  # noqa: B018  (its own rules hold)

    @property
    def event(self) -> SubsampledGaussian:
        """What is booked, all steps together."""
        return SubsampledGaussian(
            stage=self.stage,
            label=self.label,
            sampling_rate=self.sampling_rate,
            noise_multiplier=self.noise_multiplier,
            steps=self.steps,
            max_batch=self.max_batch,
            units_at_most=self.units_at_most,
        )

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise on the sum of gradients."""
        return self.noise_multiplier * self.clipping_norm

    @property
    def limit(self) -> float:
        """To what a unit's gradient is clipped."""
        return self.clipping_norm * (1 - self.margin)

    @property
    def margin(self) -> float:
        """Share of the clipping norm that is left to rounding."""
        return min(MARGIN * math.sqrt(max(self.expected_batch / MARGIN_UNITS, 1.0)), 0.25)

    @property
    def grid(self) -> float:
        """The power of two of which the sum of gradients is a whole multiple."""
        return 2.0 ** (math.floor(math.log2(self.clipping_norm)) - _GRID_BITS)

    @classmethod
    def calibrated(
        cls,
        *,
        epsilon: float,
        delta: float,
        units: float,
        expected_batch: float,
        steps: int,
        clipping_norm: float = 1.0,
        beside: Cost | None = None,
        planned: Sequence[Event] = (),
        units_at_most: int | None = None,
        stage: str = "training",
        label: str = "DP-SGD",
    ) -> Training:
        """The plan with the least noise for which the whole run is (epsilon, delta)-DP.

        units: a public guess of how many there are; it sets the rate.  beside: what the run may spend on Gaussian queries and
        stability histograms, before or after, as it likes.  planned: its other planned events.  units_at_most: caps the batch.
        The run then reserves Reserve(adaptive=beside, planned=(*planned, plan.event)). Raises PrivacyError where no noise will do.
        """
        beside = beside or Cost()
        rate = min(1.0, expected_batch / units)
        most = None
        if units_at_most is not None:
            most = math.ceil(rate * units_at_most + _DEVIATIONS * math.sqrt(rate * (1 - rate) * units_at_most))

        def event(noise: float) -> SubsampledGaussian:
            return SubsampledGaussian(
                stage=stage,
                label=label,
                sampling_rate=rate,
                noise_multiplier=noise,
                steps=steps,
                max_batch=most,
                units_at_most=units_at_most,
            )

        def run(noise: float) -> list[Event]:
            return Reserve(adaptive=beside, planned=(*planned, event(noise))).as_events

        require_budget(epsilon, delta)
        try:
            noise = calibrate(run, epsilon=epsilon * (1 - _ROOM), delta=delta - beside.delta, most=_MOST_NOISE)
        except PrivacyError:
            raise PrivacyError(f"{stage}/{label}: {_TOO_MUCH}") from None
        return cls(
            sampling_rate=rate,
            steps=steps,
            noise_multiplier=noise,
            expected_batch=expected_batch,
            clipping_norm=clipping_norm,
            max_batch=most,
            units_at_most=units_at_most,
            stage=stage,
            label=label,
        )

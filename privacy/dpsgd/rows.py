"""Private rows on their way to a training: a handle that only this package opens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dpsynth.privacy.dpsgd.plan import Training
from dpsynth.privacy.errors import PrivacyError

if TYPE_CHECKING:
    from dpsynth.privacy.budget import Account
    from dpsynth.privacy.noise import Noise
    from dpsynth.privacy.table import Witness

IntArray = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

# Coins are drawn for this many units at a time: how many random words are used then says less of how many units there are, and in a
# neighbour replay the next step's coins stay where they are.
_COINS = 256
# A batch has a multiple of this part of the most rows, so that what is filled up is little of it.
_SIZES = 32


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Rows of some units, each unit with the same number of slots; see `batch.MicroBatch`."""

    rows: dict[str, Array]
    weights: npt.NDArray[np.float32]

    def __repr__(self) -> str:
        return "Chosen(private)"


class TrainingRows:
    """Encoded private rows, with the account that pays for their use and the noise that covers it. Made by `PrivateTable`.

    A model gets this handle and gives it to a `PrivateTrainer`; it has nothing to read but names, types and shapes.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        units: IntArray,
        *,
        max_rows: int,
        account: Account,
        noise: Noise,
        witness: Witness | None = None,
    ) -> None:
        if any(len(a) != len(units) for a in arrays.values()):
            raise PrivacyError("an encoding must give one entry for each cell")
        self._arrays = dict(arrays)
        self._order = np.argsort(units, kind="stable")
        self._starts = np.append(np.flatnonzero(np.diff(units[self._order], prepend=-1)), len(units))
        self._account, self._noise, self._witness = account, noise, witness
        self.max_rows = max_rows

    def __repr__(self) -> str:
        return f"TrainingRows({', '.join(self._arrays)}; private rows)"

    def __reduce__(self) -> Any:
        raise PrivacyError("private rows are never copied or pickled")

    @property
    def insecure(self) -> bool:
        return self._noise.insecure

    @property
    def layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Of each array, the type and the shape of one row's entry; the encodings set them, not the rows."""
        return {name: (str(a.dtype), a.shape[1:]) for name, a in self._arrays.items()}

    def _sample(self, plan: Training) -> IntArray:
        """A Poisson sample of the units, by secret coins: their numbers, in order.

        Where it is cut, each unit has a lottery number of its own and the lowest stay: one unit more pushes out at most one.
        """
        n = len(self._starts) - 1
        drawn = math.ceil(n / _COINS) * _COINS
        chosen = np.flatnonzero(self._noise.coins(plan.sampling_rate, drawn)[:n])
        if plan.max_batch is not None:
            if plan.units_at_most is not None and n > plan.units_at_most:
                raise PrivacyError("there are more units than the bound that the plan took as public")
            lots = self._noise.bits(drawn)[:n]
            if len(chosen) > plan.max_batch:
                chosen = np.sort(chosen[np.argsort(lots[chosen], kind="stable")[: plan.max_batch]])
        return chosen

    def _batches(self, chosen: IntArray, most_rows: int) -> Iterator[Chosen]:
        """The chosen units' rows in batches of at most `most_rows` rows (or one unit), all of nearly one size.

        A unit's k rows weigh 1/k each: its loss is their mean. It gets 2^j slots, the fewest that hold them; units with equal slots
        go together. A batch is filled up to one of a few sizes with copies that weigh nothing, so that memory is used again.
        """
        counts = self._starts[chosen + 1] - self._starts[chosen]
        slots = 2 ** np.ceil(np.log2(counts)).astype(np.int64)
        for width in np.unique(slots):
            alike = chosen[slots == width]
            most = max(1, most_rows // int(width))
            grain = max(1, most // _SIZES)
            even = len(alike) / math.ceil(len(alike) / most)
            size = min(most, math.ceil(even / grain) * grain)
            for start in range(0, len(alike), size):
                yield self._chosen(alike[start : start + size], int(width), size)

    def _chosen(self, units: IntArray, slots: int, size: int) -> Chosen:
        counts = (self._starts[units + 1] - self._starts[units])[:, None]
        place = np.arange(slots)
        index = self._order[self._starts[units][:, None] + np.minimum(place, counts - 1)]
        weights = np.zeros((size, slots), np.float32)
        weights[: len(units)] = np.where(place < counts, 1 / counts, 0)
        filled = np.concatenate([index, np.broadcast_to(index[:1], (size - len(units), slots))]).reshape(-1)
        return Chosen({name: a[filled] for name, a in self._arrays.items()}, weights)

"""What a fit may take of time and memory: public numbers, by which it plans its work.

Memory, in bytes beyond the table, the interpreter and what it has loaded. LOADED is what numerical libraries take when they begin.
Half of the rest is for the junction tree, CELL_BYTES for each cell; half for the rows that stand for the model beyond the tree,
PLACE_BYTES for each row and table. So a fit takes about

    LOADED + CELL_BYTES x cells + PLACE_BYTES x rows x tables.

Time, in seconds of work on *noisy answers*: choosing pairs and fitting the model. It is planned by what a cell and a place take
(CELL_SECONDS, PLACE_SECONDS), and watched by a `Clock`. The clock stands still while rows are counted: how long that takes tells
how many there are, and nothing that is released may hang on it. What is stopped by the clock is post-processing, whose time depends on
noisy answers and on the machine.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from types import TracebackType

# Measured: peak memory and seconds of a sweep of the dual, for each cell of the junction tree; and for each row and table of a tilt.
LOADED, CELL_BYTES, PLACE_BYTES = 100e6, 100, 16
CELL_SECONDS, PLACE_SECONDS = 1e-7, 1e-8
# Sweeps that are planned for at least, on the tree and on a tilt.
SWEEPS = 100
# The least that is worth a fit, whatever the limits.
LEAST_CELLS = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """seconds, memory (bytes): None = no limit."""

    seconds: float | None = None
    memory: float | None = None

    def cells(self, wanted: int) -> int:
        """Cells of a junction tree: those wanted, or what half of the memory holds and half of the time sweeps."""
        return max(min(wanted, self._half(CELL_BYTES, CELL_SECONDS)), min(wanted, LEAST_CELLS))

    def places(self, wanted: int) -> int:
        """Rows times tables of a tilt: those wanted, or what half of the memory holds and half of the time sweeps."""
        return min(wanted, self._half(PLACE_BYTES, PLACE_SECONDS))

    def _half(self, size: int, pace: float) -> int:
        bounds = [
            math.inf if self.memory is None else max(self.memory - LOADED, 0.0) / 2 / size,
            math.inf if self.seconds is None else self.seconds / 2 / (SWEEPS * pace),
        ]
        return int(min(*bounds, 2**62))


class Clock:
    """Seconds of work on noisy answers, and until when it may go on. Runs inside `with clock:`, and stands still outside."""

    def __init__(self, seconds: float | None = None) -> None:
        self._left = math.inf if seconds is None else float(seconds)
        self._since: float | None = None

    def __enter__(self) -> Clock:
        self._since = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left, self._since = self.left, None

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 where work could not stop in time."""
        return self._left if self._since is None else self._left - (time.monotonic() - self._since)

    def until(self, share: float = 1.0) -> float:
        """When this share of what is left has passed, by `time.monotonic`."""
        return time.monotonic() + share * max(self.left, 0.0)

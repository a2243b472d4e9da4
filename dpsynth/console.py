"""What a person sees in a terminal: consoles and progress. Progress goes to stderr and is silent off a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn


class Progress(Protocol):
    """A long run in stages."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage of `total` steps; None where they cannot be counted. Ends the one before."""

    def advance(self, n: int = 1) -> None:
        """n steps of the stage are done."""

    def note(self, text: str) -> None:
        """Where the stage stands; shown beside its name in place of the last note."""


class SilentProgress:
    """Says nothing."""

    def stage(self, name: str, total: int | None = None) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


SILENT: Progress = SilentProgress()


class RichProgress:
    """A bar for each stage, with elapsed and remaining time."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: int | None = None
        self._name = ""

    def stage(self, name: str, total: int | None = None) -> None:
        self._finish()
        self._name = name
        self._task = self._bars.add_task(name, total=total)

    def advance(self, n: int = 1) -> None:
        if self._task is not None:
            self._bars.advance(self._task, n)  # type: ignore[arg-type]  # rich's TaskID is an int

    def note(self, text: str) -> None:
        if self._task is not None:
            self._bars.update(self._task, description=f"{self._name}: {text}")  # type: ignore[arg-type]

    def _finish(self) -> None:
        if self._task is None:
            return
        task = next(t for t in self._bars.tasks if t.id == self._task)
        total = task.total or max(task.completed, 1)
        self._bars.update(task.id, total=total, completed=total)


def columns() -> tuple[ProgressColumn, ...]:
    """What stands in the line of a stage: how much is done, where it is counted, the time it took and what is to go."""
    from rich.progress import (
        BarColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]to go"),
        TimeRemainingColumn(compact=True),
    )


@contextmanager
def make_progress(enabled: bool) -> Iterator[Progress]:
    """Progress bars on stderr where that is a terminal and they are wanted."""
    if not (enabled and sys.stderr.isatty()):
        yield SILENT
        return
    from rich.progress import Progress as Bars

    with Bars(*columns(), console=stderr()) as bars:
        progress = RichProgress(bars)
        yield progress
        progress._finish()


def stdout() -> Console:
    from rich.console import Console

    return Console()


def stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)

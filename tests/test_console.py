"""What a person sees of a long run: bars that move, with a time to go."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import Progress as Bars

from dpsynth.console import RichProgress, SilentProgress, columns, make_progress


def test_a_counted_stage_moves_and_says_how_long_it_will_take() -> None:
    now = 0.0
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Bars(*columns(), console=console, get_time=lambda: now, auto_refresh=False) as bars:
        progress = RichProgress(bars)
        progress.stage("fitting", 250)
        for _ in range(50):
            now += 0.2
            progress.advance()
        (task,) = bars.tasks
        assert task.completed == 50 and task.time_remaining is not None
        assert abs(task.time_remaining - 200 * 0.2) <= 1
        bars.refresh()
        assert "20%" in console.file.getvalue() and "00:40" in console.file.getvalue()  # type: ignore[attr-defined]
        progress.note("round 2")
        assert task.description == "fitting: round 2"
        progress.stage("booking")
        assert task.finished and task.completed == 250  # a stage that converged early is done
        assert bars.tasks[1].time_remaining is None


def test_off_a_terminal_nothing_is_said() -> None:
    with make_progress(True) as progress:
        assert isinstance(progress, SilentProgress)

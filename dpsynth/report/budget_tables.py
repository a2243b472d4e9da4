"""The budget in a terminal: what was spent, by whom it is held, and what it means. 80 columns are enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dpsynth.privacy.meaning import meaning_of_cost
from dpsynth.privacy.statement import shares_by_stage
from dpsynth.report.page import epsilon
from dpsynth.report.spending import DatasetView, Holder, RunView, Spending, event_rows

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table


NO_UNIT = "that of the first run"


def overview(spent: Spending) -> Group | str:
    """Each data set: its runs, and who holds what of them."""
    from rich.console import Group

    shown: list[RenderableType] = []
    for view in spent.datasets:
        shown += [_runs(view), *([_parts(view)] if view.parts else [])]
        if view.recipients:
            shown.append(_holders(view, "Who holds what"))
        shown.append(_standing(view))
    return Group(*shown, *_alarms(spent)) if shown else "The ledger is empty."


def full(spent: Spending) -> Group | str:
    """The same with releases, stages, several deltas, and in words."""
    from rich.console import Group
    from rich.text import Text

    shown: list[RenderableType] = []
    for view in spent.datasets:
        shown += [_runs(view), *([_parts(view)] if view.parts else []), _standing(view)]
        if not view.runs:
            continue
        shown += [_bars("Spent on", view.stages), _holders(view, "Who holds what, and what they could learn")]
        shown.append(_deltas([*view.recipients, *([view.together] if view.together else []), view.total]))
        if view.releases:
            shown.append(_releases(view))
        shown += [Text(f"{text}\n") for text in view.total.meaning.words()]
    if spent.overlap is not None:
        total = f"epsilon {epsilon(spent.overlap.epsilon)} at delta {spent.overlap.delta:g}"
        shown.append(Text(f"Who is in all of these data sets: {total}, for then they add up."))
    return Group(*shown, *_alarms(spent)) if shown else "The ledger is empty."


def run_tables(view: DatasetView, run: RunView) -> Group:
    """One run: what it means, where it went, and every query."""
    from rich.console import Group
    from rich.text import Text

    meaning = meaning_of_cost(run.cost, run.delta)
    own = Holder(name=run.id, runs=(run.id,), releases=0, cost=run.cost, delta=run.delta)
    shown: list[RenderableType] = [
        Text(f"{run.id}: {run.label}, {run.state}, on {view.title}; unit: {view.unit}"),
        _deltas([own]),
        *(Text(text) for text in meaning.words()),
    ]
    if run.events:
        shown += [_bars("Spent on", shares_by_stage(run.events)), _queries(run)]
    else:
        shown.append(Text("This run reserved its cost and was never booked: all of it stays spent."))
    return Group(*shown)


def _runs(view: DatasetView) -> Table:
    from rich.markup import escape

    cap = f" of {view.cap.epsilon:g}" if view.cap else ", no cap"
    title = f"{view.title}: epsilon {epsilon(view.epsilon)}{cap} (at delta {view.total.delta:g})"
    table = _table(escape(title))
    for name in ("run", "what", "state", "epsilon", "in all", "when"):
        number, wraps = name in ("epsilon", "in all"), name in ("run", "what")
        width = 20 if name == "run" else None
        table.add_column(
            name, justify="right" if number else "left", no_wrap=not wraps, min_width=width, overflow="fold"
        )
    for run in view.runs:
        colour = "green" if run.state == "committed" else "yellow"
        state = f"[{colour}]{run.state}[/]"
        name = f"{run.id}\n({run.sub_budget})" if run.sub_budget else run.id
        table.add_row(
            escape(name), escape(run.label), state, epsilon(run.epsilon), epsilon(run.so_far), run.created[:10]
        )
    deltas = ", ".join(f"{d:g}" for d in sorted({run.delta for run in view.runs}))
    own = f"; epsilon of a run at its own delta ({deltas})" if deltas else ""
    table.caption = escape(f"unit: {view.unit or NO_UNIT}{own}; runs compose exactly, not as a sum")
    return table


def _parts(view: DatasetView) -> Table:
    from rich.markup import escape

    table = _table("Sub-budgets")
    for name in ("sub-budget", "epsilon", "cap", "at delta", "largest run that still fits"):
        table.add_column(name, justify="left" if name == "sub-budget" else "right", overflow="fold")
    for part in view.parts:
        cap = part.cap
        table.add_row(
            escape(part.label), epsilon(part.epsilon), f"{cap.epsilon:g}", f"{cap.delta:g}", f"{part.left:.3g}"
        )
    return table


def _standing(view: DatasetView) -> RenderableType:
    from rich.text import Text

    warned = Text("").join(Text.assemble(("! ", "bold yellow"), f"{text}\n") for text in view.warnings)
    if view.cap is None:
        return warned + Text(f"No cap: dpsynth budget set {view.name or 'NAME'} --epsilon ... sets one.\n", "dim")
    left = view.left or 0.0
    room = (
        f"a run of epsilon {left:.3g} at delta {view.left_delta:g} still fits"
        if left > 1e-6
        else "no run fits any more"
    )
    return warned + Text(f"Left under the cap: {room}.\n")


def _holders(view: DatasetView, title: str) -> Table:
    from rich.markup import escape

    table = _table(title)
    table.add_column("who", overflow="fold")
    for name in ("runs", "releases", "epsilon", "attack gains at most", "misses at least"):
        table.add_column(name, justify="right")
    table.caption = (
        f"Epsilon at delta {view.total.delta:g}. Gains: true minus false positives. Misses: at 1% false positives. "
        "A release of a run that was paid for costs nothing more."
    )
    for holder in (*view.recipients, *([view.together] if view.together else []), view.total):
        meaning = holder.meaning
        table.add_row(
            escape(holder.name),
            str(len(holder.runs)),
            str(holder.releases or ""),
            epsilon(holder.epsilon),
            meaning.gains,
            meaning.misses,
            style="bold" if holder in (view.together, view.total) else None,
        )
    return table


def _deltas(holders: Sequence[Holder]) -> Table:
    from rich.markup import escape

    table = _table("Epsilon at several deltas")
    table.add_column("", overflow="fold")
    for delta, _ in holders[0].meaning.epsilon_at:
        table.add_column(f"{delta:g}", justify="right")
    for holder in holders:
        table.add_row(escape(holder.name), *(epsilon(value) for _, value in holder.meaning.epsilon_at))
    if any(epsilon(value) == "none" for holder in holders for _, value in holder.meaning.epsilon_at):
        table.caption = "none: what is released above a threshold fails with a larger chance than this delta"
    return table


def _releases(view: DatasetView) -> Table:
    from rich.markup import escape

    table = _table("Releases")
    for name in ("when", "to whom, for what", "run"):
        table.add_column(name, no_wrap=name != "to whom, for what", overflow="fold")
    for r in view.releases:
        gate = f", gate: {r.verdict}" if r.verdict else ""
        until = f"\nuntil {r.expires}" if r.expires else ""
        table.add_row(
            escape(f"{r.created[:10]}{gate}{until}"), escape("\n".join(filter(None, (r.recipient, r.purpose)))), r.run
        )
    return table


def _bars(title: str, shares: dict[str, float]) -> Table:
    from rich.markup import escape

    table = _table(title)
    table.add_column("stage")
    table.add_column("share", justify="right")
    table.add_column("")
    for stage, share in shares.items():
        table.add_row(escape(stage), f"{share:.1%}", f"[blue]{'█' * max(round(30 * share), 1)}[/]")
    return table


def _queries(run: RunView) -> Table:
    from rich.markup import escape

    rows = event_rows(run.events)
    table = _table(f"{len(rows)} queries")
    for name in ("stage", "query", "mechanism", "parameters", "share"):
        table.add_column(
            name, justify="right" if name == "share" else "left", no_wrap=name in ("stage", "share"), overflow="fold"
        )
    for row in rows:
        table.add_row(*map(escape, (row.stage, row.label, row.kind, row.parameters)), f"{row.share:.2%}")
    return table


def _table(title: str) -> Table:
    from rich.table import Table

    return Table(title=title, title_justify="left", caption_justify="left")


def _alarms(spent: Spending) -> Iterator[RenderableType]:
    from rich.text import Text

    for problem in spent.problems:
        yield Text.assemble(("The ledger is not as it was written: ", "bold red"), problem)

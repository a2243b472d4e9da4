"""The command line: the same calls, for people and for scripts.

Results go to stdout (tables, or JSON with --json), progress and errors to stderr. Exit codes: 0 done, 2 bad input, 3 gate failed,
4 budget refused, 5 not verified.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dpsynth.privacy.errors import BudgetExceeded, DpsynthError, GateFailed, SchemaError, VerificationError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local variables could show rows
    help="A sensitive table in, a synthetic one out that a partner team may have, under one privacy guarantee.",
)
budget = typer.Typer(no_args_is_help=True, help="The ledger: what was spent on which data.")
keys = typer.Typer(no_args_is_help=True, help="Keys that sign releases.")
app.add_typer(budget, name="budget")
app.add_typer(keys, name="keys")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LedgerUrl = Annotated[str | None, typer.Option("--ledger", help="Ledger URL or file; default $DPSYNTH_LEDGER or your own.")]
Epsilon = Annotated[float, typer.Option("--epsilon", "-e", help="The whole privacy budget.")]
Delta = Annotated[float, typer.Option("--delta", help="Chance that the guarantee fails.")]

EXIT_CODES: dict[type[DpsynthError], int] = {GateFailed: 3, BudgetExceeded: 4, VerificationError: 5}


def main() -> NoReturn:
    """Entry point of the `dpsynth` command."""
    with _failing_clearly():
        app(standalone_mode=True)
    sys.exit(0)


@contextmanager
def _failing_clearly() -> Iterator[None]:
    """Errors as one line and an exit code. What is not ours is named by its type alone: its text could quote a row."""
    from dpsynth.console import stderr

    try:
        yield
    except DpsynthError as error:
        code = next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 2)
        stderr().print(f"[bold red]{type(error).__name__}[/]: ", end="")
        stderr().print(str(error), markup=False, highlight=False)
        sys.exit(code)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        stderr().print(f"[bold red]unexpected {type(error).__name__}[/]; run again with --debug to see where", highlight=False)
        sys.exit(1)


def _out(value: Any, as_json: bool) -> None:
    """A result on stdout."""
    if as_json:
        body = value.to_json() if hasattr(value, "to_json") else value
        sys.stdout.write(json.dumps(body, indent=1, default=str) + "\n")
        return
    from dpsynth.console import stdout

    stdout().print(value)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. They may quote rows: for your eyes only.")] = False,
) -> None:
    pass


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="CSV or Parquet file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the model.")],
    epsilon: Epsilon,
    delta: Delta = 1e-6,
    schema: Annotated[Path | None, typer.Option(help="JSON file of public facts.")] = None,
    unit: Annotated[str | None, typer.Option(help="Column that names the privacy unit.")] = None,
    max_rows_per_unit: Annotated[int | None, typer.Option(help="Most rows a unit contributes.")] = None,
    model: Annotated[str, typer.Option(help="auto, marginals or mst.")] = "auto",
    ledger: LedgerUrl = None,
    dataset: Annotated[str | None, typer.Option(help="The ledger's name for these data.")] = None,
    allow_synthetic: Annotated[bool, typer.Option(help="Accept data that dpsynth made.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    as_json: Json = False,
) -> None:
    """Learn a model of a table under differential privacy."""
    from dpsynth.report.terminal import budget_table
    from dpsynth.synthesize import fit as run

    if out.exists() and any(out.iterdir()):
        raise SchemaError(f"{out} is not empty; choose a new folder")  # before anything is spent
    synth = run(
        data,
        epsilon=epsilon,
        delta=delta,
        schema=schema,
        unit=unit,
        max_rows_per_unit=max_rows_per_unit,
        model=model,
        ledger=ledger,
        dataset=dataset,
        allow_synthetic=allow_synthetic,
        device=device,
    )
    synth.save(out)
    _out(synth.privacy if as_json else budget_table(synth.privacy), as_json)
    if not as_json:
        _out(f"The model is in {out}. Next: dpsynth release {out} --out FOLDER", False)


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(help="Folder of a fitted model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV or Parquet file to write.")],
    n: Annotated[int | None, typer.Option("-n", help="Rows; default: as many as the source, about.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="column=value that every row is to have.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the draw repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Draw synthetic rows from a model. Free: as often as you like."""
    from dpsynth.synthesizer import load

    conditions = dict(_pair(w) for w in where or ())
    table = load(model).sample(n, where=conditions or None, seed=seed)
    if out.suffix == ".parquet":
        table.to_parquet(out, index=False)
    elif ".csv" in out.suffixes:
        table.to_csv(out, index=False)
    else:
        raise SchemaError("--out must end in .csv or .parquet")
    _out({"rows": len(table), "file": str(out)} if as_json else f"{len(table):,} rows written to {out}", as_json)


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise SchemaError("--where takes column=value")
    return name, value


@app.command()
def scan(data: Annotated[str, typer.Argument(help="CSV or Parquet file.")], as_json: Json = False) -> None:
    """What a fit would drop, scrub or keep, and why. For your eyes: not differentially private."""
    from dpsynth.detect import scan as run

    _out(run(data), as_json)


@app.command()
def plan(
    schema: Annotated[Path, typer.Argument(help="JSON file of public facts.")],
    epsilon: Epsilon,
    delta: Delta = 1e-6,
    rows: Annotated[int | None, typer.Option(help="Number of units, if it is public.")] = None,
    as_json: Json = False,
) -> None:
    """How a fit would split its budget. Touches no data."""
    from dpsynth.schema import Schema
    from dpsynth.split import plan as run

    _out(run(Schema.load(schema), epsilon=epsilon, delta=delta, n_rows=rows), as_json)


@app.command()
def evaluate(
    real: Annotated[str, typer.Argument(help="The real table.")],
    synthetic: Annotated[str, typer.Argument(help="The synthetic table.")],
    holdout: Annotated[str | None, typer.Option(help="Real rows that were not learned from.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the internal report.")] = None,
    as_json: Json = False,
) -> None:
    """How close a synthetic table is to the real one. Reads real rows: the result stays inside."""
    from dpsynth.fidelity import evaluate as run

    report = run(real, synthetic, holdout)
    if html is not None:
        report.to_html(html)
    _out(report, as_json)


@app.command()
def release(
    model: Annotated[Path, typer.Argument(help="Folder of a fitted model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the release.")],
    n: Annotated[int | None, typer.Option("-n", help="Rows; default: the table that the gate measured.")] = None,
    recipient: Annotated[str | None, typer.Option(help="Who it is for.")] = None,
    purpose: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    expires: Annotated[str | None, typer.Option(help="Last day of use, e.g. 2027-01-31.")] = None,
    sign_with: Annotated[Path | None, typer.Option(help="Private key (PEM); make one with: dpsynth keys new")] = None,
    accept_inconclusive: Annotated[bool, typer.Option(help="Release although the gate cannot decide.")] = False,
    ledger: Annotated[str | None, typer.Option("--ledger", help="Also book the release in this ledger.")] = None,
    as_json: Json = False,
) -> None:
    """Draw a table, let the gate judge it, and write the folder for the partner team."""
    from dpsynth.bundle import release as run
    from dpsynth.privacy.ledger import Ledger
    from dpsynth.report.terminal import gate_table
    from dpsynth.synthesizer import load

    done = run(
        load(model),
        out,
        n,
        recipient=recipient,
        purpose=purpose,
        expires=expires,
        sign_with=sign_with,
        accept_inconclusive=accept_inconclusive,
        ledger=Ledger(ledger) if ledger else None,
    )
    if as_json:
        _out({"path": str(done.path), "rows": done.rows, "files": done.files, "gate": done.gate.to_json()}, True)
        return
    _out(gate_table(done.gate), False)
    _out(f"{done.rows:,} rows released to {done.path}. Check it with: dpsynth verify {done.path}", False)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A release folder.")],
    public_key: Annotated[Path | None, typer.Option(help="Public key (PEM) that must have signed it.")] = None,
    as_json: Json = False,
) -> None:
    """Check a release folder offline: files, statement, schema, signature."""
    from dpsynth.verification import verify as run

    found = run(folder, public_key=public_key)
    if as_json:
        _out(found, True)
    elif found.ok:
        signed = ", signed by this key" if found.signed else ""
        _out(f"[green]verified[/]: epsilon {found.epsilon:.6g} at delta {found.delta:g}, recomputed from its events{signed}", False)
    found.require()


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything the demo makes.")] = Path("demo-out"),
    epsilon: Epsilon = 3.0,
    as_json: Json = False,
) -> None:
    """A real health survey, from raw rows to a release folder."""
    from dpsynth.console import stdout
    from dpsynth.demo import run, show

    made = run(out, epsilon=epsilon)
    if as_json:
        scores = {k: asdict(getattr(made.fidelity, k)) for k in ("synthetic", "ceiling", "floor")}
        _out({"release": str(made.release_dir), "gate": made.release.gate.to_json(), "fidelity": scores}, True)
    else:
        show(made, stdout())


@budget.command("show")
def budget_show(ledger: LedgerUrl = None, as_json: Json = False) -> None:
    """What was spent, by data set and run."""
    from dpsynth.privacy.ledger import Ledger
    from dpsynth.report.terminal import ledger_tables

    book = Ledger(ledger)
    spent = [(record, book.spent(record.id)) for record in book.datasets()]
    if as_json:
        _out([asdict(record) | asdict(total) for record, total in spent], True)
    else:
        _out(ledger_tables(spent), False)


@budget.command("set")
def budget_set(
    name: Annotated[str, typer.Argument(help="The data set's name.")],
    epsilon: Epsilon,
    delta: Annotated[float, typer.Option("--delta", help="Delta of the cap.")] = 1e-5,
    ledger: LedgerUrl = None,
    as_json: Json = False,
) -> None:
    """Cap what may ever be spent on a data set."""
    from dpsynth.privacy.ledger import Ledger

    record = Ledger(ledger).set_cap(name, epsilon=epsilon, delta=delta)
    _out(asdict(record) if as_json else f"{name}: never more than epsilon {epsilon:g} at delta {delta:g}", as_json)


@budget.command("report")
def budget_report(run: Annotated[str, typer.Argument(help="A run's id.")], ledger: LedgerUrl = None, as_json: Json = False) -> None:
    """Every query of one run."""
    from dpsynth.privacy.events import to_json
    from dpsynth.privacy.ledger import Ledger
    from dpsynth.report.terminal import events_table

    events = Ledger(ledger).events(run)
    _out([to_json(e) for e in events] if as_json else events_table(events), as_json)


@budget.command("verify")
def budget_verify(ledger: LedgerUrl = None, as_json: Json = False) -> None:
    """Is the ledger as it was written?"""
    from dpsynth.privacy.ledger import Ledger

    problems = Ledger(ledger).verify()
    if as_json:
        _out({"ok": not problems, "problems": problems}, True)
    if problems:
        raise VerificationError("; ".join(problems))
    if not as_json:
        _out("[green]verified[/]: every entry is as it was written", False)


@keys.command("new")
def keys_new(path: Annotated[Path, typer.Argument(help="File for the private key.")] = Path("dpsynth-key.pem")) -> None:
    """Make a key pair for signing releases."""
    from dpsynth.privacy.keys import new_keys

    private, public = new_keys(path)
    _out(f"private key: {private} (keep it)\npublic key: {public} (give it to who verifies)", False)

"""The command line: the same calls, for people and for scripts.

Results go to stdout (tables, or JSON with --json), progress and errors to stderr. Exit codes: 0 done, 2 bad input,
3 gate failed, 4 budget refused, 5 not verified; 1 for what was not expected.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from dpsynth.privacy.errors import BudgetExceeded, DpsynthError, GateFailed, SchemaError, VerificationError

if TYPE_CHECKING:
    from rich.table import Table

    from dpsynth.models.language.catalogue import Listed

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
models = typer.Typer(no_args_is_help=True, help="Public models that texts are read and written with.")
app.add_typer(models, name="models")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LedgerUrl = Annotated[
    str | None, typer.Option("--ledger", help="Ledger URL or file; default $DPSYNTH_LEDGER or your own.")
]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="One data set alone: its name or id.")]
Epsilon = Annotated[float, typer.Option("--epsilon", "-e", help="The whole privacy budget.")]
Delta = Annotated[float, typer.Option("--delta", help="Chance that the guarantee fails.")]

PatternsOnly = Annotated[
    bool, typer.Option("--patterns-only", help="Find identifiers by form alone, without models. The statement says so.")
]

ModelName = Annotated[str, typer.Option("--model", help="auto, marginals, aim, mst, ctgan or language.")]
TableName = Annotated[str | None, typer.Option("--table", help="Table of the database or DuckDB file.")]
DATA = "CSV or Parquet file, folder of them, DuckDB file, or URL of a database."

EXIT_CODES: dict[type[DpsynthError], int] = {GateFailed: 3, BudgetExceeded: 4, VerificationError: 5}


def main() -> NoReturn:
    """Entry point of the `dpsynth` command."""
    with _failing_clearly():
        app(standalone_mode=True)
    sys.exit(0)


@contextmanager
def _failing_clearly() -> Iterator[None]:
    """Errors as one line and an exit code. What is not ours is named by its type alone: its text could quote a row."""
    from rich.markup import escape

    from dpsynth.console import stderr

    try:
        yield
    except DpsynthError as error:
        code = next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 2)
        kind, message = type(error).__name__, str(error)
    except OSError as error:
        code, kind = 2, "cannot be read or written"
        message = f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}"
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        code, kind = 1, f"unexpected {type(error).__name__}"
        message = "nothing is shown, for it could quote a row; to see where: dpsynth --debug ..."
    else:
        return
    stderr().print(f"[bold red]{kind}[/]: {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _out(as_json: bool, body: Any, *shown: Any) -> None:
    """A result on stdout: `body` as JSON, or for people what is `shown` (default: the body itself)."""
    if as_json:
        plain = body.to_json() if hasattr(body, "to_json") else body
        sys.stdout.write(json.dumps(plain, indent=1, default=str) + "\n")
        return
    from dpsynth.console import stdout

    for value in shown or (body,):
        if isinstance(value, str):  # as it is, and in one line, so that a path can be copied
            stdout().print(value, markup=False, highlight=False, soft_wrap=True)
        else:
            stdout().print(value)


def _named(data: str, table: str | None) -> Any:
    """What --table adds to a source. Raises SchemaError where it has no tables."""
    from dpsynth.sources import SQL, DuckDB

    if table is None:
        return data
    if "://" in data:
        return SQL(data, table=table)
    if data.endswith((".duckdb", ".ddb")):
        return DuckDB(data, table=table)
    raise SchemaError("--table goes with the URL of a database or a .duckdb file")


def _new_folder(path: Path) -> None:
    """Make a folder that is to be written to, before anything is spent. Raises SchemaError where it has contents."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SchemaError(f"{path} exists and is not an empty folder; choose a new one")
    path.mkdir(parents=True, exist_ok=True)


def _require_table_file(path: Path) -> None:
    """Refuse what no table can be written to, before one is drawn. Raises SchemaError."""
    if path.suffix != ".parquet" and ".csv" not in path.suffixes:
        raise SchemaError("--out must end in .csv or .parquet")
    from dpsynth.outputs import require_file

    require_file(path)


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks. They may quote rows: for your eyes only.")
    ] = False,
) -> None:
    pass


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help=DATA)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the model.")],
    epsilon: Epsilon,
    delta: Delta = 1e-6,
    table: TableName = None,
    schema: Annotated[Path | None, typer.Option(help="JSON file of public facts.")] = None,
    unit: Annotated[str | None, typer.Option(help="Column that names the privacy unit.")] = None,
    max_rows_per_unit: Annotated[int | None, typer.Option(help="Most rows a unit contributes.")] = None,
    model: ModelName = "auto",
    ledger: LedgerUrl = None,
    dataset: Annotated[str | None, typer.Option(help="The ledger's name for these data.")] = None,
    allow_synthetic: Annotated[bool, typer.Option(help="Accept data that dpsynth made.")] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps what was bought; the same call takes up a fit that was killed."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    patterns_only: PatternsOnly = False,
    max_tv1: Annotated[float, typer.Option(help="Gate: mean distance of columns allowed above chance.")] = 0.05,
    max_tv2: Annotated[float, typer.Option(help="Gate: mean distance of pairs allowed above chance.")] = 0.10,
    as_json: Json = False,
) -> None:
    """Learn a model of a table under differential privacy."""
    from dpsynth.gate import Gate
    from dpsynth.report.terminal import budget_table
    from dpsynth.synthesize import fit as run

    source = _named(data, table)
    _new_folder(out)
    synth = run(
        source,
        epsilon=epsilon,
        delta=delta,
        schema=schema,
        unit=unit,
        max_rows_per_unit=max_rows_per_unit,
        model=model,
        ledger=ledger,
        dataset=dataset,
        allow_synthetic=allow_synthetic,
        checkpoint=checkpoint,
        device=device,
        patterns_only=patterns_only,
        gate=Gate(max_tv1=max_tv1, max_tv2=max_tv2),
    )
    synth.save(out)
    _out(
        as_json,
        synth.privacy,
        budget_table(synth.privacy),
        f"The model is in {out}. Next: dpsynth release {out} --out FOLDER",
    )


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(help="Folder of a fitted model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV or Parquet file to write.")],
    n: Annotated[int | None, typer.Option("-n", help="Rows; default: as many as the source, about.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="column=value that every row is to have.")] = None,
    balance: Annotated[str | None, typer.Option(help="A column whose labels are to be equally frequent.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the draw repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Draw synthetic rows from a model. Free: as often as you like."""
    from dpsynth.synthesizer import load

    _require_table_file(out)
    pairs = [_pair(w) for w in where or ()]
    conditions = dict(pairs)
    if twice := sorted({name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1}):
        raise SchemaError(f"--where: column {twice[0]!r} stands twice")
    table = load(model).sample(n, where=conditions or None, balance=balance, seed=seed)
    if out.suffix == ".parquet":
        table.to_parquet(out, index=False)
    else:
        table.to_csv(out, index=False)
    _out(as_json, {"rows": len(table), "file": str(out)}, f"{len(table):,} rows written to {out}")


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise SchemaError("--where takes column=value")
    return name, value


@app.command()
def scan(
    data: Annotated[str, typer.Argument(help=DATA)],
    table: TableName = None,
    schema: Annotated[Path | None, typer.Option(help="JSON file of public facts; what it declares decides.")] = None,
    against: Annotated[str | None, typer.Option(help="A synthetic table: what of DATA stands in it?")] = None,
    audit: Annotated[Path | None, typer.Option(help="Log to append the decisions to; it holds no value.")] = None,
    patterns_only: PatternsOnly = False,
    as_json: Json = False,
) -> None:
    """What a fit would drop, scrub or keep, and why. For your eyes: not differentially private."""
    from dpsynth.detect import copies
    from dpsynth.detect import scan as run

    source = _named(data, table)
    if against is not None:
        _out(as_json, copies(source, against, schema))
        return
    report = run(source, schema, patterns_only=patterns_only)
    if audit is not None:
        report.audit(audit)
    _out(as_json, report)


@app.command()
def plan(
    schema: Annotated[Path, typer.Argument(help="JSON file of public facts.")],
    epsilon: Epsilon,
    delta: Delta = 1e-6,
    rows: Annotated[int | None, typer.Option(help="Number of units, if it is public.")] = None,
    model: ModelName = "auto",
    as_json: Json = False,
) -> None:
    """How a fit would split its budget. Touches no data."""
    from dpsynth.planning import plan as run
    from dpsynth.schema import Schema

    _out(as_json, run(Schema.load(schema), epsilon=epsilon, delta=delta, n_rows=rows, model=model))


@app.command()
def evaluate(
    real: Annotated[str, typer.Argument(help=f"The real table: {DATA}")],
    synthetic: Annotated[
        str | None, typer.Argument(help="The synthetic table; may be left out with --generations.")
    ] = None,
    table: Annotated[str | None, typer.Option("--table", help="Table of REAL, a database or DuckDB file.")] = None,
    holdout: Annotated[str | None, typer.Option(help="Real rows that were not learned from.")] = None,
    schema: Annotated[Path | None, typer.Option(help="JSON file of public facts, the target among them.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the internal report.")] = None,
    generations: Annotated[
        int | None, typer.Option(help="Also fit on REAL, on the rows that makes, and so on, so many times. Spends.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option("--epsilon", "-e", help="Budget of each of these fits.")] = None,
    delta: Delta = 1e-6,
    mix: Annotated[bool, typer.Option(help="Also with REAL mixed into every generation: each then spends.")] = False,
    unit: Annotated[str | None, typer.Option(help="Column that names the privacy unit.")] = None,
    max_rows_per_unit: Annotated[int | None, typer.Option(help="Most rows a unit contributes.")] = None,
    ledger: LedgerUrl = None,
    dataset: Annotated[str | None, typer.Option(help="The ledger's name for these data.")] = None,
    as_json: Json = False,
) -> None:
    """How close a synthetic table is to the real one, and what is lost over generations. The result stays inside."""
    from dataclasses import replace

    from dpsynth.fidelity import evaluate as run
    from dpsynth.outputs import require_file
    from dpsynth.schema import Schema

    if synthetic is None and generations is None:
        raise SchemaError("a synthetic table to compare with is missing (or --generations)")
    if html is not None:
        require_file(html)  # with --generations, budget would have been spent
    source = _named(real, table)
    facts = None if schema is None else Schema.load(schema)
    found: Any = None if synthetic is None else run(source, synthetic, holdout, facts)
    if generations is not None:
        how: dict[str, Any] = {"unit": unit, "max_rows_per_unit": max_rows_per_unit, "schema": facts}
        collapsed = _collapse(source, generations, epsilon, delta, mix, how | {"ledger": ledger, "dataset": dataset})
        found = collapsed if found is None else replace(found, generations=collapsed)
    if html is not None:
        found.to_html(html)
    _out(as_json, found, found, *([f"The internal report is {html}: keep it inside."] if html else []))


def _collapse(real: Any, generations: int, epsilon: float | None, delta: float, mix: bool, each: dict[str, Any]) -> Any:
    """The generations, after it was said what they cost."""
    from dpsynth.console import stderr
    from dpsynth.generations import collapse, total_cost

    if epsilon is None:
        raise SchemaError("--generations needs --epsilon, the budget of each fit")
    fits = generations if mix else 1
    _, total, at = total_cost(fits, epsilon, delta)
    stderr().print(
        f"{fits} of the fits read{'s' if fits == 1 else ''} the real rows and {'is' if fits == 1 else 'are'} booked in the ledger: "
        f"epsilon {total:.4g} at delta {at:g} in all",
        highlight=False,
        soft_wrap=True,
    )
    return collapse(real, generations, epsilon=epsilon, delta=delta, mix=mix, **each)


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
    _out(
        as_json,
        {"path": str(done.path), "rows": done.rows, "files": done.files, "gate": done.gate.to_json()},
        gate_table(done.gate),
        f"{done.rows:,} rows released to {done.path}. Check it with: dpsynth verify {done.path}",
    )


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A release folder.")],
    public_key: Annotated[Path | None, typer.Option(help="Public key (PEM) that must have signed it.")] = None,
    as_json: Json = False,
) -> None:
    """Check a release folder offline: files, statement, schema, signature."""
    from dpsynth.verification import verify as run

    found = run(folder, public_key=public_key)
    if as_json or found.ok:
        by = ", signed by this key" if found.signed else ""
        told = (
            f"verified: epsilon {found.epsilon:.6g} at delta {found.delta:g}, recomputed from its events{by}"
            if found.ok
            else ""
        )
        _out(as_json, found, told)
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
        _out(True, {"release": str(made.release_dir), "gate": made.release.gate.to_json(), "fidelity": scores})
    else:
        show(made, stdout())


@budget.command("show")
def budget_show(dataset: DatasetName = None, ledger: LedgerUrl = None, as_json: Json = False) -> None:
    """What was spent, by data set and run, who holds what of it, and what is left."""
    from dpsynth.privacy.ledger import Ledger
    from dpsynth.report.budget_tables import overview
    from dpsynth.report.spending import spending

    spent = spending(Ledger(ledger), dataset)
    _out(as_json, spent, overview(spent))


@budget.command("set")
def budget_set(
    name: Annotated[str, typer.Argument(help="The data set's name; NAME/LABEL for a part of its budget.")],
    epsilon: Epsilon,
    delta: Annotated[float, typer.Option("--delta", help="Delta of the cap.")] = 1e-5,
    rule: Annotated[str, typer.Option(help="How runs add up: gdp (exact for Gaussian noise) or rdp.")] = "gdp",
    unit: Annotated[str | None, typer.Option(help="Privacy unit the cap counts in; default: that of the runs.")] = None,
    ledger: LedgerUrl = None,
    as_json: Json = False,
) -> None:
    """Cap what may ever be spent on a data set, or on a part of its budget."""
    from dpsynth.privacy.ledger import Ledger

    dataset, _, label = name.partition("/")
    cap: dict[str, Any] = {"epsilon": epsilon, "delta": delta, "rule": rule, "unit": unit}
    book = Ledger(ledger)
    record = book.set_sub_budget(dataset, label, **cap) if label else book.set_cap(name, **cap)
    _out(as_json, asdict(record), f"{name}: never more than epsilon {epsilon:g} at delta {delta:g}")


@budget.command("report")
def budget_report(
    dataset: DatasetName = None,
    run: Annotated[str | None, typer.Option(help="One run, with every query.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to show around.")] = None,
    ledger: LedgerUrl = None,
    as_json: Json = False,
) -> None:
    """What was spent on what, released to whom, and what that lets them learn."""
    from dpsynth.privacy.ledger import Ledger
    from dpsynth.report import budget as pages
    from dpsynth.report import budget_tables as tables
    from dpsynth.report.spending import run_json, run_of, spending

    spent = spending(Ledger(ledger), dataset)
    found = run_of(spent.datasets, run) if run is not None else None
    if html is not None:
        html.write_text(pages.render_run(*found) if found else pages.render(spent), encoding="utf-8")
    body = run_json(*found) if found else spent.to_json()
    shown = tables.run_tables(*found) if found else tables.full(spent)
    _out(as_json, body, shown, *([f"The report is {html}: one file, to be opened in any browser."] if html else []))


@budget.command("certificate")
def budget_certificate(
    folder: Annotated[Path, typer.Argument(help="A release folder, or the folder of a fitted model.")],
    html: Annotated[Path | None, typer.Option(help="Write it as a page.")] = None,
    as_json: Json = False,
) -> None:
    """A run's privacy statement for reading, every figure recomputed."""
    from dpsynth.privacy.statement import PrivacyStatement
    from dpsynth.report.certificate import certificate_tables, render
    from dpsynth.synthesizer import load

    saved = (folder / "model.json").exists()
    statement = load(folder).privacy if saved else PrivacyStatement.load(folder / "privacy.json")
    if html is not None:
        html.write_text(render(statement), encoding="utf-8")
    _out(as_json, statement, certificate_tables(statement), *([f"The certificate is {html}."] if html else []))


@budget.command("verify")
def budget_verify(
    head: Annotated[str | None, typer.Option(help="A certificate's ledger head, to be found in the chain.")] = None,
    ledger: LedgerUrl = None,
    as_json: Json = False,
) -> None:
    """Is the ledger as it was written?"""
    from dpsynth.privacy.ledger import Ledger

    problems = Ledger(ledger).verify(head)
    if as_json or not problems:
        _out(as_json, {"ok": not problems, "problems": problems}, "verified: every entry is as it was written")
    if problems:
        raise VerificationError("; ".join(problems))


@keys.command("new")
def keys_new(
    path: Annotated[Path, typer.Argument(help="File for the private key.")] = Path("dpsynth-key.pem"),
    as_json: Json = False,
) -> None:
    """Make a key pair for signing releases."""
    from dpsynth.privacy.keys import new_keys

    private, public = new_keys(path)
    _out(
        as_json,
        {"private_key": str(private), "public_key": str(public)},
        f"private key: {private} (keep it)\npublic key: {public} (give it to who verifies)",
    )


@models.command("list")
def models_list(
    base: Annotated[
        str | None, typer.Argument(help="Also another language model: its folder or file, or a hub's name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Which of them are there, how large, and whether their files are those that were meant."""
    from dpsynth.models.language.catalogue import listed

    found = listed(base)
    lacking = [m.name for m in found if m.state in ("missing", "damaged")]
    said = [f"To get what is lacking: dpsynth models pull {' '.join(lacking)}"] if lacking else []
    _out(as_json, [asdict(m) for m in found], _models_table(found), *said)


@models.command("pull")
def models_pull(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names as listed, or a hub's; default: all that are listed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Get those that are missing or damaged, and check the hashes of their files."""
    from dpsynth.models.language.catalogue import listed, pull

    found = [pull(name) for name in names or [m.name for m in listed()]]
    _out(as_json, [asdict(m) for m in found], _models_table(found))


def _models_table(found: Sequence[Listed]) -> Table:
    from rich.table import Table

    table = Table("model", "does", "package", "licence", "MB", "state")
    for m in found:
        table.add_row(m.name, m.role, m.package, m.licence or "?", f"{m.bytes / 1e6:,.0f}" if m.bytes else "", m.state)
    return table

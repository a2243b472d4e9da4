"""The public surface, by heart: a change here is a change for every user."""

from __future__ import annotations

import inspect
import pkgutil
from types import ModuleType

import pytest

import dpsynth
from dpsynth.privacy import errors

NAMES = (
    "SQL BudgetExceeded BudgetPlan Collapse Column Determines DpsynthError DuckDB FidelityReport Gate GateFailed GateReport Impossible Ledger "
    "LedgerError ModelError Ordered PIIError PrivacyError PrivacyStatement Release Schema SchemaError Synthesizer Total "
    "Verification VerificationError __version__ collapse evaluate fit load plan release scan scrub verify"
).split()

SIGNATURES = {
    "fit": "data *epsilon *delta *schema *unit *max_rows_per_unit *model *gate *ledger *dataset *allow_synthetic "
    "*max_seconds *max_memory *checkpoint *device *patterns_only *progress *insecure_seed",
    "collapse": "data generations *epsilon *delta *mix *schema *unit *max_rows_per_unit *model *ledger *dataset *device "
    "*patterns_only *progress *insecure_seed",
    "load": "path",
    "plan": "schema *epsilon *delta *n_rows *model *gate *split",
    "scan": "data schema *patterns_only *progress",
    "scrub": "texts",
    "evaluate": "real synthetic holdout schema *sdmetrics *learners *texts *canaries",
    "release": "synth out n *recipient *purpose *expires *sign_with *accept_inconclusive *ledger",
    "verify": "out *public_key",
    "Schema": "columns constraints",
    "Column": "name kind *bounds *categories *integer *decimals *nullable *role *entity *sensitive",
    "Determines": "column dependent mapping",
    "Impossible": "where",
    "Ordered": "low high *strict",
    "Total": "total parts",
    "SQL": "url *table *schema *query",
    "DuckDB": "path *table *query",
    "Ledger": "url",
    "Synthesizer.sample": "self n *where *balance *seed *frame",
    "Synthesizer.chunks": "self n *seed *rows",
    "Synthesizer.write": "self to n *seed *rows",
    "Synthesizer.save": "self path",
    "Schema.from_sdv": "metadata_or_path ranges",
    "Schema.to_sdv": "self table",
    "Schema.from_json_schema": "model_or_path",
    "Schema.from_pandera": "model ranges",
}


def test_names() -> None:
    assert sorted(dpsynth.__all__) == sorted(NAMES)
    assert dir(dpsynth) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there_and_is_no_module(name: str) -> None:
    assert not isinstance(getattr(dpsynth, name), ModuleType)


def test_no_module_hides_a_public_name() -> None:
    """Importing a submodule puts it into the package: a module `release` would replace the function `release`."""
    modules = {module.name for module in pkgutil.iter_modules(dpsynth.__path__)}
    assert not modules & set(NAMES)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'synthesise'"):
        _ = dpsynth.synthesise


@pytest.mark.parametrize(("name", "expected"), SIGNATURES.items(), ids=SIGNATURES.keys())
def test_signatures(name: str, expected: str) -> None:
    target = dpsynth
    for part in name.split("."):
        target = getattr(target, part)
    parameters = inspect.signature(target).parameters.values()
    # A dataclass' KW_ONLY marker is no parameter; "*" marks what must be given by name.
    assert " ".join(("*" if p.kind is p.KEYWORD_ONLY else "") + p.name for p in parameters) == expected


def test_nothing_about_privacy_has_a_default_that_weakens_it() -> None:
    parameters = inspect.signature(dpsynth.fit).parameters
    assert parameters["epsilon"].default is inspect.Parameter.empty
    assert parameters["delta"].default == 1e-6
    assert parameters["allow_synthetic"].default is False
    assert parameters["insecure_seed"].default is None
    assert inspect.signature(dpsynth.release).parameters["accept_inconclusive"].default is False
    assert inspect.signature(dpsynth.Schema.from_sdv).parameters["ranges"].default is inspect.Parameter.empty


def test_errors_are_one_tree() -> None:
    kinds = {n: k for n, k in vars(errors).items() if inspect.isclass(k) and issubclass(k, Exception)}
    assert set(kinds) == {n for n in NAMES if n.endswith(("Error", "Exceeded", "Failed"))}
    assert all(issubclass(kind, dpsynth.DpsynthError) for kind in kinds.values())
    assert issubclass(dpsynth.BudgetExceeded, dpsynth.PrivacyError)
    assert issubclass(dpsynth.LedgerError, dpsynth.PrivacyError)
    assert all(getattr(dpsynth, name) is kind for name, kind in kinds.items())

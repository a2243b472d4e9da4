"""The owner's comparison finds what was copied, wherever it stands, and lets chance be chance."""

from __future__ import annotations

import numpy as np
import pytest

from dpsynth.privacy.pii import fake_columns, find_copies

NOTE = "the patient says that the pain began on the left side after she fell from the second step of the ladder"


def real() -> dict[str, list[str]]:
    made = fake_columns({"name": "PERSON"}, 3000, np.random.default_rng(0))["name"]
    return {
        "name": made,
        "email": [f"{n.split()[0].lower()}{i}@mailbox.org" for i, n in enumerate(made)],
        "file": [f"case-{i:05d}-{i * 7919 % 10007:05d}" for i in range(3000)],
        "note": [NOTE, *("nothing to report" for _ in range(2999))],
        "city": ["Lima", "Oslo", "Rome"] * 1000,
        "amount": [f"{i * 1.37:.2f}" for i in range(3000)],
        "day": [f"2024-{i % 12 + 1:02d}-{i % 28 + 1:02d}" for i in range(3000)],
    }


def clean(n: int = 3000, seed: int = 1) -> dict[str, list[str]]:
    rng = np.random.default_rng(seed)
    made = fake_columns({"name": "PERSON", "email": "EMAIL_ADDRESS"}, n, rng)
    return {
        **made,
        "file": [f"file-{i:07d}" for i in range(n)],
        "note": ["nothing to report"] * n,
        "city": list(rng.choice(["Lima", "Oslo", "Rome"], n)),
        "amount": [f"{x:.2f}" for x in rng.random(n) * 4000],
        "day": ["2024-03-03"] * n,
    }


def test_a_table_made_without_looking_is_clean_though_names_coincide() -> None:
    report = find_copies(real(), clean())
    assert report.clean
    assert any(c.kind == "name" and c.cells > 0 and c.by_chance > 0 for c in report.copies), (
        "the probe sees no coincidence"
    )


@pytest.mark.parametrize(
    "column, cell, kind, source",
    [
        ("email", real()["email"][7], "identifier", "email"),
        ("note", f"write to {real()['email'][8].upper().replace('@', ' (at) ')} soon", "identifier", "email"),
        ("city", real()["file"][9], "value", "file"),
        ("city", real()["file"][9].replace("-", " ").upper(), "value", "file"),
        ("note", f"see {real()['file'][10]} for more", "within", "file"),
        ("note", "she said " + NOTE[20:80], "words", "note"),
        (real()["file"][11], "x", "value", "file"),
    ],
)
def test_what_was_copied_is_found_in_any_column(column: str, cell: str, kind: str, source: str) -> None:
    synthetic = clean(500)
    synthetic.setdefault(column, ["x"] * 500)[3] = cell
    report = find_copies(real(), synthetic)
    assert not report.clean
    assert any(c.kind == kind and c.real_column == source and c.alarming for c in report.copies)


def test_more_names_than_chance_gives_are_found() -> None:
    synthetic = clean()
    synthetic["name"][:400] = real()["name"][:400]
    (hit,) = [c for c in find_copies(real(), synthetic).copies if c.kind == "name" and c.synthetic_column == "name"]
    assert hit.alarming and hit.cells > hit.by_chance + 300


def test_declared_values_are_no_copies_and_the_report_shows_no_value() -> None:
    synthetic = clean(50)
    synthetic["city"][0] = secret = real()["file"][9]
    assert find_copies(real(), synthetic, public=[secret]).clean
    report = find_copies(real(), synthetic)
    assert secret not in repr(report) + str(report.to_json())

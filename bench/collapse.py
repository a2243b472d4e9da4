"""What five generations of models leave of the demo's survey, with and without its rows mixed back in; draws docs/collapse.svg.

    python bench/collapse.py [--generations 5] [--epsilon 3] [--json FILE] [--svg FILE]

Takes some minutes. The made-up people in front of the survey are left out: they are identifiers, and never modelled.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import dpsynth
from dpsynth import demo
from dpsynth.report.internal import figure

SVG = Path(__file__).parents[1] / "docs/collapse.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--epsilon", type=float, default=demo.EPSILON)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path, default=SVG)
    asked = parser.parse_args()
    rows, _ = demo.split(demo.table())
    with tempfile.TemporaryDirectory() as folder:
        found = dpsynth.collapse(
            rows[list(demo.COLUMNS)],
            asked.generations,
            epsilon=asked.epsilon,
            mix=True,
            unit=demo.UNIT,
            max_rows_per_unit=demo.MAX_ROWS,
            ledger=dpsynth.Ledger(Path(folder) / "ledger.db"),
            dataset=demo.DATASET,
        )
    if asked.json:
        asked.json.write_text(json.dumps(found.to_json(), indent=1) + "\n", encoding="utf-8")
    asked.svg.write_text(figure(found), encoding="utf-8")
    from dpsynth.console import stdout

    stdout().print(found)


if __name__ == "__main__":
    main()

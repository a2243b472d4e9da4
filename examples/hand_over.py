"""From the owner's desk to the partner's: a signed folder, checked offline; and the page that says what was spent, for whom.

python examples/hand_over.py [OUT]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

import dpsynth
from dpsynth.privacy.keys import new_keys
from dpsynth.report import budget
from dpsynth.report.spending import spending


def orders(n: int = 20_000) -> pd.DataFrame:
    """Made-up orders."""
    rng = np.random.default_rng(5)
    country = rng.choice(["DE", "FR", "PL"], n, p=[0.5, 0.3, 0.2])
    return pd.DataFrame(
        {"country": country, "items": rng.poisson(2 + (country == "FR"), n), "paid": rng.random(n) < 0.9}
    )


def main(out: Path) -> None:
    console = Console()
    ledger = dpsynth.Ledger(f"{out / 'ledger.db'}")
    synth = dpsynth.fit(orders(), epsilon=1.0, ledger=ledger, dataset="orders", patterns_only=True)

    # The owner: signed, and booked in the ledger, so that what several partners hold together can be added up.
    private, public = new_keys(out / "owner.pem")
    folder = out / "for-partner"
    dpsynth.release(synth, folder, recipient="Team B", purpose="dashboard", sign_with=private, ledger=ledger)
    (out / "budget.html").write_text(budget.render(spending(ledger)), encoding="utf-8")
    console.print(f"what was spent, and who holds what: {out / 'budget.html'}")

    # The partner: nothing but the folder and the owner's public key.
    console.print(dpsynth.verify(folder, public_key=public))
    table = pd.read_parquet(folder / "data.parquet")
    console.print(table.groupby("country")["items"].mean())

    # A folder that was changed on the way says so.
    (folder / "data.csv").write_text("country,items,paid\n", encoding="utf-8")
    console.print(f"after a change: ok={dpsynth.verify(folder, public_key=public).ok}")


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="dpsynth-"))
    place.mkdir(parents=True, exist_ok=True)
    main(place)

"""From a table in a database to a synthetic table in the same database.

    python examples/database.py [OUT]

SQLite here; any URL that SQLAlchemy knows works the same: "postgresql+psycopg://user@host/db" with `pip install 'dpsynth[postgres]'`.
On the command line: dpsynth fit URL --table people --epsilon 1 --out model
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import sqlalchemy

import dpsynth


def main(out: Path) -> None:
    url = f"sqlite:///{out / 'people.sqlite'}"
    rng = np.random.default_rng(2)
    people = pd.DataFrame({"age": rng.integers(18, 90, 3_000), "city": rng.choice(["Ulm", "Bonn", "Kiel"], 3_000)})
    engine = sqlalchemy.create_engine(url)
    people.to_sql("people", engine, index=False, if_exists="replace")

    # Types come from the database's catalogue. The table is read once, to its end, before anything is spent.
    synth = dpsynth.fit(
        dpsynth.SQL(url, table="people"), epsilon=1.0, ledger=f"{out / 'ledger.db'}", patterns_only=True
    )

    # In chunks, all rows or none; the name must be new.
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("drop table if exists synthetic_people"))
    synth.write(dpsynth.SQL(url, table="synthetic_people"), 10_000)
    with engine.connect() as connection:
        asked = "select city, count(*), avg(age) from synthetic_people group by city"
        for city, rows, age in connection.execute(sqlalchemy.text(asked)):
            print(f"{city}: {rows} synthetic rows, mean age {age:.1f}")
    engine.dispose()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="dpsynth-"))
    folder.mkdir(parents=True, exist_ok=True)
    main(folder)

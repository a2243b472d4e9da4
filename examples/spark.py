"""A Spark DataFrame in, a Spark DataFrame out: rows stay in the cluster, sums alone reach the driver.

    python examples/spark.py [OUT]

Needs `pip install 'dpsynth[spark]'` and Java, on a cluster the same dpsynth in the executors' Python.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import dpsynth


def session(folder: Path) -> Any:
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    made = (
        SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").config("spark.log.level", "ERROR")
    )
    for key, value in {"local.dir": folder / "spark", "sql.warehouse.dir": folder / "tables"}.items():
        made = made.config(f"spark.{key}", str(value))
    return (
        made.config("spark.sql.shuffle.partitions", "2").config("spark.ui.showConsoleProgress", "false").getOrCreate()
    )


def main(out: Path) -> None:
    try:
        import pyspark  # noqa: F401
    except ImportError:
        print("left out: pip install 'dpsynth[spark]'")
        return
    if shutil.which("java") is None:
        print("left out: Spark needs Java")
        return
    spark = session(out)
    visits = spark.range(2_000).selectExpr(
        "cast(id / 3 as bigint) as person",
        "cast(20 + pmod(hash(id), 60) as int) as age",
        "if(id % 3 = 0, 'a', 'b') as ward",
    )
    schema = dpsynth.Schema(
        [
            dpsynth.Column("age", "numeric", bounds=(0, 110), integer=True, nullable=False),
            dpsynth.Column("ward", "categorical", categories=["a", "b"], nullable=False),
        ]
    )
    synth = dpsynth.fit(
        visits,
        epsilon=1.0,
        unit="person",
        max_rows_per_unit=3,
        schema=schema,
        patterns_only=True,
        ledger=f"{out / 'ledger.db'}",
    )
    # The executors draw the rows, each partition by itself.
    made = synth.sample(5_000, frame=spark)
    made.write.mode("overwrite").parquet(str(out / "synthetic"))
    print(f"{spark.read.parquet(str(out / 'synthetic')).count()} synthetic rows in {out / 'synthetic'}")
    spark.stop()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="dpsynth-"))
    folder.mkdir(parents=True, exist_ok=True)
    main(folder)

"""Other synthesizers, each installed in an environment of its own: `python bench/peers.py FOLDER [NAME ...]`.

Then `python bench/tabular.py --peers FOLDER --models dpmm-aim smartnoise-mst ...` runs them through the same scorer.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

# What to install for each; `fits.py` says how each is called. sdv has no privacy: it is there for reference.
PEERS = {
    "dpmm": ["dpmm==0.1.9", "pyarrow<20"],
    "smartnoise": ["smartnoise-synth==1.0.8", "pyarrow"],
    "mbi": ["mbi==2.0.0", "pandas<3", "pyarrow"],
    "sdv": ["sdv==2.0.0", "pyarrow"],
}


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of a peer's environment."""
    return folder / name / "bin" / "python"


def install(name: str, folder: Path) -> None:
    venv.create(folder / name, with_pip=True)
    command = [str(python_of(name, folder)), "-m", "pip", "install", "--quiet", *PEERS[name]]
    subprocess.run(command, check=True)
    print(f"{name}: installed", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for wanted in sys.argv[2:] or PEERS:
        install(wanted, Path(sys.argv[1]))

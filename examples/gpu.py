"""Training by DP-SGD on a GPU: a generator warmed up on noisy counts, and a critic that sees clipped, noisy gradients alone.

    python examples/gpu.py [OUT]

The noise comes from the same keyed generator as on a CPU. Whether it pays: docs/ctgan.md has figures.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import dpsynth
from dpsynth.models import CTGAN


def main(out: Path) -> None:
    if not torch.cuda.is_available():
        print("left out: no GPU")
        return
    rng = np.random.default_rng(4)
    age = rng.integers(18, 90, 20_000)
    table = pd.DataFrame(
        {"age": age, "income": age * 500 + rng.normal(0, 6_000, 20_000), "member": rng.random(20_000) < 0.3}
    )
    model = CTGAN(training_share=0.3, steps=200, warm_up_steps=500)
    synth = dpsynth.fit(
        table, epsilon=2.0, model=model, device="cuda", ledger=f"{out / 'ledger.db'}", patterns_only=True
    )
    print(synth.privacy.sentence())
    print(synth.sample(5))


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="dpsynth-"))
    folder.mkdir(parents=True, exist_ok=True)
    main(folder)

"""Models by the names that `fit` and `plan` know them by."""

from __future__ import annotations

from dpsynth.models.protocol import Generator
from dpsynth.privacy.errors import ModelError

# Names of the marginals models: they train on no row, so that a plan of them needs none of what learns.
UNTRAINED = ("auto", "marginals", "mst", "aim")


def generator_of(model: str | Generator) -> Generator:
    """A model's settings by its name."""
    from dpsynth.models.ctgan.generator import CTGAN
    from dpsynth.models.language.generator import Language
    from dpsynth.models.marginals.generator import Marginals

    if not isinstance(model, str):
        return model
    named: dict[str, Generator] = {
        "auto": Marginals(),
        "language": Language(),
        "marginals": Marginals(),
        "mst": Marginals(structure="tree"),
        "aim": Marginals(structure="adaptive"),
        "ctgan": CTGAN(),
    }
    if model not in named:
        raise ModelError(f"model must be one of {', '.join(named)}, or settings such as dpsynth.models.Marginals()")
    return named[model]

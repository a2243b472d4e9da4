"""What learns: each model family in a folder of its own, behind one small protocol."""

from typing import TYPE_CHECKING, Any

if not __name__.startswith("dpsynth."):
    raise ImportError("import dpsynth.models, not models: a second copy of the classes would be made")

if TYPE_CHECKING:
    from dpsynth.models.ctgan.generator import CTGAN
    from dpsynth.models.language.generator import Language
    from dpsynth.models.marginals.generator import Marginals

__all__ = ["CTGAN", "Language", "Marginals"]


def __getattr__(name: str) -> Any:
    if name == "Marginals":  # loads torch, so only when asked for
        from dpsynth.models.marginals.generator import Marginals

        return Marginals
    if name == "CTGAN":
        from dpsynth.models.ctgan.generator import CTGAN

        return CTGAN
    if name == "Language":
        from dpsynth.models.language.generator import Language

        return Language
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

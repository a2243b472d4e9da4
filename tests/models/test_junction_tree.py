"""Triangulation edge by edge against one from scratch; junction trees against what makes them so."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpsynth.models.marginals.junction_tree import JunctionTree, Triangulation, build

Edges = list[tuple[int, int]]
Graph = tuple[list[int], Edges]


@st.composite
def graphs(draw: st.DrawFn, most: int = 9) -> Graph:
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=most))
    pairs = list(itertools.combinations(range(len(sizes)), 2))
    return sizes, draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []


def greedy_cliques(sizes: list[int], edges: Edges) -> list[set[int]]:
    """The maximal cliques of greedy elimination, the slow way."""
    neighbours: dict[int, set[int]] = {a: set() for a in range(len(sizes))}
    for a, b in edges:
        neighbours[a].add(b)
        neighbours[b].add(a)
    cliques: list[set[int]] = []
    while neighbours:
        out = min(neighbours, key=lambda a: (math.prod(sizes[b] for b in neighbours[a] | {a}), a))
        around = neighbours.pop(out)
        cliques.append(around | {out})
        for a in around:
            neighbours[a] = (neighbours[a] | around) - {a, out}
    return [c for i, c in enumerate(cliques) if not any(c < o or (c == o and j < i) for j, o in enumerate(cliques))]


def assert_is_junction_tree(tree: JunctionTree, edges: Edges) -> None:
    assert set().union(*tree.cliques) == set(range(len(tree.sizes)))
    assert all(any({a, b} <= set(c) for c in tree.cliques) for a, b in edges)
    assert not any(set(c) <= set(o) for c, o in itertools.permutations(tree.cliques, 2))
    assert tree.parents[0] == -1 and tree.separators[0] == ()
    for i, (parent, separator) in enumerate(zip(tree.parents[1:], tree.separators[1:], strict=True), 1):
        assert 0 <= parent < i
        assert set(separator) == set(tree.cliques[i]) & set(tree.cliques[parent])
    for a in range(len(tree.sizes)):  # running intersection: the cliques that hold an attribute hang together
        holding = [i for i, c in enumerate(tree.cliques) if a in c]
        assert sum(tree.parents[i] not in holding for i in holding) == 1


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_a_tree_has_the_cliques_of_greedy_elimination_and_runs_connected(graph: Graph) -> None:
    sizes, edges = graph
    tree = build(sizes, edges)
    assert_is_junction_tree(tree, edges)
    assert sorted(tree.cliques) == sorted(tuple(sorted(c)) for c in greedy_cliques(sizes, edges))


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_growing_promises_and_gives_what_building_from_scratch_does(graph: Graph) -> None:
    sizes, edges = graph
    growing = Triangulation(sizes)
    for i, edge in enumerate(edges):
        for other in itertools.combinations(range(len(sizes)), 2):
            assert growing.cells_with(other) == build(sizes, [*edges[:i], other]).cells
        promised = growing.cells_with(edge)
        growing.add(edge)
        assert growing.cells == promised
        assert growing.tree() == build(sizes, edges[: i + 1])
    assert growing.cells == growing.tree().cells == build(sizes, edges[::-1]).cells


def test_growing_is_exact_where_states_are_kept_some_steps_apart() -> None:
    """At 100 attributes a state is kept every third step only, and most edges start in the middle."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 9, 100).tolist()
    growing = Triangulation(sizes)
    edges: Edges = []
    for _ in range(150):
        a, b = sorted(rng.choice(100, 2, replace=False).tolist())
        promised = growing.cells_with((a, b))
        assert promised == sum(math.prod(sizes[x] for x in c) for c in greedy_cliques(sizes, [*edges, (a, b)]))
        if promised < 300_000:
            growing.add((a, b))
            edges.append((a, b))
    assert len(edges) > 60
    assert growing.tree() == build(sizes, edges)


@settings(max_examples=100)
@given(graphs(6), st.data())
def test_home_is_the_smallest_clique_that_holds_the_attributes(graph: Graph, data: st.DataObject) -> None:
    sizes, edges = graph
    tree = build(sizes, edges)
    clique = data.draw(st.sampled_from(tree.cliques))
    wanted = data.draw(st.lists(st.sampled_from(clique), min_size=1))
    fewest = min(math.prod(sizes[a] for a in c) for c in tree.cliques if set(wanted) <= set(c))
    assert math.prod(sizes[a] for a in tree.cliques[tree.home(wanted)]) == fewest


@pytest.mark.parametrize(("d", "candidates", "seconds"), [(100, 1000, 0.5), (1000, 1000, 2.0)])
def test_a_thousand_candidates_take_a_moment(d: int, candidates: int, seconds: float) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.choice([2, 3, 5, 7, 10, 16, 20, 24], d).tolist()
    hubs = rng.pareto(1.5, d)
    pairs = list(itertools.combinations(range(d), 2))
    a, b = np.array(pairs).T
    ranked = np.argsort(-hubs[a] * hubs[b] * rng.random(len(pairs)))[:candidates]
    start = time.process_time()
    growing = Triangulation(sizes)
    for i in ranked:
        if growing.cells_with(pairs[i]) <= 100_000:
            growing.add(pairs[i])
    assert growing.tree().cells == growing.cells <= 100_000
    assert time.process_time() - start < 2 * seconds  # twice: other processes share the caches

"""Maximum entropy given noisy tables, by its dual.

With N units, base measure q (product of the noisy one-way shares) and measured tables y_i of noise sd sigma_i, fit the
log-linear model p(x) ~ q(x) exp(sum_i theta_i[x_i]) that minimises

    N log Z(theta) - sum_i <theta_i, y_i> + 1/2 sum_i lambda sigma_i^2 |theta_i|^2.

At the minimum each table of the model is y_i - lambda sigma_i^2 theta_i: the measured one, give or take its noise. The
objective is smooth, convex and unconstrained, so L-BFGS finds it in about a hundred sweeps; mirror descent on the primal
(McKenna et al., "Graphical-model based estimation and inference for differential privacy", 2019) takes thousands.

Only log Z is written down; automatic differentiation of the upward sweep *is* the downward sweep, and the gradient of
log Z with respect to clique potentials is the clique marginals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from dpsynth.models.marginals.junction_tree import Clique, JunctionTree
from dpsynth.models.marginals.zeros import Given

# What is told how many steps of a stage are done.
Advance = Callable[[int], None]
# Sweeps that a fit makes however little time it has: a model that its measurements have reached.
LEAST_SWEEPS = 10


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one CPU thread: a sweep is many small operations, and threads that wait for each other triple its cost."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A noisy table: attributes in ascending order, values in units, noise sd of each cell.

    groups: for each attribute the table's index of each code, shape (sizes[a],), where the table is coarser than the codes;
    None = a cell for each code.
    """

    attributes: Clique
    values: torch.Tensor
    sigma: torch.Tensor
    groups: tuple[torch.Tensor, ...] | None = None

    def over_codes(self, theta: torch.Tensor) -> torch.Tensor:
        """A factor of the table's shape -> one of shape sizes[attributes]."""
        for axis, index in enumerate(self.groups or ()):
            theta = theta.index_select(axis, index)
        return theta


def log_partition(tree: JunctionTree, potentials: Sequence[torch.Tensor]) -> torch.Tensor:
    """log of the sum over all rows of exp(sum of clique potentials); scalar, differentiable.

    potentials: one log-space tensor for each clique, of shape sizes[clique].
    """
    messages: list[list[tuple[Clique, torch.Tensor]]] = [[] for _ in tree.cliques]
    total = potentials[0].new_zeros(())
    for i in range(len(tree.cliques) - 1, -1, -1):
        clique, separator = tree.cliques[i], tree.separators[i]
        belief = potentials[i]
        for attributes, message in messages[i]:
            belief = belief + _expand(message, attributes, clique)
        summed = [axis for axis, a in enumerate(clique) if a not in separator]
        up = torch.logsumexp(belief, dim=summed) if summed else belief
        if separator:
            messages[tree.parents[i]].append((separator, up))
        else:
            total = total + up
    return total


def clique_marginals(tree: JunctionTree, potentials: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Probabilities of each clique's cells, as gradients of log Z."""
    leaves = [p.detach().requires_grad_() for p in potentials]
    with torch.enable_grad():
        return list(torch.autograd.grad(log_partition(tree, leaves), leaves))


def _expand(tensor: torch.Tensor, attributes: Clique, clique: Clique) -> torch.Tensor:
    """View a tensor over `attributes` so that it broadcasts over `clique` (both ascending)."""
    sizes = dict(zip(attributes, tensor.shape, strict=True))
    return tensor.reshape([sizes.get(a, 1) for a in clique])


def fit_potentials(
    tree: JunctionTree,
    base: Sequence[torch.Tensor],
    tables: Sequence[Table],
    *,
    n_units: float,
    regularisation: float,
    iterations: int,
    given: Sequence[Given] = (),
    start: Sequence[torch.Tensor] = (),
    until: float = math.inf,
    advance: Advance = lambda n: None,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(clique potentials, theta of each table) of the maximum-entropy model, in log space, the potentials normalised to
    log Z = 0; see the module's docstring.

    base: log of each attribute's noisy shares, shape (sizes[a],).  tables: what was measured; each must lie in a clique.
    regularisation: lambda.  iterations: limit for L-BFGS; it stops earlier when it has converged.
    given: factors of the base measure beside the shares (structural zeros); each must lie in a clique.
    start: theta of the first tables, from an earlier fit.  until, advance: see `minimise`.
    """
    homes = [tree.home(t.attributes) for t in tables]
    fixed = [base[0].new_zeros([tree.sizes[a] for a in clique]) for clique in tree.cliques]
    for a, log_share in enumerate(base):
        i = tree.home((a,))
        fixed[i] = fixed[i] + _expand(log_share, (a,), tree.cliques[i])
    for factor in given:
        i = tree.home(factor.attributes)
        log_weights = torch.from_numpy(factor.log_weights).to(base[0].device)
        fixed[i] = fixed[i] + _expand(log_weights, factor.attributes, tree.cliques[i])
    # Preconditioner: the dual's curvature in a cell is about lambda sigma^2 + the cell's count.
    scales = [(regularisation * t.sigma**2 + t.values.clamp(min=1.0)).rsqrt() for t in tables]
    weights = [torch.zeros_like(s) for s in scales]
    for weight, scale, theta in zip(weights, scales, start, strict=False):
        weight.copy_(theta / scale)
    for weight in weights:
        weight.requires_grad_()

    def potentials() -> list[torch.Tensor]:
        out = list(fixed)
        for table, home, scale, weight in zip(tables, homes, scales, weights, strict=True):
            factor = table.over_codes(scale * weight)
            out[home] = out[home] + _expand(factor, table.attributes, tree.cliques[home])
        return out

    def objective() -> torch.Tensor:
        value = n_units * log_partition(tree, potentials())
        for table, scale, weight in zip(tables, scales, weights, strict=True):
            theta = scale * weight
            value = value - (theta * table.values).sum() + 0.5 * regularisation * ((table.sigma * theta) ** 2).sum()
        return value / n_units

    if tables:
        with one_thread():
            _minimise(objective, weights, iterations, until, advance)
    with torch.no_grad():
        fitted = potentials()
        fitted[0] = fitted[0] - log_partition(tree, fitted)
        thetas = [scale * weight for scale, weight in zip(scales, weights, strict=True)]
    return fitted, thetas


def _minimise(
    objective: Callable[[], torch.Tensor],
    weights: list[torch.Tensor],
    iterations: int,
    until: float,
    advance: Advance,
) -> None:
    def closure() -> torch.Tensor:
        for weight in weights:
            weight.grad = None
        value = objective()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    minimise(closure, weights, iterations, until=until, advance=advance)


def minimise(
    closure: Callable[[], torch.Tensor],
    weights: list[torch.Tensor],
    iterations: int,
    *,
    until: float = math.inf,
    advance: Advance = lambda n: None,
) -> None:
    """L-BFGS over `weights`, in place. closure: sets their gradients and returns the objective.

    until: when to stop with the best weights so far, by `time.monotonic`, but not before LEAST_SWEEPS.  advance: told of
    progress, `iterations` in all.
    """
    optimiser = torch.optim.LBFGS(
        weights,
        max_iter=iterations,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
    )
    done, least, best = 0, math.inf, [w.detach().clone() for w in weights]

    def watched() -> torch.Tensor:
        nonlocal done, least, best
        if done >= LEAST_SWEEPS and time.monotonic() > until:
            raise _OutOfTime
        value = closure()
        done += 1
        if done <= iterations:
            advance(1)
        if until < math.inf and (found := float(value.detach())) < least:
            least, best = found, [w.detach().clone() for w in weights]
        return value

    try:
        optimiser.step(watched)  # type: ignore[no-untyped-call]
    except _OutOfTime:
        with torch.no_grad():
            for weight, kept in zip(weights, best, strict=True):
                weight.copy_(kept)
    advance(max(iterations - done, 0))


class _OutOfTime(Exception):  # no error: how a search is left that cannot be told to stop
    """Leaves a line search when time is up."""


def default_regularisation(tables: Sequence[Table]) -> float:
    """lambda = 0.5 over the mean noise: measured on census tables at epsilon .1 to 10, flat from .3 to 1."""
    sigmas = [float(t.sigma.mean()) for t in tables if len(t.attributes) > 1]
    return 0.5 / max(math.fsum(sigmas) / len(sigmas), 1e-9) if sigmas else 1.0

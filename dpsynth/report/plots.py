"""Plots as inline SVG: no script, no network; colours come from the page's style sheet, so light and dark both work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from markupsafe import Markup

from dpsynth.privacy.source import FloatArray


def stacked_bar(parts: dict[str, float], rest: str | None = None) -> Markup:
    """One bar cut into shares that sum to 1, with a legend below. rest: name of the part that is drawn as empty."""
    out, at = [], 0.0
    colours = ["rest" if name == rest else f"c{i % 8}" for i, name in enumerate(parts)]
    for colour, (name, share) in zip(colours, parts.items(), strict=True):
        width = 100 * share
        title = f"<title>{escape(name)}: {share:.1%}</title>"
        out.append(
            f'<rect class="{colour}" x="{at:.2f}" y="0" width="{max(width - 0.3, 0.1):.2f}" height="8">{title}</rect>'
        )
        at += width
    label = ", ".join(f"{name} {share:.0%}" for name, share in parts.items())
    legend = "".join(
        f'<li><span class="key {colour}"></span>{escape(name)} <b>{share:.0%}</b></li>'
        for colour, (name, share) in zip(colours, parts.items(), strict=True)
    )
    bar = f'<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
    return Markup(f'{bar}{"".join(out)}</svg><ul class="legend">{legend}</ul>')


def overlay(labels: Sequence[str], first: FloatArray, second: FloatArray, names: tuple[str, str]) -> Markup:
    """Two histograms over the same cells: the first as bars, the second as steps."""
    n, top = len(labels), max(float(first.max(initial=0)), float(second.max(initial=0)), 1e-9)
    width = 200 / max(n, 1)
    bars, path = [], []
    for i, (label, a, b) in enumerate(zip(labels, first, second, strict=True)):
        x, height = i * width, 70 * a / top
        title = f"<title>{escape(label)}: {names[0]} {a:.1%}, {names[1]} {b:.1%}</title>"
        bars.append(
            f'<rect class="c0" x="{x + 0.4:.2f}" y="{72 - height:.2f}" width="{max(width - 0.8, 0.4):.2f}" height="{height:.2f}">{title}</rect>'
        )
        y = 72 - 70 * b / top
        path.append(f"{'M' if i == 0 else 'L'}{x:.2f} {y:.2f} L{x + width:.2f} {y:.2f}")
    text = f"{n} cells; largest difference {float(np.abs(first - second).max(initial=0)):.1%}"
    ends = ""
    if n:
        ends = f'<text x="0" y="82">{escape(_short(labels[0]))}</text><text x="200" y="82" text-anchor="end">{escape(_short(labels[-1]))}</text>'
    return Markup(
        f'<svg class="hist" viewBox="0 0 200 86" role="img" aria-label="{escape(text)}">{"".join(bars)}'
        f'<path class="line" d="{" ".join(path)}"/><path class="axis" d="M0 72 L200 72"/>{ends}</svg>'
    )


def heat_map(names: Sequence[str], values: FloatArray) -> Markup:
    """A square of associations between -1 and 1; darker is stronger, the sign is the hue."""
    n = len(names)
    cell = 16
    left = 8 * max((len(_short(name)) for name in names), default=1) + 6
    out = []
    for i, row in enumerate(names):
        y = i * cell
        out.append(f'<text x="{left - 6}" y="{y + 12}" text-anchor="end">{escape(_short(row))}</text>')
        for j, column in enumerate(names):
            value = float(values[i, j])
            kind = "neg" if value < 0 else "pos"
            title = f"<title>{escape(row)} and {escape(column)}: {value:.2f}</title>"
            out.append(
                f'<rect class="{kind}" x="{left + j * cell}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                f'fill-opacity="{min(abs(value), 1):.2f}">{title}</rect>'
            )
    width = left + n * cell
    return Markup(
        f'<svg class="heat" viewBox="0 0 {width} {n * cell}" style="max-width:{width}px;min-width:{min(width, 420)}px" role="img" '
        f'aria-label="Associations between {n} columns">{"".join(out)}</svg>'
    )


def intervals(rows: Sequence[tuple[str, float, float, float, float]]) -> Markup:
    """Values with intervals against thresholds: (name, value, low, high, threshold), on one scale."""
    top = max([max(high, threshold) for _, _, _, high, threshold in rows], default=1.0) * 1.1 or 1.0
    out = []
    for i, (name, value, low, high, threshold) in enumerate(rows):
        y = 14 + 26 * i
        verdict = "good" if high <= threshold else "bad" if low > threshold else "unsure"
        scale = 300 / top
        out.append(
            f'<text x="0" y="{y - 4}">{escape(name)}: {value:.3f}</text>'
            f'<path class="axis" d="M0 {y + 4} L300 {y + 4}"/>'
            f'<path class="range {verdict}" d="M{low * scale:.2f} {y + 4} L{max(high * scale, low * scale + 1):.2f} {y + 4}"/>'
            f'<circle class="{verdict}" cx="{value * scale:.2f}" cy="{y + 4}" r="3"/>'
            f'<path class="limit" d="M{threshold * scale:.2f} {y - 2} L{threshold * scale:.2f} {y + 10}"/>'
        )
    return Markup(
        f'<svg class="gate" viewBox="0 0 310 {26 * len(rows) + 4}" role="img" aria-label="Checks of the gate">{"".join(out)}</svg>'
    )


def staircase(steps: Sequence[tuple[str, float]], cap: float | None) -> Markup:
    """A total that only grows: (what and when, total after it) from left to right, against a cap, on one scale."""
    width, height, left, foot = 620, 150, 44, 18
    finite = [total for _, total in steps if np.isfinite(total)]
    top = max([*finite, cap or 0.0], default=0.0) * 1.12 or 1.0
    each = (width - left - 8) / max(len(steps), 1)

    def y(value: float) -> float:
        return height - (height - 12) * min(value, top) / top

    out, at = [], 0.0
    for i, (name, total) in enumerate(steps):
        x, title = left + i * each, f"<title>{escape(name)}: epsilon {total:.4g} in all</title>"
        out.append(
            f'<rect class="c0" x="{x + each * 0.04:.2f}" y="{y(total):.2f}" width="{each * 0.92:.2f}" '
            f'height="{max(height - y(total), 0.5):.2f}" opacity=".3">{title}</rect>'
            f'<rect class="c0" x="{x + each * 0.04:.2f}" y="{y(total):.2f}" width="{each * 0.92:.2f}" '
            f'height="{max(y(at) - y(total), 0.5):.2f}">{title}</rect>'
        )
        if each > 46:
            out.append(f'<text x="{x + each / 2:.2f}" y="{y(total) - 4:.2f}" text-anchor="middle">{total:.3g}</text>')
        at = total
    for i in sorted({0, len(steps) - 1}) if steps else ():
        anchor, x = ("start", float(left)) if i == 0 else ("end", width - 8.0)
        out.append(f'<text x="{x:.2f}" y="{height + foot - 4}" text-anchor="{anchor}">{escape(steps[i][0])}</text>')
    if cap is not None:
        out.append(
            f'<path class="cap" d="M{left} {y(cap):.2f} L{width} {y(cap):.2f}"/>'
            f'<text class="cap" x="0" y="{y(cap) + 3:.2f}">cap {cap:g}</text>'
        )
    now = f"epsilon {at:.4g} after {len(steps)} runs" + (f", cap {cap:g}" if cap is not None else ", no cap")
    return Markup(
        f'<svg class="stairs" viewBox="0 0 {width} {height + foot}" role="img" aria-label="{escape(now)}">'
        f'<path class="axis" d="M{left} {height} L{width} {height}"/><text x="0" y="{height}">epsilon 0</text>{"".join(out)}</svg>'
    )


def lines(series: Mapping[str, Sequence[float]], best: float) -> Markup:
    """Curves over 1, 2, ... of shares that are left, each in the colour of its place; dashed: the best that can be had."""
    width, height, left, foot, above = 300, 150, 34, 20, 8
    count = max((len(values) for values in series.values()), default=1)
    top = max(1.15, 1.05 * max((v for values in series.values() for v in values), default=1.0), 1.05 * best)

    def x(i: int) -> float:
        return left + (width - left - 12) * (i / max(count - 1, 1)) + 4

    def y(value: float) -> float:
        return above + (height - above) * (1 - max(value, 0.0) / top)

    out = [
        f'<path class="axis" d="M{left} {y(v):.2f} L{width} {y(v):.2f}"/><text x="{left - 5}" y="{y(v) + 3:.2f}" text-anchor="end">{v:.0%}</text>'
        for v in (0.0, 0.5, 1.0)
    ]
    out += [f'<text x="{x(i):.2f}" y="{height + 14}" text-anchor="middle">{i + 1}</text>' for i in range(count)]
    out.append(f'<path class="best" d="M{left} {y(best):.2f} L{width} {y(best):.2f}"/>')
    for place, (name, values) in enumerate(series.items()):
        path = " ".join(f"{'L' if i else 'M'}{x(i):.2f} {y(v):.2f}" for i, v in enumerate(values))
        out.append(f'<path class="curve s{place}" d="{path}"/>')
        for i, v in enumerate(values):
            title = f"<title>{escape(name)}, generation {i + 1}: {v:.0%}</title>"
            out.append(f'<circle class="s{place}" cx="{x(i):.2f}" cy="{y(v):.2f}" r="3">{title}</circle>')
    told = "; ".join(f"{name}: {', '.join(f'{v:.0%}' for v in values)}" for name, values in series.items())
    label = f"{told}; at best {best:.0%}"
    return Markup(
        f'<svg class="lines" viewBox="0 0 {width} {height + foot}" role="img" aria-label="{escape(label)}">{"".join(out)}</svg>'
    )


# A picture outside a page brings its colours along; they can be read on white and on black.
_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#767676}.head{font-weight:600;font-size:13px}.axis{stroke:#8884;fill:none}"
    ".curve{fill:none;stroke-width:2}.best{stroke:#888;stroke-dasharray:5 4;fill:none}"
    ".s0{stroke:#d9822b;fill:#d9822b}.s1{stroke:#3b82c4;fill:#3b82c4}.curve.s0,.curve.s1{fill:none}"
)


def panels(plots: Sequence[tuple[str, str, Markup]], names: Sequence[str]) -> str:
    """Plots of `lines`, two in a row under heading and explanation, as an SVG file; names: of the curves."""
    wide, high, top = 330, 230, 30
    out = [
        f'<circle class="s{i}" cx="{16 + i * 260}" cy="14" r="5"/><text x="{26 + i * 260}" y="18">{escape(name)}</text>'
        for i, name in enumerate(names)
    ]
    for i, (heading, about, plot) in enumerate(plots):
        x, y = wide * (i % 2) + 10, top + high * (i // 2)
        placed = str(plot).replace("<svg ", f'<svg x="{x}" y="{y + 38}" width="300" height="170" ', 1)
        out.append(
            f'<text class="head" x="{x}" y="{y + 14}">{escape(heading)}</text><text x="{x}" y="{y + 29}">{escape(about)}</text>{placed}'
        )
    height = top + high * ((len(plots) + 1) // 2)
    label = escape(", ".join(heading for heading, _, _ in plots))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * wide} {height}" role="img" aria-label="{label}">'
        f"<style>{_STYLE}</style>{''.join(out)}</svg>\n"
    )


def _short(text: str) -> str:
    return text if len(text) <= 18 else text[:17] + "…"

"""Plots as inline SVG text. Lengths along x are percentages and text keeps its size, so a plot fits a phone as well.

Colours are CSS variables of the page; `standalone` adds them to a picture that is a file of its own. Every text that
comes from outside is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from xml.etree import ElementTree

from landrace.evaluation.statistics import Interval
from landrace.evaluation.verdict import percent

BAR_ROW = 58
SMOOTHING_POINTS = 25
MARGIN = 24

STYLE = """
:root{--paper:#fbfaf6;--ink:#23211c;--soft:#6c675c;--line:#dedacd;--grain:#a8761c;--leaf:#41763f;--clay:#a2503c;--sky:#3d6f96;--stone:#8d877a}
@media (prefers-color-scheme:dark){:root{--paper:#191815;--ink:#e9e5da;--soft:#a49d8e;--line:#3a372f;--grain:#d9a648;
--leaf:#82b878;--clay:#d98a74;--sky:#82b3d9;--stone:#9a9486}
svg .score{opacity:.7}}
svg text{font:13px/1.2 system-ui,-apple-system,"Segoe UI","Noto Sans",sans-serif;fill:var(--ink)}
svg .soft{fill:var(--soft);font-size:12px}svg .end{text-anchor:end}svg .middle{text-anchor:middle}
svg .strong{font-weight:650}
svg .grid{stroke:var(--line);stroke-width:1}svg .whisker{stroke:var(--ink);stroke-width:1.5}
svg polyline{fill:none;vector-effect:non-scaling-stroke;stroke-linejoin:round}
"""


@dataclass(frozen=True)
class Bar:
    """One bar of a share with its interval; `colour` is one of the page's colour names."""

    label: str
    value: float
    interval: Interval
    colour: str


def bar_chart(bars: Sequence[Bar]) -> str:
    """Horizontal bars from 0 to 100%, the name above each, and the 95% interval as a whisker."""
    height = BAR_ROW * len(bars) + 22
    grid = "".join(_grid_line(share, height) for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    body = "".join(_bar(bar, BAR_ROW * index) for index, bar in enumerate(bars))
    summary = "; ".join(f"{bar.label}: {percent(bar.value)}" for bar in bars)
    return _svg(height, f"Accuracy with 95% intervals. {summary}", grid + body)


def loss_curve(points: Sequence[tuple[int, float]]) -> str:
    """Training loss by step: each step's value faintly, and a running mean where there are many.

    Values that are not finite cannot be drawn; their number is written into the plot. Without a finite value, "".
    """
    finite = [(step, loss) for step, loss in points if math.isfinite(loss)]
    if not finite:
        return ""
    low, high = min(loss for _, loss in finite), max(loss for _, loss in finite)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    lines = _polyline(finite, low, high, "var(--leaf)", 1.0, 0.35 if len(finite) > SMOOTHING_POINTS else 1.0)
    if len(finite) > SMOOTHING_POINTS:
        lines += _polyline(_running_mean(finite), low, high, "var(--leaf)", 2.2, 1.0)
    plot = f'<svg y="14" width="100%" height="220" viewBox="0 0 100 100" preserveAspectRatio="none">{lines}</svg>'
    marks = "".join(_loss_mark(share, low, high) for share in (0.0, 0.5, 1.0))
    missing = len(points) - len(finite)
    note = f", {missing} values not finite" if missing else ""
    (first, start), (last, end) = finite[0], finite[-1]
    steps = (
        f'<text class="soft" x="0" y="252">step {first}</text>'
        f'<text class="soft end" x="100%" y="252">step {last}{note}</text>'
    )
    title = f"Training loss, from {start:.3f} at step {first} to {end:.3f} at step {last}"
    return _svg(260, title, marks + plot + steps)


def standalone(svg: str, width: int = 720) -> str:
    """A plot as the text of an .svg file, `width` pixels wide and with a margin."""
    height = int(ElementTree.fromstring(svg).attrib["height"])
    frame = f'width="{width + 2 * MARGIN}" height="{height + 2 * MARGIN}"'
    inner = svg.replace('<svg width="100%"', f'<svg x="{MARGIN}" y="{MARGIN}" width="{width}"', 1)
    background = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {frame}><style>{STYLE}</style>{background}{inner}</svg>'


def _svg(height: int, title: str, body: str) -> str:
    return f'<svg width="100%" height="{height}" role="img"><title>{escape(title)}</title>{body}</svg>'


def _grid_line(share: float, height: int) -> str:
    place = "" if share == 0 else " end" if share == 1 else " middle"
    return (
        f'<line class="grid" x1="{share:.0%}" x2="{share:.0%}" y1="0" y2="{height - 18}"/>'
        f'<text class="soft{place}" x="{share:.0%}" y="{height - 3}">{share:.0%}</text>'
    )


def _bar(bar: Bar, top: int) -> str:
    low, high = 100 * bar.interval.low, 100 * bar.interval.high
    fill = f'fill="var(--{bar.colour})"'
    whisker = "".join(
        f'<line class="whisker" x1="{x1:.2f}%" x2="{x2:.2f}%" y1="{top + y1}" y2="{top + y2}"/>'
        for x1, x2, y1, y2 in ((low, high, 37, 37), (low, low, 32, 42), (high, high, 32, 42))
    )
    return (
        f'<text x="0" y="{top + 18}">{escape(bar.label)}</text>'
        f'<text class="end strong" x="100%" y="{top + 18}">{percent(bar.value)}</text>'
        f'<rect class="score" x="0" y="{top + 27}" width="{100 * bar.value:.2f}%" height="20" rx="3" {fill}/>{whisker}'
    )


def _loss_mark(share: float, low: float, high: float) -> str:
    y = 14 + 220 * (1 - share)
    return (
        f'<line class="grid" x1="0" x2="100%" y1="{y:g}" y2="{y:g}"/>'
        f'<text class="soft" x="0" y="{y - 4:g}">{low + share * (high - low):.3g}</text>'
    )


def _polyline(
    points: Sequence[tuple[int, float]], low: float, high: float, colour: str, width: float, opacity: float
) -> str:
    first, last = points[0][0], points[-1][0]
    span = max(last - first, 1)
    across, down = 100 / span, 100 / (high - low)
    places = " ".join(f"{across * (step - first):.2f},{down * (high - loss):.2f}" for step, loss in points)
    return f'<polyline points="{places}" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"/>'


def _running_mean(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Mean of the neighbours within half of `SMOOTHING_POINTS` on both sides, fewer at the ends."""
    reach = max(2, min(len(points) // 10, SMOOTHING_POINTS // 2))
    means = []
    for index, (step, _) in enumerate(points):
        near = points[max(0, index - reach) : index + reach + 1]
        means.append((step, sum(loss for _, loss in near) / len(near)))
    return means

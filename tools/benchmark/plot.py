"""Draws CPU and latency against the number of players, with a line per server, as an SVG file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from .runner import Result

WIDTH, HEIGHT = 860, 380
PANEL_WIDTH, PANEL_HEIGHT = 340, 260
TOP, LEFTS = 60, (60, 490)
COLOURS = ("#0b62c4", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#475569")
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """Places values between ``low`` and ``high`` on ``start`` to ``stop``, on a logarithmic scale."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.stop - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        """Powers of ten, and also 2 and 5 times those where there are few of them."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if len(decades) < 4 else (1,)
        values = [step * 10.0**decade for decade in decades for step in steps]
        return [value for value in values if self.low <= value <= self.high]


def svg(rows: Iterable[Result]) -> str:
    """The plot of the rows given: all of one kind of stream, one row per server and number of players."""
    lines: dict[str, list[Result]] = {}
    for row in sorted(rows, key=lambda row: row.players):
        lines.setdefault(row.server, []).append(row)
    panels = [
        _panel(LEFTS[0], "server CPU, % of a core", lines, [("", lambda row: row.server_cpu_pct)]),
        _panel(
            LEFTS[1],
            "latency, ms: median, dashed 99th percentile",
            lines,
            [("", lambda row: row.lat_p50_ms), ("6 4", lambda row: row.lat_p99_ms)],
        ),
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *(_legend(index, name) for index, name in enumerate(lines)),
        *panels,
        "</svg>\n",
    ]
    return "\n".join(parts)


def _legend(index: int, name: str) -> str:
    x, colour = LEFTS[0] + 190 * index, _colour(index)
    return (
        f'<line x1="{x}" y1="20" x2="{x + 24}" y2="20" stroke="{colour}" stroke-width="2.5"/>'
        f'<text x="{x + 30}" y="24">{escape(name)}</text>'
    )


def _panel(
    left: int, title: str, lines: dict[str, list[Result]], curves: Sequence[tuple[str, Callable[[Result], float]]]
) -> str:
    rows = [row for line in lines.values() for row in line]
    players = [float(row.players) for row in rows]
    values = [value for row in rows for _, curve in curves if (value := curve(row)) > 0]
    x = Axis(*_range(players), left, left + PANEL_WIDTH)
    y = Axis(*_range(values), TOP + PANEL_HEIGHT, TOP)
    parts = [f'<text x="{left}" y="{TOP - 12}" font-weight="bold">{escape(title)}</text>', _grid(left, x, y)]
    for index, line in enumerate(lines.values()):
        for dash, curve in curves:
            points = [(x(row.players), y(curve(row))) for row in line]
            parts.append(_curve(points, _colour(index), dash))
    return "\n".join(parts)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """A little more than the values need, and never empty."""
    low, high = min(values, default=1.0), max(values, default=10.0)
    return low / 1.3, high * 1.3


def _grid(left: int, x: Axis, y: Axis) -> str:
    bottom, right = TOP + PANEL_HEIGHT, left + PANEL_WIDTH
    parts = [
        f'<rect x="{left}" y="{TOP}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}" fill="none" stroke="#999"/>',
        f'<text x="{(left + right) / 2}" y="{bottom + 40}" text-anchor="middle">players</text>',
    ]
    for tick in x.ticks:
        parts.append(f'<line x1="{x(tick)}" y1="{TOP}" x2="{x(tick)}" y2="{bottom}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{x(tick)}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks:
        parts.append(f'<line x1="{left}" y1="{y(tick)}" x2="{right}" y2="{y(tick)}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    return "\n".join(parts)


def _curve(points: Points, colour: str, dash: str) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    marks = "".join(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"{dashed}/>{marks}'


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]

"""The picture of a run: latency against load, and throughput by size of batch, as one SVG."""

import math
from dataclasses import dataclass
from pathlib import Path

from bench.fronts import SHARES_OF_FULL
from bench.ledger import BATCH_SIZES
from bench.measuring import Found

_WIDTH, _HEIGHT, _MARGIN = 460, 300, 60
_INKS = ("#1f6f8b", "#c8553d")


@dataclass(frozen=True)
class _Chart:
    """Lines over places that are evenly spaced, as their labels say."""

    title: str
    below: str
    labels: list[str]
    lines: dict[str, list[float]]


def draw(found: Found, path: Path) -> None:
    """Write the picture of *found* to *path*."""
    latency = {
        f"p{percent}": [
            found[f"http_at_{share}_percent_p{percent}_ms"].median for share in SHARES_OF_FULL
        ]
        for percent in (50, 99)
    }
    full = found["http"].median
    loads = [f"{full * share / 100:,.0f}" for share in SHARES_OF_FULL]
    batches = [found[f"batches_of_{size}"].median for size in BATCH_SIZES]
    charts = (
        _Chart("API latency, ms", "requests/s, steady", loads, latency),
        _Chart(
            "Pairs/s of one caller, PostgreSQL",
            "commands in a transaction",
            [str(size) for size in BATCH_SIZES],
            {"pairs/s": batches},
        ),
    )
    width, height = len(charts) * (_WIDTH + 2 * _MARGIN), _HEIGHT + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        '<g font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for place, chart in enumerate(charts):
        left = _MARGIN + place * (_WIDTH + 2 * _MARGIN)
        parts += [f'<g transform="translate({left} {_MARGIN})">', *_drawn(chart), "</g>"]
    path.write_text("\n".join([*parts, "</g>", "</svg>", ""]))


def _drawn(chart: _Chart) -> list[str]:
    top = _round_up(max(max(values) for values in chart.lines.values()))
    step = _WIDTH / (len(chart.labels) - 1)
    parts = [
        f'<text y="-24" font-size="15">{chart.title}</text>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT + 44}" text-anchor="middle">{chart.below}</text>',
    ]
    for quarter in range(5):
        y = _HEIGHT * (1 - quarter / 4)
        parts += [
            f'<line x2="{_WIDTH}" y1="{y}" y2="{y}" stroke="#ddd"/>',
            f'<text x="-8" y="{y + 4}" text-anchor="end">{top * quarter / 4:,g}</text>',
        ]
    for place, label in enumerate(chart.labels):
        parts.append(
            f'<text x="{place * step}" y="{_HEIGHT + 20}" text-anchor="middle">{label}</text>'
        )
    for place, (name, values) in enumerate(chart.lines.items()):
        points = [(n * step, _HEIGHT * (1 - value / top)) for n, value in enumerate(values)]
        ink = _INKS[place]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{ink}"/>' for x, y in points]
        parts.append(f'<text x="{8 + 60 * place}" y="-6" fill="{ink}">{name}</text>')
    return parts


def _round_up(value: float) -> float:
    """Return the next 1, 2, 4 or 8 with zeros behind it, so that quarters are round too."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 4, 8, 10) if n * power >= value)

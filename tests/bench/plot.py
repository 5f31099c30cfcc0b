"""The results as one SVG, written by hand: bars against goals, time and memory against rows. Light and dark."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

WIDTH = 920
LABEL_X, BAR_X, BAR_END, TEXT_X = 24, 330, 718, 730
ROW_H, BAR_H = 24, 12
BARS_TOP = 104
CHART_H = 230
CLIP = 2.0
"""A bar ends at twice its goal; its number goes on."""
GOAL_ROWS = 1_000_000
TIMES = {
    "unit": "psql COPY",
    "load": "first load",
    "verify": "deep verify",
    "unchanged": "nothing changed",
    "unchanged_companion": "the same, companion",
}
MEMORY = {
    "memory_load": "first load",
    "memory_deep": "deep snapshot",
    "memory_verify": "deep verify",
    "memory_mass_delta": "mass change, delta",
    "memory_mass_snapshot": "mass change, snapshot",
}
MEMORY_GOAL_MB, MEMORY_TOP_MB = 120, 160

_STYLE = """
  svg { background: #ffffff; color: #1f2328; font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif }
  text { fill: currentColor }
  .title { font-size: 18px; font-weight: 600 } .head { font-size: 14px; font-weight: 600 }
  .quiet { fill: #636c76 } .small { font-size: 11px } .right { text-anchor: end } .mid { text-anchor: middle }
  .met { fill: #1a7f64 } .missed { fill: #c4540a } .share { fill: #ffffff; fill-opacity: .45 }
  .axis { stroke: #d0d7de; stroke-width: 1 } .goal { stroke: #1f2328; stroke-width: 1.5; stroke-dasharray: 4 3 }
  .line { fill: none; stroke-width: 2 }
  .c0 { stroke: #57606a } .c1 { stroke: #0969da } .c2 { stroke: #8250df }
  .c3 { stroke: #bf5b04 } .c4 { stroke: #1a7f64 }
  .f0 { fill: #57606a } .f1 { fill: #0969da } .f2 { fill: #8250df }
  .f3 { fill: #bf5b04 } .f4 { fill: #1a7f64 }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; color: #e6edf3 }
    .quiet { fill: #9198a1 } .met { fill: #2ea98a } .missed { fill: #e8803a }
    .share { fill: #0d1117; fill-opacity: .5 }
    .axis { stroke: #30363d } .goal { stroke: #e6edf3 }
    .c0 { stroke: #9198a1 } .c1 { stroke: #58a6ff } .c2 { stroke: #bc8cff }
    .c3 { stroke: #f0a13c } .c4 { stroke: #3fb996 }
    .f0 { fill: #9198a1 } .f1 { fill: #58a6ff } .f2 { fill: #bc8cff }
    .f3 { fill: #f0a13c } .f4 { fill: #3fb996 }
  }
"""


def draw(document: dict[str, Any]) -> str:
    """The whole picture."""
    size = min(document["sizes"], key=lambda one: abs(one["rows"] - GOAL_ROWS))
    bars = [one for one in [*size["figures"], *document["growth"]] if one["goal"] is not None]
    charts_top = BARS_TOP + len(bars) * ROW_H + 70
    height = charts_top + CHART_H + 70
    parts = [
        *_opened(height),
        _text(LABEL_X, 34, f"reconcile: {size['rows']:,} rows, against its goals", "title"),
        _text(LABEL_X, 56, f"{document['source']}, {document['redis']}; {document['machine']}; "
              f"{document['measured_at'][:10]}", "quiet"),
        _text(LABEL_X, 76, "Each bar is the measured value divided by its goal. The paler part is the source's share: "
              "the same read alone.", "quiet"),
        *_bars(bars),
        *_times(document["sizes"], LABEL_X, charts_top),
        *_memory(document["sizes"], WIDTH // 2 + 24, charts_top),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _opened(height: int) -> list[str]:
    """The beginning of a picture."""
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', f"<style>{_STYLE}</style>"]


def _text(x: float, y: float, text: str, classes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"/>'


def _rect(x: float, y: float, width: float, classes: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{BAR_H}" rx="2" class="{classes}"/>'


READERS = {"quiet": "in quiet", "copy": "source read only", "load": "first load", "free": "without throttle"}
READERS_X0, READERS_X1, READERS_Y0, READERS_Y1 = 90, 720, 330, 90
READERS_MS = (0.1, 1000.0)
READERS_H = 390


def draw_readers(document: dict[str, Any]) -> str:
    """What another client of the same Redis waits for: the slowest GET of each quarter of a second."""
    size = max((one for one in document["sizes"] if one["readers"]), key=lambda one: one["rows"])
    told = size["readers"]
    low, high = (math.log10(ms) for ms in READERS_MS)
    last = max(at for name in READERS for at, _ in told[f"{name}_windows"]) or 1.0

    def at_x(seconds: float) -> float:
        return READERS_X0 + (READERS_X1 - READERS_X0) * seconds / last

    def at_y(ms: float) -> float:
        share = (math.log10(min(max(ms, READERS_MS[0]), READERS_MS[1])) - low) / (high - low)
        return READERS_Y0 - (READERS_Y0 - READERS_Y1) * share

    goal = 2 * told["quiet_p99_ms"]
    parts = [
        *_opened(READERS_H),
        _text(LABEL_X, 34, f"Another client's GETs during a first load of {size['rows']:,} rows", "title"),
        _text(LABEL_X, 56, f"{document['redis']}, {document['source']}, on one machine: {document['machine']}; "
              f"{document['measured_at'][:10]}. The slowest of each 0.25 s.", "quiet"),
        _line(READERS_X0, at_y(goal), READERS_X1, at_y(goal), "goal"),
        _text(READERS_X1 + 8, at_y(goal) + 4, "2 × quiet p99", "quiet small"),
    ]  # fmt: skip
    for exponent in range(round(low), round(high) + 1):
        y = at_y(10.0**exponent)
        parts.append(_line(READERS_X0, y, READERS_X1, y, "axis"))
        parts.append(_text(READERS_X0 - 6, y + 4, f"{10.0**exponent:g} ms", "quiet small right"))
    for part in range(5):
        seconds = last * part / 4
        parts.append(_text(at_x(seconds), READERS_Y0 + 18, f"{seconds:.1f} s", "quiet small mid"))
    for colour, (name, label) in enumerate(READERS.items()):
        path = " ".join(f"{at_x(at):.1f},{at_y(ms):.1f}" for at, ms in told[f"{name}_windows"])
        parts.append(f'<polyline points="{path}" class="line c{colour}"/>')
        shown = f"{label}: p99 {_number(told[f'{name}_p99_ms'])} ms, {told[f'{name}_s']:.1f} s"
        parts.append(_text(READERS_X0 + 210 * colour - 60, READERS_Y0 + 46, shown, f"f{colour} small"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bars(bars: list[dict[str, Any]]) -> list[str]:
    scale = (BAR_END - BAR_X) / CLIP
    bottom = BARS_TOP + len(bars) * ROW_H
    parts = [_line(BAR_X, BARS_TOP - 4, BAR_X, bottom, "axis")]
    for i, one in enumerate(bars):
        y = BARS_TOP + i * ROW_H
        share = one["value"] / one["goal"]
        shown = min(share, CLIP) * scale
        parts.append(_text(LABEL_X, y + 11, one["label"]))
        parts.append(_rect(BAR_X, y, shown, "met" if one["met"] else "missed"))
        if one["bare_s"] and one["seconds"]:
            parts.append(_rect(BAR_X, y, shown * min(1.0, one["bare_s"] / one["seconds"]), "share"))
        more = " →" if share > CLIP else ""
        parts.append(_text(TEXT_X, y + 11, f"{more} {_number(one['value'])}"))
        parts.append(_text(TEXT_X + 62, y + 11, f"goal ≤ {one['goal']:g} {_unit(one['against'])}", "quiet small"))
    goal_x = BAR_X + scale
    parts.append(_line(goal_x, BARS_TOP - 4, goal_x, bottom, "goal"))
    for at in (0, 0.5, 1, 1.5, 2):
        parts.append(_text(BAR_X + at * scale, bottom + 14, "goal" if at == 1 else f"{at:g} ×", "quiet small mid"))
    return parts


def _unit(against: str) -> str:
    return {"% of the data": "%", "MB": "MB", "ms after the source's progress": "ms"}.get(against, "×")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _times(sizes: list[dict[str, Any]], left: float, top: float) -> list[str]:
    values = {
        name: [(one["rows"], _median(one["seconds"][key])) for one in sizes if key in one["seconds"]]
        for key, name in TIMES.items()
    }
    seconds = [value for line in values.values() for _, value in line]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))
    ticks = [(float(exponent), f"{10.0**exponent:g} s") for exponent in range(low, high + 1)]
    lines = {name: [(rows, math.log10(value)) for rows, value in line] for name, line in values.items()}
    return _chart("Time against rows", left, top, lines, ticks)


def _memory(sizes: list[dict[str, Any]], left: float, top: float) -> list[str]:
    lines: dict[str, list[tuple[float, float]]] = {name: [] for name in MEMORY.values()}
    for one in sizes:
        for figure in one["figures"]:
            if figure["key"] in MEMORY:
                lines[MEMORY[figure["key"]]].append((one["rows"], figure["value"]))
    highest = max([MEMORY_TOP_MB, *(value for line in lines.values() for _, value in line)])
    ticks = [(float(mb), f"{mb} MB") for mb in range(0, math.ceil(highest / 40) * 40 + 1, 40)]
    return _chart("Peak memory against rows", left, top, lines, ticks, goal=MEMORY_GOAL_MB)


def _chart(
    title: str,
    left: float,
    top: float,
    lines: dict[str, list[tuple[float, float]]],
    ticks: list[tuple[float, str]],
    goal: float | None = None,
) -> list[str]:
    x0, x1, y0, y1 = left + 52, left + 268, top + CHART_H, top + 26
    rows = sorted({x for line in lines.values() for x, _ in line})
    first, last = math.log10(rows[0]), math.log10(rows[-1])
    low, high = ticks[0][0], ticks[-1][0]

    def at_x(value: float) -> float:
        return x0 + 8 + (x1 - x0 - 16) * ((math.log10(value) - first) / (last - first) if last > first else 0.5)

    def at_y(value: float) -> float:
        return y0 - (y0 - y1) * (value - low) / (high - low)

    parts = [_text(left, top + 6, title, "head")]
    for value, text in ticks:
        parts.append(_line(x0, at_y(value), x1, at_y(value), "axis"))
        parts.append(_text(x0 - 6, at_y(value) + 4, text, "quiet small right"))
    parts += [_text(at_x(count), y0 + 18, _short(count), "quiet small mid") for count in rows]
    if goal is not None:
        parts.append(_line(x0, at_y(goal), x1, at_y(goal), "goal"))
    ends = sorted((line[-1][1], name) for name, line in lines.items() if line)
    places = _apart([at_y(value) for value, _ in ends])
    names = list(lines)
    for (_, name), y in zip(ends, places, strict=True):
        colour = names.index(name)
        points = [(at_x(x), at_y(value)) for x, value in lines[name]]
        path = " ".join(f"{x:.1f},{y_:.1f}" for x, y_ in points)
        parts.append(f'<polyline points="{path}" class="line c{colour}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y_:.1f}" r="3" class="f{colour}"/>' for x, y_ in points]
        parts.append(_text(x1 + 8, y + 4, name, f"f{colour} small"))
    return parts


def _apart(places: list[float], distance: float = 14) -> list[float]:
    """Labels from the bottom up, none over another."""
    shown: list[float] = []
    for y in places:
        shown.append(min(y, shown[-1] - distance) if shown else y)
    return shown


def _short(rows: float) -> str:
    return f"{rows / 1e6:g}M" if rows >= 1e6 else f"{rows / 1e3:g}k"


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]

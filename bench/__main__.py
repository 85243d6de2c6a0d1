"""The command line of the benchmarks: `scripts/bench`, or `python -m bench` in a prepared environment."""

from __future__ import annotations

import click

from bench import store as store_bench
from bench.report import as_json, as_table, count

__all__ = ["bench"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measures what telemetry costs, as ratios against a floor or a peer in the same run.

    \b
    Examples:
      scripts/bench store            everything, about five minutes
      scripts/bench store --quick    a look, about one minute
      scripts/bench store --json     one JSON document on standard output
    """  # noqa: D301  # click reads \b as "keep these lines as they are"


@bench.command()
@click.option("--json", "is_json", is_flag=True, help="Print one JSON document instead of tables.")
@click.option("--quick", "is_quick", is_flag=True, help="Few and short rounds: a look, not a measurement.")
@click.option("--only", "wanted", multiple=True, type=click.Choice(list(store_bench.PARTS)), help="This part alone.")
def store(is_json: bool, is_quick: bool, wanted: tuple[str, ...]) -> None:
    """Measures the durable store: writing, reading, wear of the disk, lag of the event loop.

    Missed aims are shown; the exit code is 0 all the same. Needs about 1.5 GB in the folder for temporary files
    (TMPDIR), which should be on a real disk.

    \b
    Examples:
      scripts/bench store --quick
      scripts/bench store --only lag --json
    """  # noqa: D301
    machine, sections = store_bench.run(wanted or tuple(store_bench.PARTS), is_quick)
    click.echo((as_json if is_json else as_table)(machine, is_quick, sections))
    if not is_json:
        click.echo(f"\naims: {count(sections, True)} met, {count(sections, False)} missed")


if __name__ == "__main__":
    bench(prog_name="scripts/bench")

"""The command line of the benchmarks: `scripts/bench`, or `python -m benchmarks` in a prepared environment."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from benchmarks import compared as compared_bench
from benchmarks import hot as hot_bench
from benchmarks import http as http_bench
from benchmarks import imports as imports_bench
from benchmarks import store as store_bench
from benchmarks.report import Section, are_whole, as_json, as_table, count

__all__ = ["bench"]

Command = Callable[..., Any]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measures what telemetry costs, as ratios against a floor or a peer in the same run.

    \b
    Examples:
      scripts/bench store            the durable store, about five minutes
      scripts/bench hot              what a call costs the caller, about seven minutes
      scripts/bench hot --quick      a look, about one minute
      scripts/bench http             calls a second through HTTP, about three minutes
      scripts/bench imports          what starting a command costs, about half a minute
      scripts/bench compared         five libraries side by side, a minute and a half
      scripts/bench store --json     one JSON document on standard output
    """  # noqa: D301  # click reads \b as "keep these lines as they are"


_is_json = click.option("--json", "is_json", is_flag=True, help="Print one JSON document instead of tables.")
_is_quick = click.option("--quick", "is_quick", is_flag=True, help="Few and short rounds: a look, not a measurement.")


def _only(parts: dict[str, Any]) -> Callable[[Command], Command]:
    return click.option("--only", "wanted", multiple=True, type=click.Choice(list(parts)), help="This part alone.")


@bench.command()
@_is_json
@_is_quick
@_only(store_bench.PARTS)
def store(is_json: bool, is_quick: bool, wanted: tuple[str, ...]) -> None:
    """Measures the durable store: writing, reading, wear of the disk, processes that share it, lag of the event loop.

    Missed aims are shown; the exit code is 0 all the same. Needs about 1.5 GB in the folder for temporary files
    (TMPDIR), which should be on a real disk.

    \b
    Examples:
      scripts/bench store --quick
      scripts/bench store --only lag --json
    """  # noqa: D301
    machine, sections = store_bench.run(wanted or tuple(store_bench.PARTS), is_quick)
    _show("store", is_json, is_quick, machine, sections)


@bench.command()
@_is_json
@_is_quick
@_only(hot_bench.PARTS)
def hot(is_json: bool, is_quick: bool, wanted: tuple[str, ...]) -> None:
    """Measures what a trace, a span, a log record and a counter cost the caller; memory.

    Missed aims are shown; the exit code is 0 all the same. It is 1 if something that was made has not arrived: then
    nothing was measured. The folder for temporary files (TMPDIR) should be on a real disk.

    \b
    Examples:
      scripts/bench hot --quick
      scripts/bench hot --only trace --only record --json
    """  # noqa: D301
    machine, sections = hot_bench.run(wanted or tuple(hot_bench.PARTS), is_quick)
    _show("hot", is_json, is_quick, machine, sections)
    if not are_whole(sections):
        click.echo("NOT ALL that was made has arrived: do not believe the figures of those lines", err=True)
        sys.exit(1)


@bench.command()
@_is_json
@_is_quick
def http(is_json: bool, is_quick: bool) -> None:
    """Measures calls a second through HTTP, with telemetry on against the same application without it.

    Missed aims are shown; the exit code is 0 all the same. It is 1 if a trace is missing: then nothing was measured.

    \b
    Examples:
      scripts/bench http --quick
      scripts/bench http --json
    """  # noqa: D301
    machine, sections = http_bench.run((), is_quick)
    _show("http", is_json, is_quick, machine, sections)
    if not are_whole(sections):
        click.echo("NOT ALL calls have left their trace: do not believe the figures", err=True)
        sys.exit(1)


@bench.command()
@_is_json
@_is_quick
def imports(is_json: bool, is_quick: bool) -> None:
    """Measures the CPU time that commands and the instruments take to start, against the least that they must import.

    Missed aims are shown; the exit code is 0 all the same.

    \b
    Examples:
      scripts/bench imports --quick
      scripts/bench imports --json
    """  # noqa: D301
    machine, sections = imports_bench.run(is_quick)
    _show("imports", is_json, is_quick, machine, sections)


@bench.command()
@_is_quick
@click.option("--write", "is_written", is_flag=True, help="Write it into docs/compared.md.")
def compared(is_quick: bool, is_written: bool) -> None:
    """Runs the programs of docs/compared.md: what each library shows, what is left after kill -9, and what it costs.

    Takes a minute and a half; --quick ten seconds.

    \b
    Examples:
      scripts/bench compared --quick
      scripts/bench compared --write
    """  # noqa: D301
    text = compared_bench.report(compared_bench.run(is_quick=is_quick, tell=lambda name: click.echo(name, err=True)))
    if is_written:
        page = compared_bench.PAGE
        page.write_text(compared_bench.written_into(page.read_text("utf-8"), text), "utf-8")
    else:
        click.echo(text)


def _show(name: str, is_json: bool, is_quick: bool, machine: dict[str, Any], sections: list[Section]) -> None:
    if is_json:
        click.echo(as_json(name, machine, is_quick, sections))
        return
    click.echo(as_table(machine, is_quick, sections))
    click.echo(f"\naims: {count(sections, True)} met, {count(sections, False)} missed")


if __name__ == "__main__":
    bench(prog_name="scripts/bench")

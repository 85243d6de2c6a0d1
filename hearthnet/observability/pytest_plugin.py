"""What the code under test recorded, in pytest: with a test that fails, and as a fixture.

    pytest_plugins = ["hearthnet.observability.pytest_plugin"]        # in conftest.py; or: pytest -p …

It is not loaded by itself: what every pytest of every user imports must be wanted by every user. Log records need no
plugin: pytest's own `caplog` and its section "Captured log call" have them, as of any logger of the standard library.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final

import pytest

from hearthnet.constants import DATABASE, TRACE_RING_BUFFER
from hearthnet.display import escaped, span_tree
from hearthnet.errors import StoreError
from hearthnet.observability import telemetry
from hearthnet.observability.runtime import runtime
from hearthnet.observability.store.reader import Reader
from hearthnet.observability.tracing import Trace, get_recent

__all__ = ["pytest_runtest_makereport", "pytest_runtest_setup", "traces"]

_STARTED: Final = pytest.StashKey[int]()
_MAX_SHOWN: Final = 20


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Notes when a test began."""
    item.stash[_STARTED] = monotonic_ns()


@pytest.fixture
def traces(request: pytest.FixtureRequest) -> Callable[[], list[Trace]]:
    """Returns a function that returns the traces that have ended since the test began, in the order of their ends."""
    started_ns = request.node.stash.get(_STARTED, 0)
    return lambda: _since(started_ns)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the traces of a test that fails to its report."""
    report = yield
    if report.failed and call.when == "call":
        found = _since(item.stash.get(_STARTED, 0))
        if found:
            report.sections.append(("Traces", "\n".join(map(_shown, found[-_MAX_SHOWN:]))))
    return report


def _since(started_ns: int) -> list[Trace]:
    """Returns the traces of this process that ended and had begun by then or later, oldest first."""
    opened, closed_dir, runs = telemetry.opened(), runtime.store_dir, {runtime.recorder.run_id}
    if opened is not None:
        found = list(reversed(opened.traces(TRACE_RING_BUFFER)))
    elif closed_dir is not None:  # the test may have closed it
        runs |= _runs_in(closed_dir / DATABASE)
        found = list(reversed(get_recent(TRACE_RING_BUFFER)))
    else:
        found = [Trace.from_record(record) for record in runtime.recorder.pending_traces()]
    return [one for one in found if one.run_id in runs and one.started_ns >= started_ns]


def _runs_in(database: Path) -> set[str]:
    """Returns the runs of this process in a store; none where it cannot be read."""
    try:
        with closing(Reader(database)) as reader:
            return reader.runs_of(os.getpid())
    except StoreError:
        return set()


def _shown(trace: Trace) -> str:
    error = "" if trace.error is None else f"  {trace.error}"
    lines = [escaped(f"{trace.capability}  {trace.result}  {trace.duration_ms:.1f} ms{error}")]
    for depth, item in span_tree(trace.as_dict()["spans"]):
        fields = "".join(f"  {name}={value!r}" for name, value in item["extras"].items())
        said = f"{item['name']}  {item['status']}  {item['duration_ms']:.1f} ms{fields}"
        lines.append(f"{'  ' * (depth + 1)}{escaped(said)}")  # names come from anywhere, and a terminal obeys some
    return "\n".join(lines)

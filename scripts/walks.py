"""Walks: the modules of the package whose code runs while one real thing happens.

Each walk is a small program in a process and a home of its own. It does the thing a few times under `sys.setprofile`;
a module counts when it ran every time, so that what a timer does in between is left aside. Code that runs when a module
is imported does not count.

Any walk may log a line or bump a metric on its way: a warning of recovery, the "done" line of a trace. Of that it
counts the one file whose function is called (`ASIDE`), and nothing that runs below it on the stack. What a log call
runs is a walk of its own, the first, and counts there alone; what a metric runs counts in none.

    python scripts/walks.py NAME      prints the walk's modules, one JSON list
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

__all__ = ["ASIDE", "COLUMN", "LOGGING", "WALKS", "column", "walk"]

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = ROOT / "hearthnet"
COLUMN: Final = "started_mono_ns"  # of `traces`: kept, and computed with by nothing else
LOGGING: Final = "observability/logging.py"
ASIDE: Final = frozenset({LOGGING, "observability/instrument.py", "observability/metrics.py"})  # passed, not entered
_TIMES: Final = 3
_TIMEOUT_S: Final = 120
_IS_FUNCTION: Final = 1  # CO_OPTIMIZED: neither a module's body nor a class's


class Steps:
    """Collects the modules that run, in every thread that starts after `install`."""

    def __init__(self) -> None:
        self.is_on = False
        self.thread: int | None = None  # None: all threads
        self.room: str | None = None  # only this folder of the package, and what runs below it
        self.aside = ASIDE
        self._found: set[str] = set()
        self._rounds: list[set[str]] = []
        self._base = f"{PACKAGE}{os.sep}"

    def install(self) -> None:
        """Profiles this thread and all that it starts."""
        threading.setprofile(self._take)
        sys.setprofile(self._take)

    def _take(self, frame: FrameType, event: str, _: Any) -> None:
        if not self.is_on or event != "call" or self.thread not in (None, threading.get_ident()):
            return
        path = self._path_of(frame)
        if path is None or path in self._found:
            return
        callers = self._callers_of(frame) - {path}
        if self.aside & callers:
            return
        if self.room is None or any(one.startswith(self.room) for one in callers | {path}):
            self._found.add(path)

    def _path_of(self, frame: FrameType) -> str | None:
        code = frame.f_code
        is_ours = code.co_filename.startswith(self._base) and code.co_flags & _IS_FUNCTION
        return code.co_filename.removeprefix(self._base) if is_ours else None

    def _callers_of(self, frame: FrameType) -> set[str]:
        """Returns the modules of the package whose functions are above a frame on the stack."""
        found, above = set(), frame.f_back
        while above is not None:
            if (path := self._path_of(above)) is not None:
                found.add(path)
            above = above.f_back
        return found

    @contextlib.contextmanager
    def round(self) -> Iterator[None]:
        """Collects what runs within."""
        self.begin()
        yield
        self.end()

    def begin(self, thread: int | None = None) -> None:
        """Starts a round, of one thread or of all."""
        self._found, self.thread, self.is_on = set(), thread, True

    def end(self) -> None:
        """Ends the round."""
        self.is_on = False
        self._rounds.append(self._found)

    def modules(self) -> list[str]:
        """Returns what ran in each round but the first, which fills caches."""
        return sorted(set.intersection(*(self._rounds[1:] if len(self._rounds) > 1 else self._rounds)))


def _settings(home: Path) -> Any:
    from hearthnet.config import ObservabilityConfig

    return ObservabilityConfig(data_dir=home / "data", log_dir=home / "logs", flush_interval_s=0.05)


def _wait_for_commit() -> None:
    """Waits until the writer has taken all: a record does not pass what waits for it."""
    from hearthnet.observability.runtime import runtime

    ends_at = time.monotonic() + _TIMEOUT_S
    while runtime.recorder.has_pending() and time.monotonic() < ends_at:
        time.sleep(0.01)


def _log(steps: Steps, home: Path) -> None:
    """A log record, from the call to its row and its line."""
    from hearthnet.observability import get_logger, telemetry

    steps.aside -= {LOGGING}
    with telemetry.open(_settings(home)):
        log = get_logger("hearthnet.walk")
        for number in range(_TIMES):
            with steps.round():
                log.info(f"step {number}", extra={"n": number})  # a message that is met for the first time
                _wait_for_commit()


def _trace(steps: Steps, home: Path) -> None:
    """A trace, from `new_trace` to what `hearthnet trace show` prints of it."""
    from hearthnet.cli.main import cli
    from hearthnet.config import default_config, resolve_paths, save
    from hearthnet.observability import telemetry, trace

    config = resolve_paths(default_config())
    with socket.socket() as unused, telemetry.open(config.observability.model_copy(update={"flush_interval_s": 0.05})):
        unused.bind(("127.0.0.1", 0))  # a node that happens to run on the usual port would be asked first
        save(
            config.model_copy(
                update={"transport": config.transport.model_copy(update={"port": unused.getsockname()[1]})}
            )
        )
        for _ in range(_TIMES):
            with steps.round():
                with trace.new_trace("walk.trace") as made, trace.span("step"):
                    pass
                _wait_for_commit()
                out = io.StringIO()
                with contextlib.redirect_stdout(out):
                    cli(["trace", "show", made.trace_id], standalone_mode=False)
            assert "walk.trace" in out.getvalue()


def _call(steps: Steps, home: Path) -> None:
    """A signed HTTP call, from its first byte to the handler."""
    import asyncio

    asyncio.run(_called(steps, home))


async def _called(steps: Steps, home: Path) -> None:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from benchmarks.callers import signed_ahead

    from hearthnet.config import default_config, resolve_paths
    from hearthnet.identity.keys import KeyPair
    from hearthnet.node import initialise, open_node
    from hearthnet.services import echo
    from hearthnet.transport.server import bind

    real = echo.echo

    async def handler(request: Any) -> Any:
        steps.end()
        return await real(request)

    echo.echo = handler
    base = default_config()
    config = resolve_paths(
        base.model_copy(update={"emergency": base.emergency.model_copy(update={"probe_targets": ()})})
    )
    initialise(config, "walk")
    keys = KeyPair.load(config.identity.keys_dir)
    loop_thread = threading.get_ident()
    caller = ThreadPoolExecutor(1)  # asyncio's own is the node's
    async with open_node(config) as node:
        listening = bind(config.transport.model_copy(update={"port": 0}))
        listening.listen()  # so that a call may come before the server is ready
        stop = asyncio.Event()
        serving = asyncio.create_task(node.serve(listening, stop))
        for request in signed_ahead(keys, node.manifest.community_id, _TIMES):
            steps.begin(loop_thread)
            answer = await asyncio.get_running_loop().run_in_executor(
                caller, _ask, listening.getsockname()[1], request.wire
            )
            assert answer.startswith(b"HTTP/1.1 200 "), answer
        stop.set()
        await serving


def _ask(port: int, wire: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(wire)
        return connection.recv(4_096)


def _die(home: Path) -> None:
    """Records in a forked process, which is killed before it commits."""
    from hearthnet.observability import get_logger, telemetry, trace

    if pid := os.fork():
        os.waitpid(pid, 0)
        return
    try:
        telemetry.open(_settings(home).model_copy(update={"flush_interval_s": 60.0})).start()
        with trace.new_trace("walk.lost"):
            get_logger("hearthnet.walk").info("step")
        trace.new_trace("walk.open")
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def _recovery(steps: Steps, home: Path) -> None:
    """What a start runs to take over the box of a killed process: all that the room of recovery runs."""
    from hearthnet.observability import telemetry

    steps.room = "observability/store/recovery/"
    for _ in range(_TIMES):
        _die(home)
        store = telemetry.open(_settings(home))
        with steps.round():
            store.start()
        assert store.recovered.traces, store.recovered
        store.close()


WALKS: Final[dict[str, Callable[[Steps, Path], None]]] = {
    "log record to row and line": _log,
    "trace to `trace show`": _trace,
    "HTTP call to its handler": _call,
    "recovery": _recovery,
}


def walk(name: str, run: Callable[..., Any] = subprocess.run) -> list[str]:
    """Returns the modules of a walk, from a process of its own; `run` starts that, and captures its output."""
    with tempfile.TemporaryDirectory(prefix="hearthnet-walk-") as home:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("XDG_")} | {"HOME": home}
        more = {"capture_output": True} if run is subprocess.run else {}
        done = run([sys.executable, __file__, name], env=environment, text=True, timeout=_TIMEOUT_S, **more)
    if done.returncode != 0:
        raise RuntimeError(f"the walk {name!r} failed: {done.stderr[-2_000:]}")
    found: list[str] = json.loads(done.stdout)
    return found


def column() -> list[str]:
    """Returns the files that name one column of `traces`: those that a new one would touch."""
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "migrations" / "telemetry").glob("*.sql")]
    return sorted(os.fspath(path.relative_to(ROOT)) for path in files if COLUMN in path.read_text("utf-8"))


def _main() -> None:
    sys.path[:0] = [os.fspath(ROOT)]
    importlib.import_module("hearthnet.node")  # under the profile it would take longer than the walk
    steps = Steps()
    steps.install()
    WALKS[sys.argv[1]](steps, Path(os.environ["HOME"]))
    print(json.dumps(steps.modules()))


if __name__ == "__main__":
    _main()

"""A copy of the working tree in which tests run, and which of them may notice the change of a line."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from mutation.subjects import ROOT

__all__ = ["Copy", "Test", "nearest"]

_HANG_S = 120  # a test that takes so long hangs, also on a busy machine: a mutant may loop without end
_REWRITE_WARNING = "ignore::pytest.PytestAssertRewriteWarning"  # that plugins are imported already
_PROCESS_EVENTS = {"subprocess.Popen", "os.fork", "os.posix_spawn", "socket.connect"}  # the last: to a fork server
_RUNS_FILE = "runs.json"


class Test(NamedTuple):
    """How long a test took, the lines that it ran of each module, and whether other processes may have run more."""

    name: str
    seconds: float
    lines: dict[str, list[int]]
    starts_processes: bool


class _Watch:
    """A plugin of pytest that notes each test that runs as a `Test`."""

    def __init__(self, modules: list[str]) -> None:
        from coverage import Coverage

        self.modules = modules
        self.seconds: dict[str, float] = {}
        self.started: set[str] = set()
        self.failed: set[str] = set()
        self.current = ""
        self.coverage = Coverage(data_file=None, config_file=False, include=modules)
        self.coverage.start()
        sys.addaudithook(self._heard)

    def _heard(self, event: str, _arguments: object) -> None:
        if event in _PROCESS_EVENTS:
            self.started.add(self.current)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Drops what measures CPU time: that takes the longest, under a tracer even more, and notices only slowness."""
        items[:] = [item for item in items if "cpu_s" not in item.function.__code__.co_names]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Files what runs from now on under this test."""
        self.current = nodeid
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Adds the time of the set-up, the test and the tear-down; what fails as it is notices nothing."""
        if report.failed:
            self.failed.add(report.nodeid)
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration

    def pytest_sessionfinish(self) -> None:
        """Writes the notes."""
        self.coverage.stop()
        data = self.coverage.get_data()
        lines: dict[str, dict[str, list[int]]] = {}
        for module in self.modules:
            for line, names in data.contexts_by_lineno(str(Path(module).resolve())).items():
                for name in names:
                    lines.setdefault(name, {}).setdefault(module, []).append(line)
        passed = [name for name in self.seconds if name not in self.failed]
        tests = [Test(name, self.seconds[name], lines.get(name, {}), name in self.started) for name in passed]
        Path(_RUNS_FILE).write_text(json.dumps(tests))


class _Only:
    """A plugin of pytest that runs these tests alone, in this order."""

    def __init__(self, names: list[str]) -> None:
        self.places = {name: place for place, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Drops and sorts what was collected."""
        items[:] = sorted((i for i in items if i.nodeid in self.places), key=lambda item: self.places[item.nodeid])


def nearest(tests: list[Test], module: str, source: str, line: int) -> list[str]:
    """Returns the tests that may notice a change of this line, the quickest first.

    These run the function around it, or start a process that may; all tests where it runs on import, or nowhere.
    """
    around = [
        range(node.body[0].lineno, (node.end_lineno or 0) + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body[0].lineno <= line <= (node.end_lineno or 0)
    ]
    inner = min(around, key=len, default=range(0))
    running = {test.name for test in tests if set(test.lines.get(module, ())) & set(inner)}
    may = [test for test in tests if not running or test.name in running or test.starts_processes]
    return [test.name for test in sorted(may, key=lambda test: (test.name not in running, test.seconds))]


class Copy:
    """A copy of the working tree in which tests run, each run in a process of its own.

    The processes are forks of this one, which has imported what the tests need but the package: that takes most of a
    second, for each mutant.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        for name in ("pytest", "pytest_asyncio", "pytest_timeout", "hypothesis", "pydantic", "aiosqlite", "orjson"):
            import_module(name)
        for name in ("prometheus_client", "rich.console", "rich.table", "click", "platformdirs", "unittest.mock"):
            import_module(name)
        import_module("coverage")

    def watch(self, tests: list[str], modules: list[str]) -> list[Test]:
        """Runs tests of the unchanged package; returns what each of them did that passed."""
        notes = self.folder / _RUNS_FILE
        notes.write_text("[]")
        if not self._passes(tests, 3_600, modules=modules):
            print(
                (self.folder / "output.txt").read_text(),
                "\nwarning: goes on without these",
                file=sys.stderr,
                flush=True,
            )
        return [Test(*test) for test in json.loads(notes.read_text())]

    def passes(self, names: list[str], within_s: float) -> bool:
        """Returns whether these tests pass; the first failure ends them."""
        return self._passes(sorted({name.partition("::")[0] for name in names}), within_s, names=names)

    def _passes(self, tests: list[str], within_s: float, **plugin: list[str]) -> bool:
        child = os.fork()
        if child == 0:
            self._run(tests, **plugin)
        ends_at = time.monotonic() + within_s
        while time.monotonic() < ends_at:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                break
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # also what the tests have left behind
        if pid:
            return os.waitstatus_to_exitcode(status) == 0
        os.waitpid(child, 0)
        return False

    def _run(self, tests: list[str], modules: list[str] | None = None, names: list[str] | None = None) -> None:
        status = 1
        try:
            os.setsid()
            os.chdir(self.folder)
            out = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for descriptor in (1, 2):
                os.dup2(out, descriptor)
            os.environ.update(PYTHONPATH=str(self.folder), PYDANTIC_DISABLE_PLUGINS="__all__")
            sys.dont_write_bytecode = False  # else each mutant compiles the package and the tests
            sys.path[:] = [str(self.folder), *(path for path in sys.path if Path(path) not in (ROOT, ROOT / "scripts"))]
            sys.argv = ["pytest"]
            import pytest

            plugin = _Only(names) if names else _Watch(modules or [])
            options = [
                *(["-x"] if names else []),
                "-q",
                "-p",
                "no:cacheprovider",
                f"--timeout={_HANG_S}",
                "-W",
                _REWRITE_WARNING,
            ]
            status = pytest.main([*options, *tests], plugins=[plugin])
        finally:
            sys.stdout.flush()
            os._exit(status)

    def write(self, module: str, source: str) -> None:
        """Replaces a module; what Python compiled of it may look as new as the source that follows it at once."""
        path = self.folder / module
        path.write_text(source, "utf-8")
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()

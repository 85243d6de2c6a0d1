"""A copy of the working tree, in which tests run: once unchanged and watched, then for each change."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from mutation.nearest import Runs, Test
from mutation.subjects import ROOT

__all__ = ["NO_TEST", "Copy"]

_HANG_S, _HANG_TIMES = 15, 15  # a test that takes so long, and so many times as long as unchanged, hangs
_REWRITE_WARNING = "ignore::pytest.PytestAssertRewriteWarning"  # that plugins are imported already
_PROCESS_EVENTS = {"subprocess.Popen", "os.fork", "os.posix_spawn", "socket.sendmsg"}  # the last: to a fork server
_RUNS_FILE, _KILLER_FILE = "runs.json", "killer.txt"
NO_TEST = "(no test: none could be collected, or all of them took too long)"


class _Watch:
    """A plugin of pytest that notes what the tests run, as `Runs`."""

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
        for module in self.modules:  # now: what it runs on import must not be filed under the first test that needs it
            import_module(module.removesuffix(".py").replace("/", "."))

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
        Path(_RUNS_FILE).write_text(json.dumps(Runs(tests, lines.get("", {}))))


class _Only:
    """A plugin of pytest that runs these tests alone, in this order, and notes the first that fails."""

    def __init__(self, tests: list[Test]) -> None:
        self.places = {test.name: place for place, test in enumerate(tests)}
        self.seconds = {test.name: test.seconds for test in tests}
        self.noted = Path(_KILLER_FILE).absolute()  # the test that fails may be in another folder

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Drops and sorts what was collected; a mutant may loop without end."""
        import pytest

        items[:] = sorted((i for i in items if i.nodeid in self.places), key=lambda item: self.places[item.nodeid])
        for item in items:
            limit_s = _HANG_S + _HANG_TIMES * self.seconds[item.nodeid]
            item.add_marker(pytest.mark.timeout(limit_s), append=False)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Notes the test that fails: the run ends with it."""
        if report.failed:
            self.noted.write_text(report.nodeid)


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

    def watch(self, tests: list[str], modules: list[str]) -> Runs:
        """Runs tests of the unchanged package; returns what each of them did that passed."""
        notes = self.folder / _RUNS_FILE
        notes.write_text(json.dumps(Runs([], {})))
        if not self._passes(tests, 3_600, _Watch, modules):
            print(self.output(), "\nwarning: goes on without these", file=sys.stderr, flush=True)
        noted, on_import = json.loads(notes.read_text())
        return Runs([Test(*test) for test in noted], on_import)

    def output(self) -> str:
        """Returns what the last tests have printed."""
        return (self.folder / "output.txt").read_text("utf-8", "replace")

    def killer(self, tests: list[Test]) -> str | None:
        """Returns the first of these tests that fails, and ends them; None if all pass."""
        noted = self.folder / _KILLER_FILE
        noted.unlink(missing_ok=True)
        within_s = 60 + 3 * sum(test.seconds for test in tests)
        files = sorted({test.name.partition("::")[0] for test in tests})
        if not tests or self._passes(files, within_s, _Only, tests):
            return None
        return noted.read_text() if noted.exists() else NO_TEST

    def _passes(self, files: list[str], within_s: float, plugin: Callable[[Any], object], about: object) -> bool:
        child = os.fork()
        if child == 0:
            self._run(files, plugin, about)
        ends_at = time.monotonic() + within_s
        try:
            while time.monotonic() < ends_at:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    return os.waitstatus_to_exitcode(status) == 0
                time.sleep(0.02)
            return False
        finally:  # also where this program is told to end
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # also what the tests have left behind
            with suppress(ChildProcessError):
                os.waitpid(child, 0)

    def _run(self, files: list[str], plugin: Callable[[Any], object], about: object) -> None:
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
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            import pytest

            given = plugin(about)
            options = ["-q", "-p", "no:cacheprovider", f"--basetemp={self.folder / 't'}", "-W", _REWRITE_WARNING]
            status = pytest.main([*(["-x"] if plugin is _Only else []), *options, *files], plugins=[given])
        finally:
            sys.stdout.flush()
            os._exit(status)

    def write(self, module: str, source: str) -> None:
        """Replaces a module; what Python compiled of it may look as new as the source that follows it at once."""
        path = self.folder / module
        path.write_text(source, "utf-8")
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()

"""Changes the code of a subject in small ways, one at a time, and tells which changes its nearest tests do not notice.

    scripts/mutate ring writer         every mutant of these subjects
    scripts/mutate --sample 40         40 mutants of each module of all subjects, the same ones for the same --seed
    scripts/mutate ring --json         the result as JSON

All of it happens in a copy of the working tree, below TMPDIR: quickest in memory. What a test must notice, and what
need not be: see `unmutated`. Survivors that are right are in `survivors.toml`, each with the reason.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, TESTS = "hearthnet/observability", "tests/observability"


class Subject(NamedTuple):
    """Modules below PACKAGE, and the tests below TESTS that should notice a change to them, the quickest first."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


SUBJECTS = {
    "ring": Subject(
        ("store/ring.py",),
        ("store/test_ring.py", "store/test_ring_settled.py", "store/test_writer.py", "store/test_writer_failures.py"),
    ),
    "record": Subject(
        ("records/record.py",),
        (
            "records/test_record_values.py",
            "records/test_results.py",
            "records/test_record.py",
            "redaction/test_redaction.py",
        ),
    ),
    "limits": Subject(
        ("logs/messages.py",),
        (
            "logs/test_messages.py",
            "logs/test_messages_place.py",
            "test_logging_limited.py",
            "test_logging.py",
        ),
    ),
    "box": Subject(
        ("records/blackbox.py", "records/box_file.py"),
        (
            "records/test_box_file.py",
            "records/test_blackbox.py",
            "records/test_populate_pages.py",
            "records/test_recorder_buffer.py",
        ),
    ),
    "writer": Subject(
        ("store/writer.py",),
        (
            "store/test_writer.py",
            "store/test_writer_failures.py",
            "store/test_ring.py",
        ),
    ),
    "merge": Subject(
        ("store/merge.py",),
        ("store/test_merge.py", "store/recovery/test_rebuild.py", "store/recovery/test_recover.py"),
    ),
    "recovery": Subject(
        tuple(
            f"store/recovery/{name}.py"
            for name in (
                "box_budget",
                "box_records",
                "living",
                "log_line",
                "opening",
                "quarantine",
                "rebuild",
                "recover",
            )
        ),
        ("store/recovery",),
    ),
    "run_ends": Subject(("store/recovery/run_ends.py",), ("store/recovery/test_run_ends.py", "../checks/test_runs.py")),
    "doctor": Subject(("doctor.py",), ("test_doctor.py", "reports/test_report_file.py")),
    "redaction": Subject(
        tuple(f"redaction/{name}.py" for name in ("rules", "names", "values", "options", "spoken", "told")),
        ("redaction", "records/test_record_values.py", "logs/test_tracebacks.py"),
    ),
}


class Mutant(NamedTuple):
    """A change to a module: where it is, the operator that makes it, at which of its positions."""

    start: tuple[int, int]
    operator: str
    occurrence: int

    def apply(self, source: str) -> str | None:
        """Returns the module after it; None if that is no Python."""
        from cosmic_ray.mutating import mutate_code

        try:
            mutated: str = mutate_code(source, operators()[self.operator], self.occurrence)
            with warnings.catch_warnings(action="ignore"):
                compile(mutated, "mutant", "exec", dont_inherit=True)
        except (SyntaxError, AttributeError):  # the latter where cosmic-ray meets `except a.b`
            return None
        return mutated


@dataclass(frozen=True)
class Score:
    """What became of the mutants of a module; `excused` survived for a reason that is known."""

    module: str
    killed: int
    excused: int
    survived: list[str]


class _Change:
    """An operator as cosmic-ray's visitor takes it: which nodes of parso's tree it changes (`applies`), and how."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Yields where this node begins and ends, if it can be changed."""
        if self.applies(node):
            yield node.start_pos, node.end_pos


def _leaf(text: str, instead_of: Any) -> Any:
    from parso.python.tree import Name

    return Name(text, instead_of.start_pos, instead_of.get_first_leaf().prefix)


class DeleteStatement(_Change):
    """Replaces by `pass` a call whose result is not used, an assignment to an attribute or item, `raise`, `del`."""

    def applies(self, node: Any) -> bool:
        """Returns whether this is such a node."""
        if node.type != "simple_stmt":
            return False
        statement = node.children[0]
        if statement.type == "expr_stmt":
            target, sign = statement.children[0], statement.children[1]
            return sign.type != "annassign" and (target.type != "name" or sign != "=")
        return statement.type in ("atom_expr", "raise_stmt", "del_stmt", "yield_expr") or statement == "raise"

    def mutate(self, node: Any, _index: int) -> Any:
        """Returns the node that replaces it."""
        node.children[0] = _leaf("pass", node.children[0])
        return node


class PassArgument(_Change):
    """Replaces a call by its only argument: what is redacted, cut or converted is passed as it was."""

    def applies(self, node: Any) -> bool:
        """Returns whether this is such a node."""
        if node.type != "atom_expr" or node.children[0] == "await":
            return False
        call = node.children[-1]
        return (
            call.type == "trailer"
            and call.children[0] == "("
            and len(call.children) == 3
            and call.children[1].type not in ("argument", "arglist")
        )

    def mutate(self, node: Any, _index: int) -> Any:
        """Returns the node that replaces it."""
        return _leaf(f"({node.children[-1].children[1].get_code(include_prefix=False)})", node)


# What cosmic-ray puts in place of an operator, but a slip would not: most are a TypeError, which any test notices.
_FAR_FETCHED = re.compile(r"_(Pow|LShift|RShift|BitOr|BitXor|BitAnd|Mod|Div|Invert)$|(?<!_Is)_IsNot$|(?<!_IsNot)_Is$")


@cache
def operators() -> dict[str, Any]:
    """Returns each operator by name: those of cosmic-ray that need no arguments, and the two above."""
    from cosmic_ray.operators.provider import OperatorProvider

    provider = OperatorProvider()
    theirs = {
        name: provider[name] for name in provider if not provider[name].arguments() and not _FAR_FETCHED.search(name)
    }
    return {name: made() for name, made in (theirs | {c.__name__: c for c in (DeleteStatement, PassArgument)}).items()}


def unmutated(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Returns the parts of a module that stay as they are, since no test need notice a change there.

    These are annotations, which nothing reads; sizes (`Final` numbers), which are a choice; `assert`, which tells the
    type checker what is the case; the text of warnings about what failed, and what only type checkers run.
    """
    parts: list[ast.AST] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.arg(annotation=ast.expr() as kept) | ast.FunctionDef(returns=ast.expr() as kept):
                parts.append(kept)
            case ast.AsyncFunctionDef(returns=ast.expr() as kept):
                parts.append(kept)
            case ast.AnnAssign(annotation=kept, value=value):
                parts.append(kept)
                if value and all(isinstance(part, _NUMERIC) for part in ast.walk(value)):
                    parts.append(value)
            case ast.Assert() | ast.If(test=ast.Name(id="TYPE_CHECKING")):
                parts.append(node)
            case ast.FunctionDef(decorator_list=[ast.Name(id="overload"), *_]):
                parts.append(node)
    return [((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)) for part in parts]


_NUMERIC = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)


def mutants_of(source: str) -> list[Mutant]:
    """Returns the mutants of a module; some are no Python."""
    from cosmic_ray.ast import ast_nodes, get_ast

    kept = unmutated(source)
    nodes = list(ast_nodes(get_ast(source)))
    found = [
        Mutant(start, name, occurrence)
        for name, operator in operators().items()
        for occurrence, start in enumerate(start for node in nodes for start, _ in operator.mutation_positions(node))
    ]
    return sorted(mutant for mutant in found if not any(first <= mutant.start < last for first, last in kept))


def sample(source: str, count: int, seed: int) -> list[tuple[Mutant, str]]:
    """Returns `count` mutants and the sources after them: one of each kind of operator at a place, or fewer."""
    mutants = mutants_of(source)
    random.Random(seed).shuffle(mutants)
    chosen: dict[tuple[tuple[int, int], str], tuple[Mutant, str]] = {}
    for mutant in mutants:
        place = mutant.start, _kind(mutant.operator)
        if place not in chosen and (mutated := mutant.apply(source)):
            chosen[place] = mutant, mutated
        if len(chosen) == count:
            break
    return sorted(chosen.values())


def _kind(operator: str) -> str:
    """Returns what operators have in common that replace one sign by another."""
    return operator.split("_")[0]


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


def run(copy: Copy, name: str, count: int, seed: int) -> Iterator[Score]:
    """Yields the score of each module of a subject.

    Raises:
        SystemExit: all tests fail as they are.
    """
    subject = SUBJECTS[name]
    modules = [f"{PACKAGE}/{module}" for module in subject.modules]
    started = time.monotonic()
    tests = copy.watch([f"{TESTS}/{test}" for test in subject.tests], modules)
    if not tests:
        sys.exit(f"error: the tests of {name} fail without any change")
    within_s = 20 + 3 * (time.monotonic() - started)
    for module in modules:
        source = (ROOT / module).read_text("utf-8")
        killed, excused, survived = 0, 0, []
        for mutant, mutated in sample(source, count, seed):
            copy.write(module, mutated)
            if not copy.passes(nearest(tests, module, source, mutant.start[0]), within_s):
                killed += 1
            elif reason_for(module, change_of(source, mutated), mutant.operator):
                excused += 1
            else:
                survived.append(_difference(module, source, mutated, mutant.operator))
                print(survived[-1], file=sys.stderr, flush=True)
        copy.write(module, source)
        yield Score(module, killed, excused, survived)


def change_of(source: str, mutated: str) -> tuple[str, str]:
    """Returns the lines that differ, before and after, without what surrounds their text."""
    lines = [line for line in difflib.ndiff(source.splitlines(), mutated.splitlines()) if line[0] in "-+"]
    before, after = ([line[2:].strip() for line in lines if line[0] == sign] for sign in "-+")
    return "\n".join(before), "\n".join(after)


@cache
def reasons() -> dict[tuple[str, str, str], str]:
    """Returns why no test need notice a change: by module, lines before, and lines after or the name of an operator."""
    listed = tomllib.loads((ROOT / "scripts/survivors.toml").read_text("utf-8"))["survivor"]
    return {
        (f"{PACKAGE}/{one['module']}", one["before"], one.get("after") or one["operator"]): one["why"] for one in listed
    }


def reason_for(module: str, change: tuple[str, str], operator: str) -> str | None:
    """Returns why no test need notice this change of a module; None if one should."""
    before, after = change
    return reasons().get((module, before, after)) or reasons().get((module, before, operator))


def _difference(module: str, source: str, mutated: str, operator: str) -> str:
    lines = difflib.unified_diff(source.splitlines(), mutated.splitlines(), module, operator, lineterm="", n=1)
    return "\n".join(lines)


def _line(score: Score) -> str:
    return f"{score.module}: {score.killed} killed, {score.excused} excused, {len(score.survived)} survived"


def main() -> int:
    """Prints the scores, and on stderr each survivor as it is found; returns 1 if there are any."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"all, or some of: {', '.join(SUBJECTS)}")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="mutants a module (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    if unknown := set(options.subjects) - set(SUBJECTS):
        parser.error(f"no such subject: {', '.join(sorted(unknown))}")
    scores = []
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copy = Copy(Path(folder))
        for name in options.subjects or SUBJECTS:
            for score in run(copy, name, options.sample, options.seed):
                scores.append(score)
                print(_line(score), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps([asdict(score) for score in scores], indent=2))
    else:
        for score in scores:
            print(_line(score))
            print("\n".join(score.survived))
    return int(any(score.survived for score in scores))


if __name__ == "__main__":
    sys.exit(main())

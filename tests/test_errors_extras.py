"""What `pip install hearthnet` alone can do: record telemetry and read it from disk, without a node's packages."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hearthnet import checks
from hearthnet.cli.main import COMMANDS
from hearthnet.errors import NODE_PACKAGES, OTEL_PACKAGES, OTLP_PACKAGES, MissingExtraError, missing_extra
from hearthnet.observability import telemetry

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CORE = {
    "aiosqlite", "click", "orjson", "platformdirs", "prometheus_client", "pydantic", "rich",
}  # fmt: skip
# Dependencies of a node's packages that our code imports by name.
BROUGHT = {"starlette"}
# Folders whose modules may import a node's packages at the top level; functions may do so anywhere.
OF_A_NODE = {
    "hearthnet.bus.capability", "hearthnet.checks.probes.llm_backends",
    "hearthnet.client.client", "hearthnet.client.reading", "hearthnet.observability.otel.export.sender",
}  # fmt: skip
NEED_IT = [
    ["run"],
    ["init", "--non-interactive"],
    ["call", "experimental.echo"],
    ["config", "set", "transport.port", "7081"],
]
MAKE_RECORDS = """
from hearthnet.config import load, resolve_paths
from hearthnet.observability import doctor, get_logger, metrics, telemetry, trace
from hearthnet import checks
config = resolve_paths(load())
with telemetry.open(config.observability):
    with trace.new_trace("experimental.work"), trace.span("step", size=3):
        get_logger("hearthnet.work").warning("working", extra={"step": 1})
    found = trace.get_recent(1)[0]
    results = doctor.run_all(config)
    assert len(results) == len(checks.ALL), results
    assert b"hearthnet_telemetry" in metrics.exposition()[0]
    print(found.trace_id, found.capability, len(found.spans))
"""


def import_names(distributions):
    """Returns the import names of distributions."""
    return {
        name
        for name, owners in metadata.packages_distributions().items()
        if any(canonical(owner) in distributions for owner in owners)
    }


def canonical(name: str) -> str:
    """Returns a distribution's normalised name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(lines) -> set[str]:
    """Returns the names of requirements that apply on this machine without any extra."""
    wanted = [Requirement(line) for line in lines]
    return {canonical(one.name) for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})}


def closure(names: set[str]) -> set[str]:
    """Returns the distributions with all their dependencies."""
    known: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        known.add(name)
        waiting |= requirements(metadata.requires(name) or []) - known
    return known


def missing_names() -> set[str]:
    """Returns the packages installed here that a plain install would not have."""
    kept = import_names(closure(requirements(PROJECT["dependencies"])))
    return set(metadata.packages_distributions()) - kept - {"hearthnet"}


PLAIN = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(missing_names())!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


# Runs commands one after another; prints the exit code and what was printed of each.
IN_TURN = """
import io, json
from contextlib import redirect_stderr, redirect_stdout
from hearthnet.cli.main import _run
done = []
for arguments in json.loads(sys.argv[1]):
    out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(error):
        code = _run(arguments)
    done.append((code, out.buffer.getvalue().decode(), error.buffer.getvalue().decode()))
print(json.dumps(done))
"""


def run_plain(script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs Python as in a plain install, with more in its environment."""
    command = [sys.executable, "-c", PLAIN + script, *arguments]
    # Where logfire is installed, for the benchmarks, pydantic would warn that it cannot load its plugin.
    environment = {**os.environ, "PYDANTIC_DISABLE_PLUGINS": "1", **more}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a plain install."""
    return run_plain("from hearthnet.cli.main import main; main(sys.argv[1:])", *arguments)


def in_turn(*commands: list[str], **more: str) -> list[tuple[int, str, str]]:
    """Runs command lines in a plain install, all in one process; returns exit code, stdout and stderr of each."""
    done = run_plain(IN_TURN, json.dumps(commands), **more)
    assert done.returncode == 0, done.stderr
    return [(code, out, error) for code, out, error in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The home and the trace id of a trace and a log record, made by a program in a plain install."""
    home = str(tmp_path_factory.mktemp("recorded"))
    done = run_plain(MAKE_RECORDS, HOME=home)
    assert done.returncode == 0, done.stderr
    trace_id, capability, spans = done.stdout.split()
    assert (capability, spans) == ("experimental.work", "1")
    return home, trace_id


def test_what_telemetry_needs_is_little():
    """A plain install has exactly these seven packages."""
    assert requirements(PROJECT["dependencies"]) == {canonical(name) for name in CORE}


def test_every_requirement_is_bounded_where_its_versions_mean_something():
    """Every dependency has an upper bound, except cryptography, whose major version changes every few months."""
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["node"], *extras["otel"], *extras["otlp"]]
    unbounded = [line for line in lines if "<" not in line]

    assert unbounded == ["cryptography>=42"]


def test_the_list_of_a_nodes_packages_is_that_of_the_project():
    """The error covers every package of the extra, and none of the core."""
    node = requirements(PROJECT["optional-dependencies"]["node"])

    assert import_names(node) | BROUGHT == NODE_PACKAGES
    assert missing_names() >= NODE_PACKAGES
    otlp = import_names(requirements(PROJECT["optional-dependencies"]["otlp"])) - {"httpx"}
    assert otlp <= {name.partition(".")[0] for name in OTLP_PACKAGES}
    assert import_names(requirements(PROJECT["optional-dependencies"]["otel"])) == OTEL_PACKAGES


def imported_at_once(path: Path) -> set[str]:
    """Returns a file's imports at run time outside functions."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(ast.parse(path.read_text("utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "TYPE_CHECKING" not in ast.dump(node):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def test_a_nodes_packages_are_imported_by_a_nodes_modules():
    """Other modules import a node's packages in the function that needs them."""
    users = {}
    for path in (ROOT / "hearthnet").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        used = imported_at_once(path) & NODE_PACKAGES
        if used and not module.startswith("hearthnet.transport.") and module not in OF_A_NODE:
            users[module] = used

    assert users == {}


def test_records_are_read_back(recorded):
    """Each command that reads from disk works."""
    home, trace_id = recorded
    said = [
        (["version"], "."),
        (["paths", "telemetry"], "telemetry.db"),
        (["log"], "working"),
        (["trace", "recent"], trace_id),
        (["trace", "recent", "--json"], trace_id),
        (["trace", "show", trace_id], "step"),
        (["telemetry", "sql", "SELECT trace_id FROM traces"], trace_id),
        (["telemetry", "info"], "traces"),
        (["autopsy", "--json"], "telemetry.db"),
    ]
    done = in_turn(*(arguments for arguments, _ in said), HOME=home)

    for (arguments, text), (code, out, error) in zip(said, done, strict=True):
        assert text in out, (arguments, error)
        assert code == 0 or arguments[0] == "autopsy", arguments


def test_the_doctor_skips_what_it_cannot_look_at(recorded):
    """Checks that need a node's packages are skipped with the install command; no other fails because of it."""
    home, _ = recorded
    (_, report, _), (code, _, _) = in_turn(["doctor", "--json"], ["doctor", "--list"], HOME=home)
    found = {item["name"]: item for item in json.loads(report)["checks"]}

    assert set(found) == {check.__name__ for check in checks.ALL}
    assert found["telemetry_store"]["status"] == "pass"
    assert "ModuleNotFoundError" not in report
    assert code == 0


def test_a_check_that_needs_the_extra_says_so(home):
    """The finding has the install command."""
    keys = home / ".local" / "share" / "hearthnet" / "keys"
    keys.mkdir(parents=True)
    (keys / "device.ed25519").write_bytes(bytes(32))
    (found,) = json.loads(cli("doctor", "--check", "keys_loadable", "--json").stdout)["checks"]

    assert found["status"] == "skip"
    assert "pip install 'hearthnet[node]'" in found["detail"]


def test_program_without_the_extra_is_no_node_without_a_key(home):
    """Its doctor does not fail for a key that it cannot make, and the status says what there is."""
    found = json.loads(cli("doctor", "--check", "keys_present", "--check", "keys_loadable", "--json").stdout)["checks"]
    assert [(item["status"], "pip install 'hearthnet[node]'" in item["detail"]) for item in found] == [
        ("skip", True)
    ] * 2

    assert cli("status").stderr.endswith("hint: create one with: hearthnet init\n")
    with telemetry.open():
        pass
    assert "; what programs recorded here: hearthnet autopsy, " in cli("status").stderr


def test_every_command_has_its_help(home):
    """Help is printed even for a command that cannot run."""
    done = in_turn(*([name, "--help"] for name in COMMANDS))

    assert {(code, out.startswith("Usage: hearthnet"), error) for code, out, error in done} == {(0, True, "")}
    assert len(done) == len(COMMANDS)


def test_a_command_that_needs_the_extra_says_so(home):
    """One line with the install command, exit code 1, and nothing is created."""
    for code, _, error in in_turn(*NEED_IT):
        assert code == 1
        assert re.fullmatch(r"error: \w+ is not installed: .*\nhint: pip install 'hearthnet\[node\]'\n", error)
    assert not list(home.rglob("*"))


@pytest.mark.parametrize(
    "script",
    [
        "from hearthnet.client import Client",
        "from hearthnet.node import open_node",
        "from hearthnet.identity.keys import KeyPair; KeyPair.generate()",
    ],
)
def test_missing_extra_is_named_in_the_error(home, script):
    """An import error has the install command as well."""
    done = run_plain(script)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("pip install 'hearthnet[node]'")


def test_a_missing_module_that_is_none_of_the_extra_is_a_mistake_of_ours():
    """A missing package that is not part of the extra is reported as it is."""
    assert missing_extra(ModuleNotFoundError("x", name="hearthnet.nowhere")) is None
    assert missing_extra(ModuleNotFoundError("x")) is None
    known = MissingExtraError("httpx", "node")
    assert missing_extra(known) is known
    assert missing_extra(ModuleNotFoundError("x", name="fastapi.routing")).name == "fastapi"
    for name, extra, named in [
        ("opentelemetry.proto.trace", None, "otlp"),
        ("opentelemetry.trace", None, "otel"),
        ("opentelemetry", "otlp", "otlp"),  # neither is installed
    ]:
        found = missing_extra(ModuleNotFoundError("x", name=name), extra)
        assert found.hint == f"pip install 'hearthnet[{named}]'"

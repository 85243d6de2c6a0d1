"""The bundle: useful facts, and only values from closed lists, whatever was recorded or set."""

from __future__ import annotations

import json
import logging
import re
import socket
import sqlite3
import zipfile
from contextlib import closing
from functools import cache

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.longer import examples

from hearthnet import checks
from hearthnet.checks.support import bundle
from hearthnet.checks.support.bundle import CONTENTS, make_bundle, write_bundle
from hearthnet.config import Config, LlmBackend, LlmConfig
from hearthnet.config_sections import Section
from hearthnet.constants import LEVELS, RESERVED_CAPABILITY_PREFIXES
from hearthnet.forensics.model import CAUSES, CONFIDENCES
from hearthnet.identity.keys import KeyPair, short_id
from hearthnet.observability import doctor, get_logger, telemetry, trace
from hearthnet.observability.records.results import RESULTS
from hearthnet.observability.reports.report_file import remember

PEER = KeyPair.generate().node_id
CANARIES = {
    "secret": "xyzzy-secret-99-plugh",
    "prompt": "grandmother's pancakes",
    "host": "gpu-tower",
    "address": "192.168.77.13",
    "folder": "/srv/somebody-7/diary",
    "mail": "somebody-7@owl.example",
    "peer": PEER,
    "short": short_id(PEER),
    "word": "Grandmother",
}
EVERYTHING = "; ".join(CANARIES.values())
# A message that poses as the end of a traceback.
FORGED = f'x\n  File "{CANARIES["folder"]}.py", line 7, in grandmother\nhttpx.Grandmother: {EVERYTHING}'


class GrandmotherError(Exception):
    """An exception class whose name is private."""


@pytest.fixture
def crowded(node, monkeypatch):
    """A node with canaries in every text that can be set."""
    config, bus = node
    monkeypatch.setenv("GRANDMOTHER_KEY", CANARIES["secret"])
    monkeypatch.setattr(socket, "gethostname", lambda: "kitchen-pi-9.lan")
    backend = LlmBackend(
        name="ollama",
        url=f"http://{CANARIES['host']}:11434/v1",
        model="tiny-Grandmother",
        api_key_env="GRANDMOTHER_KEY",
    )
    observed = config.observability.model_copy(
        update={"redact_keys": ("Grandmother",), "otlp_endpoint": f"http://{CANARIES['host']}/", "slow_ms": 700.0}
    )
    changed = {"llm": LlmConfig(backends=(backend,)), "observability": observed}
    return config.model_copy(update=changed), bus


def record(error=FORGED):
    """Records calls, spans, errors and log records with canaries."""
    for number, name in enumerate(("llm.chat", "llm.Grandmother", "Grandmother.pancakes", "experimental.echo")):
        with trace.new_trace(name) as made, trace.span("Grandmother", note=EVERYTHING):
            made.extras["caller"] = EVERYTHING
            if number != 3:
                made.fail("internal_error", error)
    try:
        json.loads("[")
    except ValueError:
        get_logger("hearthnet.bus.bus").exception(EVERYTHING, extra={"prompt": EVERYTHING})
    try:
        raise GrandmotherError(error)
    except GrandmotherError:
        get_logger("app.Grandmother").exception(EVERYTHING, extra={"exc_type": EVERYTHING})


@pytest.fixture
def recorded(crowded):
    """The same node after its run has ended."""
    config, bus = crowded
    with telemetry.open(config.observability, node_id=bus.node_id) as opened:
        record()
        assert opened.flush()
    return config, bus


def report_of(config, bus):
    """The doctor's report on this node, with an added finding full of canaries."""
    doctor.register("Grandmother", lambda *_: doctor.CheckResult("Grandmother", ok=False, detail=EVERYTHING))
    results = [result.as_dict() for result in doctor.run_all(config, bus)]
    report = {"version": 1, "ts": "2026-01-01T00:00:00Z", "program": "1.0", "source": "disk", "ok": False}
    remember(config.observability.data_dir, {**report, "checks": results})
    return {**report, "checks": results}


NO_REPORT = {"source": "disk", "checks": []}


def parsed(parts):
    """The documents of a bundle."""
    return {name: json.loads(content) for name, content in parts.items() if name != "README.txt"}


def test_nothing_of_anybody_is_in_any_byte(recorded, tmp_path):
    """The bundle has no canary, machine name, folder or node id."""
    config, bus = recorded
    path = tmp_path / "out.zip"
    write_bundle(make_bundle(config, report_of(config, bus)), path)

    assert path.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(path) as packed:
        whole = b"\n".join(name.encode() + b"\n" + packed.read(name) for name in packed.namelist()).lower()
    private = {
        **CANARIES, "node": bus.node_id, "me": short_id(bus.node_id), "ours": str(config.observability.data_dir),
        "machine": "kitchen-pi-9", "key": "GRANDMOTHER_KEY", "model": "tiny-", "dish": "pancakes", "owl": "owl.example",
        "community": '"home"', "address": "192.168", "person": "somebody",
    }  # fmt: skip
    assert [name for name, text in private.items() if text.lower().encode() in whole] == []


def test_what_helps_is_in_it(recorded):
    """The bundle has checks, versions, changed settings, the run and its verdict, calls, errors and the store."""
    config, bus = recorded
    found = parsed(make_bundle(config, report_of(config, bus)))

    assert set(found) == set(CONTENTS)
    seen = {check["name"]: check for check in found["doctor.json"]["checks"]}
    assert (seen["keys_present"]["status"], seen["keys_present"]["since"]) == ("pass", "2026-01-01T00:00:00.000Z")
    assert seen["other"]["status"] == "fail"
    assert found["versions.json"]["libraries"].keys() >= {"pydantic", "prometheus_client", "uvicorn"}
    assert found["config.json"]["observability"]["slow_ms"] == 700.0
    assert found["config.json"]["observability"]["redact_keys"] == ["set"]
    assert found["config.json"]["transport"] == {"host": "set", "port": config.transport.port}
    (backend,) = found["config.json"]["llm"]["backends"]
    assert backend == {"name": "ollama", "url": "set", "model": "set", "api_key_env": "set"}
    assert (found["runs.json"]["last"]["verdict"], len(found["runs.json"]["runs"])) == ("clean_stop", 1)
    calls = {group["kind"]: group["results"] for group in found["calls.json"]["last"]}
    assert calls == {"llm": {"internal_error": 2}, "other": {"internal_error": 1}, "experimental.echo": {"ok": 1}}
    assert found["telemetry.json"]["rings"]["traces"]["rows"] == 4
    assert {"kind": "database", "state": "whole"}.items() <= found["telemetry.json"]["files"][0].items()


def test_errors_have_type_and_location(recorded):
    """Classes and modules of Python, hearthnet and its libraries are named, with the line; any other is `other`."""
    config, _ = recorded
    errors = parsed(make_bundle(config, NO_REPORT))["errors.json"]["last"]
    logged = {error["name"]: error for error in errors if error["kind"] == "log"}

    assert [(e["name"], e["status"], e["error"], e["count"]) for e in errors if e["kind"] == "trace"] == [
        ("llm", "internal_error", "other", 2),
        ("other", "internal_error", "other", 1),
    ]
    assert logged.keys() == {"hearthnet.bus.bus", "other"}
    assert logged["hearthnet.bus.bus"]["error"] == "JSONDecodeError"
    assert any(re.fullmatch(r"json\.decoder:[0-9]+", frame) for frame in logged["hearthnet.bus.bus"]["frames"])
    assert logged["other"]["error"] == "other"


@pytest.mark.parametrize(
    ("path", "line", "shown"),
    [
        (bundle.__file__, 1, "hearthnet.checks.support.bundle:1"),
        (pytest.__file__, 1, "other"),
        (logging.__file__, 5, "logging.__init__:5"),
        (bundle.__file__, 99_999, "other"),
        (bundle.__file__, 0, "other"),
        (bundle.__file__.replace("bundle", "grandmother"), 1, "other"),
        (bundle.__file__.replace("checks/", "checks/../checks/"), 1, "other"),
        ("/srv/hearthnet/checks/bundle.py", 1, "other"),
        ("", 1, "other"),
    ],
)
def test_only_existing_locations_are_shown(path, line, shown):
    """A message that looks like a traceback can only name existing lines of known programs."""
    assert bundle._locations(f'  File "{path}", line {line}, in x\n') == ([shown] if path else [])


def test_only_our_loggers_are_named():
    """A logger that is not one of our modules is named by its package."""
    names = (
        "hearthnet.bus.bus",
        "hearthnet.bus.pancakes",
        "hearthnet..bus",
        "uvicorn.error",
        "tests.conftest",
        "anna",
        "",
    )

    shown = [bundle._logger(name) for name in names]
    assert shown == ["hearthnet.bus.bus", "hearthnet", "hearthnet", "uvicorn", "other", "other", "other"]


def test_present_run_of_a_running_node_is_in_it(recorded):
    """The present run is included too, with uncommitted and running calls."""
    config, bus = recorded
    with telemetry.open(config.observability, node_id=bus.node_id):
        record("KeyError: pancakes")
        with trace.new_trace("rag.query"):
            found = parsed(make_bundle(config, NO_REPORT))

    assert [found["runs.json"][name]["verdict"] for name in ("last", "present")] == ["clean_stop", "running"]
    assert [trace["kind"] for trace in found["runs.json"]["present"]["in_flight"]] == ["rag"]
    errors = {error["name"]: error["error"] for error in found["errors.json"]["present"] if error["kind"] == "trace"}
    assert errors == {"llm": "KeyError", "other": "KeyError"}
    assert {group["kind"] for group in found["calls.json"]["present"]} == {"llm", "other", "experimental.echo"}


def test_last_run_is_a_nodes(recorded):
    """A recording script is a run too, but not the node's."""
    config, _ = recorded
    with telemetry.open(config.observability), trace.new_trace("rag.query"):
        pass
    found = parsed(make_bundle(config, NO_REPORT))

    assert (len(found["runs.json"]["runs"]), found["runs.json"]["of_other_programs"]) == (1, 1)
    assert "rag" not in {group["kind"] for group in found["calls.json"]["last"]}


def test_same_content_is_the_same_file(recorded, tmp_path):
    """Equal content gives equal bundles."""
    config, _ = recorded
    parts = make_bundle(config, NO_REPORT)
    write_bundle(parts, tmp_path / "1.zip")
    write_bundle(parts, tmp_path / "2.zip")

    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_node_that_never_ran_has_one_too(node):
    """Without a store the bundle still has the report and the machine."""
    config, bus = node
    found = parsed(make_bundle(config, report_of(config, bus)))

    assert (found["runs.json"], found["errors.json"]) == (
        {"runs": [], "of_other_programs": 0},
        {},
    )
    assert [file["state"] for file in found["telemetry.json"]["files"]] == ["missing", "whole"]


def test_damaged_store_gives_what_can_be_read(recorded):
    """With a zeroed first page the rows are still found, and the state is reported."""
    config, _ = recorded
    with (config.observability.data_dir / "telemetry.db").open("r+b") as file:
        file.write(bytes(4096))
    found = parsed(make_bundle(config, NO_REPORT))

    assert found["telemetry.json"]["files"][0]["state"] == "damaged"
    assert "rings" not in found["telemetry.json"]
    assert len(found["calls.json"]["last"]) == 3


# --- nothing but values of a closed list

TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
NUMBERS = re.compile(r"[0-9]+(\.[0-9]+)*((a|b|rc|\.post|\.dev)[0-9]+)?")
PLACE = re.compile(r"(hearthnet|[a-z_0-9]+)(\.\w+)*:[0-9]+")
WORDS = """
    other set source disk node checks name status since duration_ms hearthnet python sqlite system release machine cpus
    memory_bytes libraries last present runs started last_seen lived_s version end_reason is_alive verdict confidence
    alternatives fault in_flight vitals kind ms ts_us rss_bytes memory_left_bytes open_files disk_free_bytes load
    loop_lag_s results p50_ms p95_ms max_ms error frames count first trace log files state bytes schema rings traces
    logs size rows ordinary notable oldest newest running unclean clean rebuilt wear measured_runs days written_bytes
    commits written_bytes_per_day commits_per_day total budget database wal box rest quarantine free floor losses
    quarantined whole damaged missing unreadable empty foreign newer doctor experimental.echo node_answers Linux x86_64
    aarch64 buffer_full poison killed wal_lost of_other_programs
"""


def names_of(section: type[Section]) -> set[str]:
    """The names of a section's settings, including nested ones."""
    below = [field.annotation for field in section.model_fields.values()]
    inner = [names_of(kind) for kind in below if isinstance(kind, type) and issubclass(kind, Section)]
    return set(section.model_fields).union(*inner)


VOCABULARY = {
    *WORDS.split(), *doctor.STATUSES, *CAUSES, *CONFIDENCES, *RESULTS, *LEVELS, *RESERVED_CAPABILITY_PREFIXES,
    *bundle._LIBRARIES, *names_of(Config), *names_of(LlmBackend), *(check.__name__ for check in checks.ALL),
    "ollama",
}  # fmt: skip


def strings_of(value):
    """All texts of a document, keys included."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from strings_of(item)
    elif isinstance(value, str):
        yield value


def is_of_the_list(text):
    """Returns True if a bundle may contain the text."""
    return (
        text in VOCABULARY
        or text in bundle._exceptions()
        or any(shape.fullmatch(text) for shape in (TIME, NUMBERS))
        or (PLACE.fullmatch(text) and text.partition(":")[0].partition(".")[0] in bundle._PACKAGES)
        or bundle._logger(text) == text
    )


def test_classes_of_tests_are_no_known_exceptions():
    """The list has classes of Python, hearthnet and its libraries, none of a program that uses the node."""
    assert {"ValueError", "WireError", "OperationalError", "ConnectError"} <= bundle._exceptions()
    assert "GrandmotherError" not in bundle._exceptions()


TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [EVERYTHING, FORGED, "KeyError: x", "1.0+anna", "ok", "clean", "hearthnet.Anna", "llm.Anna", "error"]
    ),
    st.sampled_from([f'  File "{bundle.__file__}", line 3, in x', json.dumps({"exc_type": "Anna", "repeats": 2**62})]),
)
COLUMNS = {
    "traces": ("run_id", "trace_id", "capability", "version", "result", "error", "spans", "extras"),
    "logs": ("run_id", "level", "logger", "msg", "trace_id", "extras", "exc"),
    "gaps": ("kind", "reason"),
    "runs": ("run_id", "node_id", "version", "boot_id", "end_reason", "vitals"),
}
MOMENTS = {"traces": "started_us", "logs": "ts_us", "gaps": "ts_us", "runs": "started_us"}


@pytest.fixture
def versions_once(monkeypatch):
    """What is installed is read once: that is most of the time of a bundle, and the same for each."""
    monkeypatch.setattr(bundle, "_versions", cache(bundle._versions))


# Not made smaller when it fails: each try takes a store, and the text that leaked is told as it is.
@settings(
    max_examples=examples(0.5),
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_nothing_but_values_of_the_list(recorded, versions_once, data):
    """Random texts in store, logs and reports never appear in the bundle."""
    config, _ = recorded
    with closing(sqlite3.connect(config.observability.data_dir / "telemetry.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("DELETE FROM gaps")
        connection.execute("INSERT INTO gaps (seq, ts_us, kind, reason, count) VALUES (999, 1, 'trace', 'killed', 3)")
        run_id = data.draw(st.one_of(st.just("01HXR4Z6W5S9E2JQ4Y0T7B3M1C"), TEXTS), "run_id")
        for table, columns in COLUMNS.items():
            for column in columns:
                text = run_id if column == "run_id" else data.draw(TEXTS, f"{table}.{column}")
                connection.execute(f"UPDATE {table} SET {column} = ?", (text,))
            moment = data.draw(st.integers(-(2**63), 2**63 - 1) | st.just(10**15), f"{table} moment")
            connection.execute(f"UPDATE {table} SET {MOMENTS[table]} = ?", (moment,))
    line = {
        "ts": "2026-11-24T03:23:51.145Z",
        **{key: data.draw(TEXTS, key) for key in ("level", "logger", "msg", "exc")},
    }
    (config.observability.log_dir / "2026-11-24.log").write_text(json.dumps(line) + "\n", "utf-8")
    check = {"name": data.draw(TEXTS, "check"), "status": data.draw(TEXTS, "status"), "detail": EVERYTHING}
    report = {"source": data.draw(TEXTS, "source"), "checks": [check]}
    remembered = {"ts": "2026-01-01T00:00:00Z", "program": EVERYTHING, "checks": [check]}
    (config.observability.data_dir / "doctor.jsonl").write_text(json.dumps(remembered) + "\n", "utf-8")

    found = parsed(make_bundle(config, report))
    assert [text for text in strings_of(list(found.values())) if not is_of_the_list(text)] == []

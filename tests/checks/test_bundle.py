"""The bundle: what helps is in it, and no secret, name, id, address or path of anybody, in no spelling."""

from __future__ import annotations

import base64
import json
import pwd
import re
import socket
import zipfile
from urllib.parse import quote

import pytest

from hearthnet.checks.bundle import MAX_BYTES, make_bundle
from hearthnet.config import LlmBackend, LlmConfig
from hearthnet.identity.keys import KeyPair, short_id
from hearthnet.observability import doctor, get_logger, telemetry, trace

PEER = KeyPair.generate().node_id
CANARIES = {
    "secret": "xyzzy-secret-99-plugh",
    "prompt": "my grandmother's pancakes",
    "host": "gpu-tower.lan",
    "address": "192.168.77.13",
    "folder": "/home/somebody-7/diary",
    "mail": "somebody-7@owl.example",
    "peer": PEER,
    "short": short_id(PEER),
    "community": "canary community",
}


@pytest.fixture
def recorded(node, monkeypatch):
    """A node whose settings, calls, records and errors hold the canaries."""
    config, bus = node
    monkeypatch.setenv("OLLAMA_KEY", CANARIES["secret"])
    backend = LlmBackend(
        name="ollama", url=f"http://{CANARIES['host']}:11434/v1", model="tiny", api_key_env="OLLAMA_KEY"
    )
    config = config.model_copy(update={"llm": LlmConfig(backends=(backend,))})
    log = get_logger("app.work")
    with telemetry.open(config.observability, node_id=bus.node_id) as t:
        for number in range(5):
            with trace.new_trace("llm.chat") as made, trace.span("ask"):
                made.extras["caller"] = PEER
                made.fail("internal_error", f"no answer from {CANARIES['address']} for {CANARIES['prompt']!r} {number}")
        try:
            raise ValueError(f"{CANARIES['folder']} of {CANARIES['mail']}: {CANARIES['secret']}")
        except ValueError:
            log.exception("work failed", extra={"prompt": CANARIES["prompt"], "peer": CANARIES["short"]})
        assert t.flush()
    return config, bus


def report_of(config, bus):
    """The doctor's report on this node, with a finding that holds every canary."""
    doctor.register(
        "talkative", lambda *_: doctor.CheckResult("talkative", ok=False, detail="; ".join(CANARIES.values()))
    )
    results = [result.as_dict() for result in doctor.run_all(config, bus)]
    return {"version": 1, "ok": False, "checks": results}


def spellings(text):
    """A text as it may stand in a file."""
    raw = text.encode()
    return {raw, quote(text).encode(), json.dumps(text)[1:-1].encode(), base64.b64encode(raw)[:-4] or raw}


def test_nothing_of_anybody_is_in_it(recorded, tmp_path, monkeypatch):
    """Each canary, this machine, its user, its folders, the node's own ids: none of them in any byte."""
    config, bus = recorded
    monkeypatch.setattr(socket, "gethostname", lambda: "kitchen-pi-9.lan")
    monkeypatch.setenv("LOGNAME", "login-77")
    bundle = make_bundle(
        config,
        report_of(config, bus),
        f'# of login-77 at kitchen-pi-9\nup{{node="{bus.node_id}"}} 1\n# {CANARIES["host"]}\n',
    )
    path = tmp_path / "out.zip"
    bundle.write(path)

    assert path.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(path) as packed:
        content = {name: packed.read(name) for name in packed.namelist()}
    private = {name: text for name, text in CANARIES.items() if name not in ("community", "prompt")}
    private |= {"node": bus.node_id, "me": short_id(bus.node_id), "home": str(config.observability.data_dir)}
    private |= {"user": "login-77", "name": "kitchen-pi-9"}
    for name, text in private.items():
        for spelling in spellings(text):
            assert not [file for file, raw in content.items() if spelling in raw], name
    # What the doctor itself was made to say is not free of it; what calls and records said is.
    for file in set(content) - {"hearthnet-bundle/doctor.json"}:
        assert b"pancakes" not in content[file], file


def test_what_helps_is_in_it(recorded):
    """Findings, errors with their place in the code, calls, runs, versions, how the store stands."""
    config, bus = recorded
    parts = make_bundle(config, report_of(config, bus), "up 1\n").parts

    assert set(parts) == {
        "README.txt", "doctor.json", "versions.json", "config.json", "errors.json", "traces.json", "runs.json",
        "telemetry.json", "metrics.txt",
    }  # fmt: skip
    errors = json.loads(parts["errors.json"])
    assert [(error["name"], error["count"]) for error in errors] == [("llm.chat", 5), ("app.work", 1)]
    assert errors[1]["frames"][-1].endswith("recorded")
    calls = json.loads(parts["traces.json"])
    assert [call["capability"] for call in calls] == ["llm.chat"] * 5
    assert calls[0]["spans"][0]["name"] == "ask"
    assert "extras" not in calls[0]
    assert json.loads(parts["runs.json"])["verdict"] == "clean_stop"
    assert json.loads(parts["config.json"])["transport"]["port"] == config.transport.port
    assert json.loads(parts["telemetry.json"])["rings"]["traces"]["rows"] == 5


def test_same_value_has_the_same_word_in_every_part(recorded):
    """A folder in the settings and in a finding."""
    config, bus = recorded
    parts = make_bundle(config, report_of(config, bus), None).parts
    word = json.loads(parts["config.json"])["identity"]["keys_dir"]

    assert word.startswith("path-")
    assert word.encode() in parts["doctor.json"]
    assert "metrics.txt" not in parts


def test_bundle_is_the_same_each_time_and_bounded(recorded, tmp_path):
    """The same content is the same file; too much is cut and says so."""
    config, _ = recorded
    report = {"version": 1, "ok": True, "checks": []}
    bundle = make_bundle(config, report, None)
    bundle.write(tmp_path / "1.zip")
    bundle.write(tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()

    huge = make_bundle(config, report, f"{'x' * 98}\n" * (MAX_BYTES // 98)).parts
    assert sum(map(len, huge.values())) <= MAX_BYTES
    assert huge["metrics.txt"].endswith(b"(cut)\n")


def test_node_that_never_ran_has_one_too(node):
    """Without a store there is still the report and the machine."""
    config, bus = node
    parts = make_bundle(config, report_of(config, bus), None).parts

    assert json.loads(parts["errors.json"]) == []
    assert "error" in json.loads(parts["telemetry.json"])


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        ("database is locked", "internal_error: database is locked"),
        ("sqlite3.OperationalError: disk I/O error", "internal_error: sqlite?.OperationalError: disk I/O error"),
        ("[Errno 28] No space left on device: '/x'", "internal_error: [Errno ?] No space left on device: ?"),
        ("cannot parse my grandmother's pancakes", "internal_error: …"),
        (repr("it's grandmother " + "x" * 500 + "pancakes"), "internal_error: ?"),
        ("KeyError: grandmother", "internal_error: KeyError: …"),
    ],
)
def test_of_an_error_only_what_programs_say_is_kept(node, error, kept):
    """Quoted or not, short or long: the words of a prompt are in no part, and neither in what the doctor says."""
    config, bus = node
    with telemetry.open(config.observability) as t:
        for _ in range(20):
            with trace.new_trace("llm.chat") as made:
                made.fail("internal_error", error)
        with trace.new_trace("anna.meier") as made:
            made.fail("not_found", "no such capability")
        assert t.flush()
    parts = make_bundle(config, report_of(config, bus), None).parts

    assert json.loads(parts["errors.json"])[0]["error"] == kept
    for word in (b"grandmother", b"pancakes", b"anna.meier"):
        assert [name for name, content in parts.items() if word in content and name != "doctor.json"] == [], word
    (rate,) = (check for check in json.loads(parts["doctor.json"])["checks"] if check["name"] == "recent_error_rate")
    assert rate["evidence"]["errors"][0]["error"] == kept
    assert "grandmother" not in json.dumps(rate)


def test_machines_of_the_settings_and_people_of_the_system_are_known(node, monkeypatch):
    """A host without a dot has no shape, and an account has its owner's name."""
    config, _ = node
    backend = LlmBackend(name="ollama", url="http://gpu-tower:11434/v1", model="tiny")
    odd = LlmBackend(name="ollama", url="http://[odd", model="tiny")
    config = config.model_copy(update={"llm": LlmConfig(backends=(backend, odd))})
    account = pwd.struct_passwd(("anna77", "x", 1, 1, "Anna Meier,,,", "/home/anna77", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: account)
    said = "GPU-Tower is not known; ask Anna Meier or ANNA77"
    report = {"version": 1, "ok": False, "checks": [{"name": "talkative", "detail": said, "evidence": {}}]}
    shown = json.loads(make_bundle(config, report, None).parts["doctor.json"])["checks"][0]["detail"]

    assert re.fullmatch(r"host-\d+ is not known; ask user-\d+ or user-\d+", shown)

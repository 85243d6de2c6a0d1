"""Planted secrets, end to end: they pass through a node and are in no file, response or output of it.

A careless capability leaks them in every way that a program can (`leaky_node.py`); callers send them in every part of a
request; a backend responds with them. A harmless marker goes along and must be found everywhere.
"""

from __future__ import annotations

import base64
import json
import re
import signal
import threading
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import orjson
import pytest
from leaky_node import MARKER, NAME, planted_cases
from support.llm_backend import Script, running_backend
from support.longer import few
from support.planted import REGISTERED

from hearthnet.config import LlmBackend, LlmConfig, load, save
from hearthnet.observability.redaction.rules import spellings

# Secrets given to the node: in variables with a secret's name, for a backend, in a backend's URL.
VARIABLES = {
    "OPENAI_API_KEY": "marmalade_Gibbon+8261",
    "DB_PASSWORD": REGISTERED[0],
    "MAIL_SECRET": REGISTERED[1],
    "APP_TOKEN": REGISTERED[2],
    "SIGNING_KEY": REGISTERED[3],
    "SSH_PASSPHRASE": "teacup_walrus_9047",  # a valid name of a capability
}
BACKEND_KEY = "lighthouse-ferret-3312"
URL_PASSWORD = "c4ndle stick/77"
GIVEN = (*VARIABLES.values(), BACKEND_KEY, URL_PASSWORD)
CASES = planted_cases()
NUMBERS = range(len(CASES))
TEXTS = [case.text for case in CASES if case.text]
GIVEN_TEXTS = [f"it was {value} here" for value in GIVEN]
HEADERS = [text for text in (*TEXTS, *GIVEN_TEXTS) if text.isascii() and text.isprintable()]


def needles() -> list[bytes]:
    """Returns the forbidden texts: each secret, plain and in other spellings."""
    found = {spelling for value in GIVEN for spelling in spellings(value)}
    for secret in {*GIVEN, *(case.secret for case in CASES[:-1])}:
        if secret == "17":  # the end of a registered one, which is searched for as a whole
            continue
        found |= {secret, json.dumps(secret)[1:-1], quote(secret, safe="")}
        found.add(base64.b64encode(secret.encode()).decode())
    assert min(map(len, found)) >= 5
    assert len(found) > 100
    return sorted(item.encode() for item in found)


NEEDLES = needles()
LONG_ZEROS = re.compile(rb"\0{64,}")


def leaks(content: bytes) -> list[bytes]:
    """Yields the planted secrets in some bytes, each with the bytes around its first occurrence."""
    content = LONG_ZEROS.sub(b"\0", content)  # most of a box, which is searched for each
    return [content[max(0, content.find(item) - 90) : content.find(item) + 90] for item in NEEDLES if item in content]


class Seen:
    """The responses of a node: status lines, headers and bodies."""

    def __init__(self, node) -> None:
        self.node = node
        self.pages: list[tuple[str, bytes]] = []
        self.client = httpx.Client(base_url=node.url, timeout=30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def ask(self, method: str, url: str, *, is_own: bool = False, **more) -> httpx.Response:
        """Sends a request and keeps the response; `is_own`: the body is the caller's own text, echoed."""
        answer = self.client.request(method, url, **more)
        heads = b"\n".join(name + b": " + value for name, value in answer.headers.raw)
        self.pages.append((f"{method} {urlsplit(url).path[:60]}", heads if is_own else heads + answer.content))
        return answer

    def call(self, body, capability=NAME, *, is_own=False, more=None, **named) -> httpx.Response:
        """Makes a signed call."""
        headers = {**self.node.headers(body, capability, **named), **(more or {})}
        return self.ask("POST", "/bus/v1/call", content=orjson.dumps(body), headers=headers, is_own=is_own)

    def leaky(self, number: int, how: str, **more) -> httpx.Response:
        """Has the careless capability leak a text and end in the given way."""
        return self.call({"params": {}, "input": {"case": number, "how": how}}, **more)


@pytest.fixture
def backend():
    """A backend with configurable responses."""
    with running_backend() as running:
        yield running


@pytest.fixture
def leaky_node(stopped_node, backend, monkeypatch):
    """A running node with the careless capability, a backend and secrets; debug is on."""
    for name, value in {**VARIABLES, "CHAT": BACKEND_KEY}.items():
        monkeypatch.setenv(name, value)
    config = load()
    port = urlsplit(backend.url).port
    url = f"http://me:{quote(URL_PASSWORD, safe='')}@127.0.0.1:{port}"
    configured = LlmBackend(name="ollama", url=url, model="tiny", api_key_env="CHAT")
    more = {"log_level": "debug", "keep_debug_of_failures": True, "flush_interval_s": 0.1, "max_disk_mb": 64}
    observability = config.observability.model_copy(update=more)
    save(config.model_copy(update={"llm": LlmConfig(backends=(configured,)), "observability": observability}))
    stopped_node.command = [stopped_node.command[0], str(Path(__file__).parent / "leaky_node.py")]
    stopped_node.start()
    return stopped_node


def pass_through_handlers(seen: Seen, share: int) -> None:
    """The capability leaks every case, or one in `share`, and ends in every way."""
    for number in NUMBERS[::share]:
        assert seen.leaky(number, "tell").json() == {"told": MARKER}
        assert seen.leaky(number, "answer").json() == {"told": MARKER}
        assert seen.leaky(number, "refuse").json()["error"] == "bad_request"
        assert seen.leaky(number, "fail").json()["error"] == "internal_error"
        streamed = seen.leaky(number, ("refuse", "fail")[number % 2], more={"Accept": "text/event-stream"})
        assert streamed.text.count("event: error") == 1


def pass_through_bodies(seen: Seen, share: int) -> None:
    """Sends texts as values and keys of input and params, in invalid bodies, and in bodies that are not JSON."""
    for text in (*TEXTS[:: 2 * share], TEXTS[-1], *GIVEN_TEXTS[::share]):  # the last one has the marker
        seen.call({"params": {text: text}, "input": {"text": text}}, "experimental.echo", is_own=True)
        seen.call({"params": {}, "input": {"text": text, text: 1}}, "experimental.echo")
        seen.call({"params": {}, "input": {"text": text, "fail": text}}, "experimental.echo")
        seen.call({text: text, "input": [text]}, "experimental.echo")
        content = b'{"input": {"text": %b' % orjson.dumps(text)
        seen.ask("POST", "/bus/v1/call", content=content, headers={"Content-Type": "application/json"})


def pass_through_headers(seen: Seen, share: int) -> None:
    """Sends every text that a header can hold in each header of a call, signed or not."""
    body = {"params": {}, "input": {"text": MARKER}}
    for text in HEADERS[1 % share :: share]:
        seen.call(body, text)
        seen.call(body, "experimental.echo", version=text)
        seen.call(body, "experimental.echo", request_id=text)
        names = ("traceparent", "tracestate", "baggage", "Authorization", "Cookie", "User-Agent", "Accept")
        answer = seen.call(body, "experimental.echo", more=dict.fromkeys(names, text))
        assert answer.json()["text"] == MARKER
        seen.call(body, "experimental.echo", more={"Host": text})
        unsigned = ("From", "Community", "Timestamp", "Signature")
        seen.call(body, "experimental.echo", more={f"X-HearthNet-{name}": text for name in unsigned[len(text) % 3 :]})
    assert seen.call(body, f"experimental.{VARIABLES['SSH_PASSPHRASE']}").json()["error"] == "not_found"


def pass_through_routes(seen: Seen, share: int) -> None:
    """Sends texts in paths, queries and bodies of the other routes."""
    for text in (*TEXTS[1 :: 2 * share], *GIVEN_TEXTS[1 % share :: share]):
        seen.ask("GET", f"/{quote(text, safe='')}?{quote(text)}")
        seen.ask("GET", f"/trace/{quote(text, safe='')}")
        seen.ask("GET", "/trace", params={"capability": text, "result": text})
        seen.ask("GET", "/trace", params={"n": text, "since": text, "min_ms": text})
        seen.ask("GET", "/doctor", params={"check": text})
        seen.ask("POST", "/control/log-level", json={"logger": text, "level": "debug"})
        seen.ask("POST", "/control/log-level", json={"logger": "bus", "level": text, text: text})
        seen.ask("POST", "/control/record-bodies", json={"capability": text, "for_s": 10})


def pass_through_backend(seen: Seen, backend, share: int) -> None:
    """Sends texts as prompts and models, and has the backend respond and refuse with them."""
    for text in TEXTS[2 % share :: 4 * share]:
        message = {"role": "user", "content": text}
        backend.script = Script(tokens=(text,))
        seen.call({"params": {"model": text}, "input": {"messages": [message]}}, "llm.chat", is_own=True)
        seen.call({"params": {"stop": 1}, "input": {"messages": [{"role": text}]}}, "llm.chat")
        backend.script = Script(how="status", status=400, error={"error": {"message": text, "type": text}})
        seen.call({"params": {}, "input": {"messages": [message]}}, "llm.chat")
    assert backend.headers[0]["authorization"].startswith("Basic ")  # user and password of the URL were sent


def pass_all_through(seen: Seen, backend, share: int) -> None:
    """Sends every secret, or one in `share`, through every route; the second half with recorded bodies.

    With a share each way has others: together they have nearly all.
    """
    pass_through_handlers(seen, share)
    pass_through_headers(seen, share)
    pass_through_routes(seen, share)
    for name in (NAME, "experimental.echo", "llm.chat"):
        seen.ask("POST", "/control/record-bodies", json={"capability": name, "for_s": 600}).raise_for_status()
    pass_through_bodies(seen, share)
    pass_through_backend(seen, backend, share)
    for page in ("/metrics", "/status", "/doctor", "/trace?n=10000", "/manifest", "/ready", "/control/log-level"):
        seen.ask("GET", page).raise_for_status()


def files_of(node) -> dict[Path, bytes]:
    """Returns every file of the node except key and configuration, which may hold secrets."""
    paths = [path for path in node.home.rglob("*") if path.is_file()]
    exempt = {"device.ed25519", "config.toml"}
    return {path.relative_to(node.home): path.read_bytes() for path in paths if path.name not in exempt}


def assert_clean(contents: dict) -> None:
    """Checks that no content holds a secret, and that each holds the marker where it should."""
    found = [f"{place}: {around!r}" for place, content in contents.items() for around in leaks(content)]
    assert not found, "\n".join(found[:40])


def have_marker(contents: dict) -> set[str]:
    """Returns the kinds of files that contain the marker."""
    return {path.name.removeprefix("telemetry.") for path, content in contents.items() if MARKER.encode() in content}


def assert_tools_are_clean(node) -> None:
    """The output of the command line contains the marker and no secret."""
    (trace_id,) = node.sql("SELECT trace_id FROM traces WHERE error LIKE ? ORDER BY seq DESC LIMIT 1", f"%{MARKER}%")[0]
    shown = {
        "show": node.cli("trace", "show", trace_id),
        "recent": node.cli("trace", "recent", "10000"),
        "log": node.cli("log", "-n", "100000"),
        "doctor": node.cli("doctor", "--json"),
        "snapshot": node.cli("telemetry", "snapshot", str(node.home / "copy.db")),
        "no such call": node.cli("call", f"experimental.{VARIABLES['SSH_PASSPHRASE']}", "--body", "{}"),
    }
    assert_clean({name: (done.stdout + done.stderr).encode() for name, done in shown.items()})
    assert {name for name, done in shown.items() if MARKER in done.stdout} >= {"show", "log"}
    assert shown["snapshot"].returncode == 0, shown["snapshot"].stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", few([3, 1], 3))
def test_no_planted_secret_is_in_any_byte(leaky_node, backend, share):
    """Files during and after the run, responses, printed output, and the output of tools hold no secret."""
    with Seen(leaky_node) as seen:
        pass_all_through(seen, backend, share)
    leaky_node.wait_for_sql(
        [(1,)], "SELECT count(*) > 0 FROM traces WHERE extras->>'request_body' LIKE ?", f"%{MARKER}%"
    )

    running = files_of(leaky_node)
    assert_clean({f"{number} {place}": content for number, (place, content) in enumerate(seen.pages)})
    assert_clean(running)
    assert any(MARKER.encode() in content for _, content in seen.pages)
    assert_tools_are_clean(leaky_node)
    assert leaky_node.stop() == 0
    stopped = files_of(leaky_node)
    assert_clean(stopped)
    assert {"run.out", "db", "copy.db"} <= have_marker(stopped)
    assert any(name.endswith(".log") for name in have_marker(stopped))
    assert any(name.endswith(".box2") for name in have_marker(running))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", few([3, 1], 3))
def test_killed_node_leaves_no_planted_secret(leaky_node, share):
    """After SIGKILL with calls of every kind in flight, neither black box nor recovered rows hold a secret."""
    waiting = [threading.Thread(target=break_off, args=(leaky_node, number)) for number in NUMBERS[-9:]]
    with Seen(leaky_node) as seen:
        for number in NUMBERS[2 % share :: share]:
            seen.leaky(number, "tell")
        for thread in waiting:
            thread.start()
        leaky_node.wait_a_while_for(lambda: seen.ask("GET", "/status").json()["calls_in_flight"] == len(waiting))
    leaky_node.stop(signal.SIGKILL)
    for thread in waiting:
        thread.join()

    killed = files_of(leaky_node)
    assert_clean(killed)
    assert any(name.endswith(".box2") for name in have_marker(killed))
    leaky_node.start()
    assert leaky_node.sql("SELECT count(*) FROM traces WHERE result = 'interrupted'") == [(len(waiting),)]
    assert_tools_are_clean(leaky_node)
    assert_clean({"trace": leaky_node.get("/trace?n=10000").content})
    assert leaky_node.stop() == 0
    assert_clean(files_of(leaky_node))


def break_off(node, number: int) -> None:
    """Makes a call during which the node dies."""
    with httpx.Client(verify=False) as client, pytest.raises(httpx.HTTPError):
        node.call({"params": {}, "input": {"case": number, "how": "wait"}}, client, capability=NAME)

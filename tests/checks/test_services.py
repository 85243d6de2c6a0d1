"""The checks of capabilities and backends: working, wrong, refusing and absent ones."""

from __future__ import annotations

import errno
import os
import socket
import threading
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from support.llm_backend import running_backend

from hearthnet.bus.bus import CapabilityBus
from hearthnet.checks.probes import llm_backends as asked_backends
from hearthnet.config import LlmBackend, LlmConfig
from hearthnet.observability import doctor
from hearthnet.services import echo

KEY = "sk-live-0123456789abcdef-canary"
COMMON = {"object": "list", "data": [{"id": "tiny", "object": "model"}, {"id": "large", "object": "model"}]}
OLLAMA = {"models": [{"name": "tiny:latest", "model": "tiny:latest"}, {"name": "qwen3:8b", "model": "qwen3:8b"}]}


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Long timeouts for slow machines."""
    monkeypatch.setattr(asked_backends, "_ASK_TIMEOUT_S", 30.0)
    monkeypatch.setattr(asked_backends, "_ALL_S", 60.0)


@pytest.fixture
def backend():
    """A backend that lists its models in both formats."""
    with running_backend() as running:
        running.lists = {"/v1/models": (200, COMMON), "/api/tags": (200, OLLAMA)}
        yield running


@pytest.fixture
def look(config):
    """Runs the check with these backends, from disk."""

    def run(*backends):
        made = LlmConfig(backends=tuple(LlmBackend(**backend) for backend in backends))
        return doctor.run_one("llm_backend_reachable", config.model_copy(update={"llm": made}), deadline_s=60)

    return run


def test_bus_with_and_without_capabilities(node):
    """An empty bus fails, one with a capability passes; without a node the check is skipped."""
    config, bus = node
    empty = doctor.run_one("at_least_one_capability", config, CapabilityBus(bus.node_id))

    assert (empty.status, empty.evidence["count"]) == ("fail", 0)
    assert empty.fix
    assert doctor.run_one("at_least_one_capability", config, bus).detail == "1 capability offered"
    assert doctor.run_one("at_least_one_capability", config, None).status == "skip"


def test_capabilities_that_fail_are_named(node):
    """A quarantined capability, and one that fails a third of its calls, warn; too few calls do not count."""
    config, bus = node
    for name, outcomes in (("bad", [False] * 20), ("poor", [True, True, False] * 10), ("new", [False] * 5)):
        entry = bus.registry.add(replace(echo.DESCRIPTOR, name=f"experimental.{name}"), echo.echo)
        for ok in outcomes:
            entry.health.record(ok=ok, duration_ms=1.0, is_probe=False)

    result = doctor.run_one("at_least_one_capability", config, bus)

    assert (result.status, result.ok) == ("warn", True)
    assert result.evidence == {
        "count": 4,
        "quarantined": ["experimental.bad@1.0"],
        "unhealthy": ["experimental.poor@1.0"],
    }
    assert "quarantined: experimental.bad@1.0; failing often: experimental.poor@1.0" in result.detail
    assert result.fix == "hearthnet trace recent 20 --failed --capability experimental.bad"


@pytest.mark.parametrize(
    ("name", "ending", "path", "model"),
    [
        ("ollama", "", "/api/tags", "tiny"),
        ("ollama", "/v1/", "/api/tags", "qwen3:8b"),
        ("lmstudio", "/v1", "/v1/models", "tiny"),
        ("llama_cpp", "/", "/v1/models", "large"),
        ("hf_api", "/v1", "/v1/models", "tiny:together"),
        ("anthropic_api", "", "/v1/models", "large"),
    ],
)
def test_backend_that_answers_passes(look, backend, name, ending, path, model):
    """Each kind is asked for its models in its own way, once, and nothing else."""
    result = look({"name": name, "url": backend.url + ending, "model": model})

    place = urlsplit(backend.url).netloc
    assert (result.status, result.fix) == ("pass", None)
    assert result.detail.startswith(f"1 of 1 backend available; {name} at {place} in ")
    assert (backend.paths, backend.bodies) == ([path], [])
    (seen,) = result.evidence["backends"]
    assert (seen["state"], seen["place"], seen["status"]) == ("ok", place, 200)
    assert seen["latency_ms"] > 0


def test_backends_are_asked_at_the_same_time(look):
    """The first responds only after the second was asked."""
    with running_backend() as first, running_backend() as second:
        first.lists = second.lists = {"/v1/models": (200, COMMON)}
        first.script.gate, second.script.gate = second.asked, first.asked
        result = look(*({"name": "lmstudio", "url": each.url, "model": "tiny"} for each in (first, second)))

    assert result.detail.startswith("2 of 2")


def test_dead_backends(look, backend, free_port, taken_port):
    """All dead fails, one of several warns and is named; none configured is skipped."""
    assert look().status == "skip"
    dead = [{"name": "ollama", "url": f"http://127.0.0.1:{port}", "model": "tiny"} for port in (free_port, taken_port)]
    result = look(*dead)
    assert (result.status, result.ok, result.evidence["states"]) == ("fail", False, {"dead": 2})
    assert f"ollama at 127.0.0.1:{free_port} does not respond (ConnectError)" in result.detail
    assert result.fix == "ollama serve"

    result = look(*dead, {"name": "lmstudio", "url": backend.url, "model": "tiny"})
    assert (result.status, result.ok) == ("warn", True)
    assert result.detail.startswith("1 of 3 backends available; ollama at")


def test_worst_problem_is_fixed_first(look, backend, free_port):
    """A remote backend gets no start command; a dead one is worse than one without the model."""
    lacking = {"name": "lmstudio", "url": backend.url, "model": "huge"}
    result = look(lacking, {"name": "llama_cpp", "url": f"http://127.0.0.1:{free_port}", "model": "tiny"})

    assert (result.status, result.evidence["states"]) == ("warn", {"no_model": 1, "dead": 1})
    assert result.fix == "start it, or correct its url under [[llm.backends]]"


def test_silent_backend_is_dead_in_time(look, backend, monkeypatch):
    """A backend that accepts and hangs is not waited for; the others are reported."""
    monkeypatch.setattr(asked_backends, "_ALL_S", 1.0)
    with running_backend() as silent:
        silent.script.gate = threading.Event()
        result = look(*({"name": "lmstudio", "url": each.url, "model": "tiny"} for each in (silent, backend)))
        silent.script.gate.set()

    assert result.evidence["backends"][0]["state"] == "dead"
    assert "does not respond (no response in time)" in result.detail


@pytest.mark.parametrize(
    ("name", "model", "words"),
    [
        ("lmstudio", "huge", "does not have 'huge': it has tiny, large"),
        ("ollama", "huge", "does not have 'huge': it has tiny:latest, qwen3:8b"),
        ("ollama", "qwen3", "does not have 'qwen3': it has tiny:latest, qwen3:8b"),
    ],
)
def test_model_that_the_backend_does_not_have(look, backend, name, model, words):
    """A missing model is a warning that lists the available ones."""
    result = look({"name": name, "url": backend.url, "model": model})

    assert (result.status, result.ok) == ("warn", True)
    assert words in result.detail
    load = "load the model there, or correct model under [[llm.backends]]"
    assert result.fix == (f"ollama pull {model}" if name == "ollama" else load)


def test_llama_cpp_answers_with_what_it_has_loaded(look, backend):
    """llama.cpp's single model has a file name, and serves calls under any name."""
    backend.lists["/v1/models"] = (200, {"data": [{"id": "/models/some.gguf"}]})
    assert look({"name": "llama_cpp", "url": backend.url, "model": "tiny"}).status == "pass"
    assert look({"name": "lmstudio", "url": backend.url, "model": "tiny"}).status == "warn"


def test_long_list_of_models_is_cut(look, backend):
    """A long list of models is not copied into the report."""
    backend.lists["/v1/models"] = (200, {"data": [{"id": f"{number}" * 50} for number in range(5_000)]})
    result = look({"name": "lmstudio", "url": backend.url, "model": "tiny"})

    assert "and 4992 more" in result.detail
    assert len(result.evidence["backends"][0]["models"]) == 8
    assert len(repr(result)) < 4_000


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ((401, {"error": "bad key"}), "fail", "does not accept the key (HTTP 401)"),
        ((403, b"<html>"), "fail", "does not accept the key (HTTP 403)"),
        ((503, {"error": {"message": "Loading model"}}), "fail", "is not ready: HTTP 503"),
        ((200, b"<html>a router's page"), "fail", "its response is not a list of models"),
        ((200, {"data": "none"}), "fail", "its response is not a list of models"),
        ((200, {"data": [{"id": 5}, "x", {}]}), "warn", "it has no model"),
        ((404, {}), "pass", "does not list its models"),
    ],
)
def test_answers_that_are_no_list(look, backend, monkeypatch, answer, status, words):
    """A refused key, a loading model and an invalid response are distinguished; the key is never shown."""
    monkeypatch.setenv("BACKEND_KEY", KEY)
    backend.lists["/v1/models"] = answer
    result = look({"name": "hf_api", "url": backend.url, "model": "tiny", "api_key_env": "BACKEND_KEY"})

    assert result.status == status
    assert words in result.detail
    assert backend.headers[0]["authorization"] == f"Bearer {KEY}"
    assert "canary" not in repr(result)


def test_key_goes_where_the_backend_takes_it(look, backend, monkeypatch):
    """Anthropic's key is sent in its own header."""
    monkeypatch.setenv("BACKEND_KEY", KEY)
    look({"name": "anthropic_api", "url": backend.url, "model": "tiny", "api_key_env": "BACKEND_KEY"})

    assert backend.headers[0]["x-api-key"] == KEY
    assert "authorization" not in backend.headers[0]


def test_missing_key_is_reported_without_asking(look, backend):
    """An unset variable is reported; one that contains the key by mistake is not quoted."""
    result = look({"name": "hf_api", "url": backend.url, "model": "tiny", "api_key_env": KEY})

    assert (result.status, result.evidence["states"]) == ("fail", {"no_key": 1})
    assert "named by api_key_env has no usable key" in result.detail
    assert backend.paths == []
    assert "canary" not in repr(result)


@pytest.mark.parametrize(
    "error",
    [socket.gaierror(socket.EAI_AGAIN, "try again"), OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))],
)
def test_cloud_without_a_way_to_it_is_skipped(look, backend, free_port, monkeypatch, error):
    """An unreachable cloud is not a failure, and local backends still count; a cloud that refuses is dead."""
    cloud = {"name": "hf_api", "url": "https://router.example/v1", "model": "tiny"}
    home = {"name": "lmstudio", "url": backend.url, "model": "tiny"}
    gone = {**home, "url": f"http://127.0.0.1:{free_port}"}
    assert look({**cloud, "url": gone["url"]}).status == "fail"
    real = socket.getaddrinfo

    def offline(host, *more, **named):
        if host == "router.example":
            raise error
        return real(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", offline)

    result = look(cloud)
    assert (result.status, result.ok, result.evidence["states"]) == ("skip", True, {"offline": 1})
    assert result.detail.startswith("offline: hf_api at router.example cannot be reached")
    assert look(cloud, home).status == "pass"
    assert look(cloud, gone).status == "fail"


@pytest.mark.parametrize("url", ["", "nonsense", "http://[::1", "http://user:hunter22@127.0.0.1:1", "file:///etc"])
def test_invalid_url_is_a_dead_backend(look, url):
    """An invalid url is reported like a dead backend, without its password."""
    result = look({"name": "ollama", "url": url, "model": "tiny"})

    assert (result.status, result.evidence["states"]) == ("fail", {"dead": 1})
    assert "hunter22" not in repr(result)

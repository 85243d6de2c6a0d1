"""`llm.chat` against a real server: requests, responses, timings, records, and errors."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from support import reading
from support.llm_backend import PATIENCE_S, Script, running_backend

from hearthnet.bus.bus import CapabilityBus
from hearthnet.bus.capability import RouteRequest
from hearthnet.config import LlmBackend
from hearthnet.errors import WireError
from hearthnet.observability import metrics, trace
from hearthnet.observability.traces.traceparent import to_w3c
from hearthnet.services import llm
from hearthnet.services.llm_client import address_of, chat_url

ME = "ed25519:me"
SECRET = "the diagnosis of my neighbour"
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": SECRET}]


@pytest.fixture
def backend():
    """A working backend."""
    with running_backend() as running:
        yield running


@pytest.fixture
def other_backend():
    """A second backend."""
    with running_backend() as running:
        yield running


@pytest.fixture
async def serve():
    """Offers `llm.chat` for some backends on its own bus; returns a function that calls it."""
    services = []

    def start(*backends, model="tiny", **settings):
        configured = [
            item if isinstance(item, LlmBackend) else LlmBackend(name="llama_cpp", url=item.url, model=model)
            for item in backends
        ]
        chat = llm.LlmChat(configured, **settings)
        services.append(chat)
        bus = CapabilityBus(ME)
        bus.register(llm.DESCRIPTOR, chat.respond)

        def call(stream=False, messages=MESSAGES, body=None, **params):
            whole = {"params": params, "input": {"messages": messages}} if body is None else body
            return bus.handle_call(RouteRequest("llm.chat", (1, 0), whole, ME, stream=stream))

        call.bus = bus
        return call

    yield start
    for chat in services:
        await chat.__aexit__()


@pytest.fixture
def sample():
    """Enables metrics; returns a function that reads one series."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    return reading.sample


async def frames_of(call, **wanted) -> list[dict]:
    """All frames of a streamed call."""
    return [frame async for frame in await call(stream=True, **wanted)]


async def failure_of(call, stream, **wanted) -> WireError:
    """The error of a call, streamed or not."""
    with pytest.raises(WireError) as caught:
        await (frames_of(call, **wanted) if stream else call(**wanted))
    return caught.value


async def happens(event: threading.Event) -> None:
    """Waits for a condition set by another thread."""
    assert await asyncio.to_thread(event.wait, PATIENCE_S)


def spans_of(name, of=0):
    """The fields of the spans of that name in one of the newest traces."""
    return [part.extras for part in trace.get_recent(of + 1)[of].spans if part.name == name]


async def test_answer_has_text_and_totals(serve, backend):
    """Without streaming: the message, the backend, the timings."""
    answer = await serve(backend)()

    timings = answer.pop("timings")
    assert answer == {
        "message": {"role": "assistant", "content": "Good day!"},
        "model": "told-by-backend",
        "backend": "llama_cpp",
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "counted": False},
        "finish_reason": "stop",
    }
    assert set(timings) == {"queue_ms", "ttft_ms", "backend_ms", "tokens_per_s"}
    assert timings["ttft_ms"] is None
    assert timings["backend_ms"] > 0
    assert backend.paths == ["/v1/chat/completions"]
    assert backend.bodies == [{"messages": MESSAGES, "model": "tiny", "stream": False}]
    assert "authorization" not in backend.headers[0]
    recorded = trace.get_recent(1)[0]
    assert backend.headers[0]["traceparent"].split("-")[1] == to_w3c(recorded.trace_id)  # the backend may join


async def test_stream_has_pieces_and_then_totals(serve, backend):
    """Streamed: one frame per piece, then the totals; the backend is asked for token counts."""
    *pieces, last = await frames_of(serve(backend))

    assert pieces == [{"delta": "Good"}, {"delta": " day"}, {"delta": "!"}]
    assert last.pop("timings")["ttft_ms"] > 0
    assert last == {
        "done": True,
        "model": "told-by-backend",
        "backend": "llama_cpp",
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "counted": False},
        "finish_reason": "stop",
    }
    assert backend.bodies[0]["stream"] is True
    assert backend.bodies[0]["stream_options"] == {"include_usage": True}


async def test_parameters_reach_the_backend(serve, backend):
    """Only the caller's parameters are forwarded."""
    params = {"model": "tiny", "temperature": 0.5, "max_tokens": 7, "stop": ["\n"], "top_p": 0.9, "seed": 42}
    await serve(backend)(**params)

    assert backend.bodies == [{"messages": MESSAGES, "stream": False, **params}]


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
async def test_url_may_end_in_v1_or_not(serve, backend, ending):
    """Every spelling of the url leads to the same endpoint."""
    await serve(LlmBackend(name="ollama", url=backend.url + ending, model="tiny"))()

    assert backend.paths == ["/v1/chat/completions"]


def test_urls_are_taken_apart():
    """A path before `/v1` is kept; the address for logs has no user, password or query."""
    assert chat_url("https://host/api/v1") == "https://host/api/v1/chat/completions"
    assert chat_url("https://host/api") == "https://host/api/v1/chat/completions"
    assert address_of("http://user:secret@host:80/v1?key=secret") == "host:80"
    assert address_of("http://[::1]:8080") == "[::1]:8080"
    assert address_of("http://[half") == ""


async def test_thinking_aloud_is_kept_apart(serve, backend):
    """Reasoning arrives in its own frames, is not part of the text, and counts as generated."""
    backend.script = Script(reasoning=("hm", "…"), tokens=("42",), usage=None)
    call = serve(backend)
    *pieces, last = await frames_of(call)

    assert pieces == [{"delta": "", "reasoning": "hm"}, {"delta": "", "reasoning": "…"}, {"delta": "42"}]
    assert last["usage"] == {"prompt_tokens": None, "completion_tokens": 3, "counted": True}
    assert (await call())["message"] == {"role": "assistant", "content": "42", "reasoning": "hm…"}


async def test_tokens_are_counted_where_the_backend_does_not(serve, backend, sample):
    """Without counts a stream's chunks are counted, and marked as such; a single response has no count."""
    backend.script = Script(usage=None)
    call = serve(backend)
    last = (await frames_of(call))[-1]
    assert last["usage"] == {"prompt_tokens": None, "completion_tokens": 3, "counted": True}
    assert spans_of("generate")[0]["tokens_counted"] is True

    answer = await call()
    assert answer["usage"] == {"prompt_tokens": None, "completion_tokens": None, "counted": True}
    assert sample("hearthnet_llm_tokens_generated_total", model="tiny", backend="llama_cpp") == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_spans_have_names_and_timings(serve, backend, stream):
    """Each attempt is a wait for a slot and a generation, recorded with names and numbers, no text."""
    call = serve(backend)
    await (frames_of(call) if stream else call())

    (made,) = spans_of("generate")
    assert set(made) == {
        "backend", "model", "stream", "queue_ms", "ttft_ms", "backend_ms", "tokens_per_s", "tokens_in", "tokens_out",
        "tokens_counted", "finish_reason", "outcome",
    }  # fmt: skip
    assert (made["backend"], made["model"], made["stream"]) == ("llama_cpp", "tiny", stream)
    assert (made["tokens_in"], made["tokens_out"], made["tokens_counted"]) == (11, 3, False)
    assert (made["finish_reason"], made["outcome"]) == ("stop", "ok")
    assert made["tokens_per_s"] > 0
    assert spans_of("queue") == [{"backend": "llama_cpp"}]
    assert trace.get_recent(1)[0].result == "ok"


async def test_metrics_follow_a_call(serve, backend, sample):
    """The gauge is one during a call and zero afterwards, and tokens are counted."""
    backend.script = Script(gate=threading.Event())
    running = asyncio.create_task(frames_of(serve(backend)))
    await happens(backend.asked)

    assert sample("hearthnet_llm_concurrent", model="tiny") == 1
    assert sample("hearthnet_active_streams", capability="llm.chat") == 1
    backend.script.gate.set()
    await running
    assert sample("hearthnet_llm_concurrent", model="tiny") == 0
    assert sample("hearthnet_active_streams", capability="llm.chat") == 0
    assert sample("hearthnet_llm_tokens_generated_total", model="tiny", backend="llama_cpp") == 3


async def test_wait_for_a_slot_is_recorded(serve, backend):
    """A call to a busy backend waits in the node, and records how long."""
    now = SimpleNamespace(s=100.0)
    backend.script = Script(gate=threading.Event())
    call = serve(backend, slots=1, clock=lambda: now.s)
    first = asyncio.create_task(call())
    await happens(backend.asked)
    second = asyncio.create_task(call())
    while call.bus.stats()[0]["running"] < 2:
        await asyncio.sleep(0)
    now.s += 5
    backend.script.gate.set()

    assert (await first)["timings"]["queue_ms"] == 0
    assert (await second)["timings"]["queue_ms"] == 5_000
    assert len(backend.bodies) == 2


async def test_more_calls_than_slots_and_queue_are_refused(serve, backend):
    """Calls that could only time out are refused at once."""
    backend.script = Script(gate=threading.Event())
    call = serve(backend)
    running = [asyncio.create_task(call()) for _ in range(llm.DESCRIPTOR.max_concurrent)]
    await happens(backend.asked)

    assert (await failure_of(call, stream=False)).code == "capacity_exceeded"
    assert len(backend.bodies) <= 4
    backend.script.gate.set()
    assert len(await asyncio.gather(*running)) == llm.DESCRIPTOR.max_concurrent


async def test_caller_that_leaves_a_stream_ends_the_generation(serve, backend, sample):
    """Closing the stream closes the backend's connection; the trace is `cancelled` and every gauge back at zero."""
    backend.script = Script(tokens=("x",) * 1_000, pace_s=0.02)
    stream = await serve(backend)(stream=True)
    assert await anext(stream) == {"delta": "x"}
    await stream.aclose()

    await happens(backend.left)
    (made,) = spans_of("generate")
    assert (made["outcome"], made["tokens_counted"]) == ("cancelled", True)
    assert made["tokens_out"] >= 1
    assert trace.get_recent(1)[0].result == "cancelled"
    assert sample("hearthnet_llm_concurrent", model="tiny") == 0
    assert sample("hearthnet_active_streams", capability="llm.chat") == 0
    assert sample("hearthnet_llm_tokens_generated_total", model="tiny", backend="llama_cpp") == made["tokens_out"]


@pytest.mark.parametrize("stream", [False, True])
async def test_caller_that_leaves_before_the_first_token(serve, backend, sample, stream):
    """A call cancelled while the model reads the prompt releases the backend at once."""
    backend.script = Script(how="silent", after=0)
    call = serve(backend, slots=1)
    waiting = asyncio.create_task(frames_of(call) if stream else call())
    await happens(backend.asked)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    await happens(backend.left)
    assert trace.get_recent(1)[0].result == "cancelled"
    assert spans_of("generate")[0]["outcome"] == "cancelled"
    assert sample("hearthnet_llm_concurrent", model="tiny") == 0
    backend.script = Script()
    assert (await call())["message"]["content"] == "Good day!"


async def test_caller_that_leaves_the_queue_takes_no_slot(serve, backend):
    """A call cancelled while waiting for a slot is never sent, and the next one gets the slot."""
    backend.script = Script(gate=threading.Event())
    call = serve(backend, slots=1)
    first = asyncio.create_task(call())
    await happens(backend.asked)
    second = asyncio.create_task(call())
    while call.bus.stats()[0]["running"] < 2:
        await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    backend.script.gate.set()

    await first
    await call()
    assert len(backend.bodies) == 2
    assert spans_of("generate", of=2) == []


def error(kind, message=SECRET):
    """A backend's error response, whose message quotes the prompt, as some do."""
    return {"error": {"message": message, "type": kind, "code": None}}


FAILURES = [
    (Script(how="status", status=400, error=error("invalid_request_error")), "bad_request", "refused"),
    (Script(how="status", status=400, error=error("exceed_context_size_error")), "bad_request", "too_long"),
    (Script(how="status", status=500, error=error(SECRET)), "internal_error", "failed"),
    (Script(how="status", status=422, error=[SECRET]), "bad_request", "refused"),
    (Script(how="status", status=401), "internal_error", "key"),
    (Script(how="status", status=403), "internal_error", "key"),
    (Script(how="status", status=404), "internal_error", "no_model"),
    (Script(how="status", status=413), "bad_request", "too_long"),
    (Script(how="status", status=429), "capacity_exceeded", "busy"),
    (Script(how="status", status=503, error=error("unavailable_error")), "partition", "not_ready"),
    (Script(how="status", status=302), "internal_error", "failed"),
    (Script(how="silent", after=0), "timeout", "timeout"),
    (Script(how="reset", after=0), "internal_error", "cut_short"),
    (Script(how="cut"), "internal_error", "cut_short"),
    (Script(how="garbage"), "internal_error", "malformed"),
    (Script(how="raw", raw=b"data: [1]\n\n"), "internal_error", "malformed"),
]
STREAM_FAILURES = [
    (Script(how="no_done"), "internal_error", "cut_short"),
    (Script(how="cut", after=1), "internal_error", "cut_short"),
    (Script(how="reset", after=2), "internal_error", "cut_short"),
    (Script(how="garbage", after=1), "internal_error", "malformed"),
    (Script(how="silent", after=1), "timeout", "timeout"),
    (Script(how="error_chunk", after=1, error={"message": SECRET, "type": "server_error"}), "internal_error", "failed"),
    (Script(how="error_chunk", after=0, error={"code": "context_length_exceeded"}), "bad_request", "too_long"),
    (Script(how="error_chunk", after=0, error=SECRET), "internal_error", "failed"),
    (Script(how="raw", raw=b": " + b"x" * 1_100_000), "internal_error", "malformed"),
]


@pytest.mark.parametrize(
    ("stream", "script", "code", "kind"),
    [(stream, *failure) for failure in FAILURES for stream in (False, True)]
    + [(True, *failure) for failure in STREAM_FAILURES],
)
async def test_each_failure_has_its_code(serve, backend, sample, logged, stream, script, code, kind):
    """The caller gets a wire code; the log names backend and reason; nothing quotes the conversation."""
    backend.script = script
    call = serve(backend, timeout_s=0.3)
    failed = await failure_of(call, stream)

    assert failed.code == code
    (made,) = spans_of("generate")
    assert made["outcome"] == kind
    assert trace.get_recent(1)[0].result == code
    (record,) = [record for record in logged if record.msg == "language model backend failed"]
    assert record.kind == kind
    assert record.place in backend.url
    assert (record.status, record.levelno) == (script.status if script.how == "status" else None, logging.WARNING)
    assert sample("hearthnet_llm_concurrent", model="tiny") == 0
    told = repr([vars(item) for item in logged]) + repr(trace.get_recent(1)[0].as_dict()) + repr(failed.body())
    assert SECRET not in told


async def test_refused_connection_is_reported(serve, free_port, logged):
    """An unreachable backend gives status 503 and a time to retry."""
    call = serve(LlmBackend(name="lmstudio", url=f"http://127.0.0.1:{free_port}", model="tiny"))
    failed = await failure_of(call, stream=True)

    assert (failed.code, failed.retry_after_ms) == ("partition", 1_000)
    assert [(record.kind, record.detail) for record in logged if hasattr(record, "kind")] == [
        ("unreachable", "ConnectError")
    ]


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://127.0.0.1", "http://[half", f"http://{'x' * 70}.test"])
async def test_unreachable_url_is_reported(serve, url):
    """A mistake in the configuration is a backend that cannot be reached, not a crash."""
    assert (await failure_of(serve(LlmBackend(name="ollama", url=url, model="m")), stream=False)).code == "partition"


async def test_program_that_hangs_up_is_reported(serve, taken_port):
    """What answers on the port is no backend at all."""
    call = serve(LlmBackend(name="ollama", url=f"http://127.0.0.1:{taken_port}", model="tiny"))

    assert (await failure_of(call, stream=False)).code == "internal_error"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["nobody", "status", "reset", "garbage"])
async def test_next_backend_is_asked_before_the_first_token(serve, backend, other_backend, free_port, stream, how):
    """Whatever ails the first one, the caller gets the second one's answer, and the trace has both tries."""
    backend.script = Script(how=how, after=0, status=503)
    first = LlmBackend(
        name="lmstudio", url=f"http://127.0.0.1:{free_port}" if how == "nobody" else backend.url, model="tiny"
    )
    call = serve(first, other_backend)
    answer = (await frames_of(call))[-1] if stream else await call()

    assert answer["backend"] == "llama_cpp"
    tries = spans_of("generate")
    assert [made["backend"] for made in tries] == ["lmstudio", "llama_cpp"]
    assert tries[1]["outcome"] == "ok"
    assert trace.get_recent(1)[0].result == "ok"


async def test_next_backend_is_not_asked_after_the_first_token(serve, backend, other_backend):
    """Half an answer cannot be taken back: the stream ends with the error."""
    backend.script = Script(how="cut", after=2)
    stream = await serve(backend, other_backend)(stream=True)
    got = []
    with pytest.raises(WireError, match="cut short"):
        got.extend([frame async for frame in stream])
    assert other_backend.bodies == []


@pytest.mark.parametrize("script", [Script(how="status", status=400), Script(how="silent", after=0)])
async def test_next_backend_is_not_asked_in_vain(serve, backend, other_backend, script):
    """Not when the request itself is at fault, nor when its time is up."""
    backend.script = script
    assert (await failure_of(serve(backend, other_backend, timeout_s=0.3), stream=True)).code in (
        "bad_request",
        "timeout",
    )
    assert other_backend.bodies == []


async def test_named_model_is_asked_of_those_that_have_it(serve, backend, other_backend):
    """A configured model goes to its backend alone; any other name to whoever is first."""
    small = LlmBackend(name="ollama", url=backend.url, model="small")
    large = LlmBackend(name="lmstudio", url=other_backend.url, model="large")
    call = serve(small, large)
    await call(model="large")
    await call(model="strange")

    assert [body["model"] for body in other_backend.bodies] == ["large"]
    assert [body["model"] for body in backend.bodies] == ["strange"]


async def test_unknown_model(serve, backend, sample):
    """A name of the caller's own that no backend knows is `not_found`, and makes no series of its own."""
    backend.script = Script(how="status", status=404, error=error("not_found_error"))
    call = serve(backend)

    assert (await failure_of(call, stream=False, model="invented")).code == "not_found"
    assert (await failure_of(call, stream=False)).code == "internal_error"
    assert sample("hearthnet_llm_concurrent", model="invented") is None
    assert sample("hearthnet_llm_concurrent", model="other") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_key_comes_from_the_environment_and_goes_nowhere_else(serve, backend, monkeypatch, logged, stream):
    """The key is sent as a bearer token, and never recorded in a log, span or error, even if refused."""
    monkeypatch.setenv("MODEL_KEY", " sk-4711 ")
    backend.script = Script(how="status", status=401, error=error("invalid_api_key", "sk-4711 is wrong"))
    call = serve(LlmBackend(name="hf_api", url=backend.url, model="big", api_key_env="MODEL_KEY"))
    failed = await failure_of(call, stream)

    assert backend.headers[0]["authorization"] == "Bearer sk-4711"
    assert failed.code == "internal_error"
    ours = [vars(item) for item in logged if item.name.startswith("hearthnet")]
    assert "sk-4711" not in repr(ours) + repr(trace.get_recent(1)[0].as_dict()) + repr(failed.body())


@pytest.mark.parametrize("key", [None, "", "  ", "a\nb", "schlüssel"])
async def test_key_that_cannot_be_sent_is_reported(serve, backend, monkeypatch, logged, key):
    """Without the key nothing is sent; the variable's name is not logged either, since it may be the key itself."""
    monkeypatch.delenv("sk-0815", raising=False)
    if key is not None:
        monkeypatch.setenv("sk-0815", key)
    call = serve(LlmBackend(name="hf_api", url=backend.url, model="big", api_key_env="sk-0815"))

    assert (await failure_of(call, stream=False)).code == "internal_error"
    assert backend.bodies == []
    assert any("api_key_env" in vars(item).get("detail", "") for item in logged)
    assert "sk-0815" not in repr([vars(item) for item in logged]) + repr(trace.get_recent(1)[0].as_dict())


def body(messages=MESSAGES, **params):
    """The body of a call."""
    return {"params": params, "input": {"messages": messages}}


@pytest.mark.parametrize(
    "unfit",
    [
        {"params": {}, "input": SECRET},
        {"params": {}, "input": {}},
        {"params": {}, "input": {"messages": MESSAGES, SECRET: 1}},
        {"params": SECRET, "input": {"messages": MESSAGES}},
        body(SECRET),
        body([]),
        body([SECRET]),
        body([{"role": "user", "content": SECRET}] * 1_001),
        body([{"role": SECRET, "content": "x"}]),
        body([{"role": "user", "content": [SECRET]}]),
        body([{"role": "user", "contents": SECRET}]),
        body([{"role": "user", "content": SECRET * 50_000}]),
        body(model=""),
        body(model=SECRET * 10),
        body(temperature=2.1),
        body(temperature="hot"),
        body(max_tokens=0),
        body(max_tokens=1.5),
        body(top_p=-0.1),
        body(seed=2**63),
        body(stop=[SECRET * 10]),
        body(stop=[]),
        body(stop=5),
        body(tools=[]),
    ],
)
async def test_what_does_not_fit_is_refused_and_not_quoted(serve, backend, unfit):
    """Input that does not match the schema reaches no backend, and is recorded without its text."""
    failed = await failure_of(serve(backend), stream=False, body=unfit)

    assert failed.code == "schema_mismatch"
    assert SECRET not in repr(failed.body()) + repr(trace.get_recent(1)[0].as_dict())
    assert backend.bodies == []


async def test_conversation_has_a_size(serve, backend):
    """Messages that fit one by one may be too long together."""
    messages = [{"role": "user", "content": "x" * 400_000}] * 3
    assert (await failure_of(serve(backend), stream=True, messages=messages)).code == "bad_request"
    assert backend.bodies == []


async def test_callers_mistakes_do_not_count_against_health(serve, backend):
    """Refused requests do not count for health; failures of the backend do."""
    call = serve(backend)
    backend.script = Script(how="status", status=400)
    await failure_of(call, stream=False)
    assert call.bus.stats()[0]["calls"] == 0
    backend.script = Script(how="status", status=500)
    await failure_of(call, stream=False)
    assert call.bus.stats()[0]["success_rate"] == 0


LINES = (
    ": OPENROUTER PROCESSING\r\n\r\n"
    "event: completion\r\n"
    'data: {"choices": [{"delta": {"role": "assistant"}}], "model": ""}\r\n\r\n'
    'data:{"choices": [{"delta": {"content": "a\u2028b\u0085c"}, "finish_reason": ""}]}\n\n'
    'data: {"choices": [{"delta": {}, "finish_reason": "made_up"}], "usage": '
    '{"prompt_tokens": 5, "completion_tokens": 9}, "timings": {"prompt_ms": 1}}\n\n'
    "data: [DONE]"
)


async def test_dialects_are_understood(serve, backend):
    """Comments, CRLF, no space, characters that only Python ends lines at, counts beside a choice, no last newline."""
    backend.script = Script(how="raw", raw=LINES.encode())
    first, last = await frames_of(serve(backend))

    assert first == {"delta": "a\u2028b\u0085c"}
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 9, "counted": False}
    assert (last["finish_reason"], last["model"]) == ("other", "tiny")


def test_importing_the_service_is_light():
    """The HTTP client is imported with the first request."""
    script = "import sys, hearthnet.services.llm; print('httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"

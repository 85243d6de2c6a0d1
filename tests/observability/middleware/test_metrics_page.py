"""The page of a program's own metrics."""

from __future__ import annotations

from types import SimpleNamespace
from wsgiref.validate import validator

import pytest
from support.web import ask, environ_of

from hearthnet.observability import metrics
from hearthnet.observability.middleware import asgi_metrics, wsgi_metrics


@pytest.fixture(autouse=True)
def jobs():
    """A metric of a program."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    made = metrics.counter("test_page_jobs_total", "Jobs.", ["result"])
    made.labels("ok").inc(3)
    yield
    metrics._instruments.pop("test_page_jobs")


async def test_page_of_asgi():
    """The program's metrics, those of requests and of the process; none of HearthNet's."""
    start, body = await ask(asgi_metrics, headers=[("accept", "text/plain")])

    lines = body["body"].decode().splitlines()
    assert 'test_page_jobs_total{result="ok"} 3.0' in lines
    assert any(line.startswith("process_cpu_seconds_total ") for line in lines)
    assert "# TYPE http_server_request_duration_seconds histogram" in lines
    assert [line for line in lines if "hearthnet" in line] == []
    assert start["status"] == 200
    headers = dict(start["headers"])
    assert headers[b"content-type"].startswith(b"text/plain; version=0.0.4")
    assert headers[b"content-length"] == str(len(body["body"])).encode()


async def test_openmetrics_where_it_is_asked_for():
    """By the header."""
    start, body = await ask(asgi_metrics, headers=[("accept", "application/openmetrics-text")])

    assert body["body"].endswith(b"# EOF\n")
    assert b"openmetrics" in dict(start["headers"])[b"content-type"]


async def test_other_methods_and_connections():
    """HEAD has no body; others are refused; a websocket is none of it."""
    _, body = await ask(asgi_metrics, method="HEAD")
    refused, _ = await ask(asgi_metrics, method="POST")
    nothing = await ask(asgi_metrics, type="lifespan")

    assert (body["body"], refused["status"], nothing) == (b"", 405, [])


def test_page_of_wsgi():
    """The same, by the standard."""
    seen = []
    body = validator(wsgi_metrics)(environ_of(), lambda *given: seen.append(given))
    (text,) = list(body)
    body.close()

    assert b'test_page_jobs_total{result="ok"} 3.0' in text
    assert b"hearthnet" not in text
    assert dict(seen[0][1])["Content-Length"] == str(len(text))
    assert wsgi_metrics(environ_of(method="HEAD"), lambda *_: None) == []
    assert wsgi_metrics(environ_of(method="DELETE"), lambda *given: seen.append(given)) == [b"only GET and HEAD\n"]
    assert seen[-1][0].startswith("405")


def test_metrics_that_are_off():
    """The page says so."""
    metrics.configure(SimpleNamespace(metrics_enabled=False))

    assert wsgi_metrics(environ_of(), lambda *_: None) == [b"# metrics are disabled\n"]

"""A traceback that a middleware has logged is not logged a second time, and is never missing."""

from __future__ import annotations

import json
import logging

import pytest
from support.web import ask

from hearthnet.constants import CRASH_LOGGER
from hearthnet.observability.logging import JsonFormatter, install_sinks
from hearthnet.observability.middleware import ASGIMiddleware
from hearthnet.observability.middleware import request as request_module

server = logging.getLogger("server")


class Pool:
    """An application that keeps its first error, and raises it again in each request. Later ones log it, too."""

    def __init__(self):
        self.kept = None

    async def serve(self, scope, receive, send):
        """Serves a request."""
        if self.kept is None:
            self.kept = ConnectionError("the pool is down")
            raise self.kept
        try:
            raise self.kept
        except ConnectionError:
            server.exception("no connection")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def lines(observability):
    """Logs to a file; returns what reads its lines."""
    install_sinks(observability)

    def read():
        (file,) = observability.log_dir.glob("*.log")
        return [json.loads(line) for line in file.read_text().splitlines()]

    return read


async def fail(app=None):
    """Serves a request that fails; returns the exception as a server gets it."""
    try:
        await ask(ASGIMiddleware(app or Pool().serve))
    except ConnectionError as error:
        return error
    pytest.fail("the request did not fail")


def named(lines, message):
    """Returns the one line with this message."""
    (line,) = [line for line in lines if line["msg"] == message]
    return line


async def test_exception_that_is_raised_again_in_another_request_is_of_that(lines):
    """Its traceback begins there, and goes on with the frames of the request before."""
    pool = Pool()
    await fail(pool.serve)

    await ask(ASGIMiddleware(pool.serve))

    first, again = named(lines(), "request failed"), named(lines(), "no connection")
    assert "in serve" in again["exc"]
    assert again["trace_id"] != first["trace_id"]


async def test_exception_that_is_raised_again_elsewhere_is_told_with_its_place(lines):
    """No trace has that."""
    pool = Pool()
    await fail(pool.serve)

    try:
        raise pool.kept
    except ConnectionError:
        server.exception("the nightly job failed")

    line = named(lines(), "the nightly job failed")
    assert "in test_exception_that_is_raised_again_elsewhere" in line["exc"]
    assert "trace_id" not in line


async def test_exception_that_was_kept_for_long_is_told_in_full(lines, monkeypatch):
    """The trace that has its traceback may be gone."""
    error = await fail()
    monkeypatch.setattr(request_module, "_SOON_NS", 0)

    server.error("it had failed", exc_info=error)

    assert "exc" in named(lines(), "it had failed")


async def test_server_that_catches_and_raises_again_tells_it_once(lines):
    """As Starlette does."""

    async def serve():
        try:
            await ask(ASGIMiddleware(Pool().serve))
        except ConnectionError as error:
            raise error

    try:
        await serve()
    except ConnectionError:
        server.exception("error in application")

    line = named(lines(), "error in application")
    assert line["trace_id"] == named(lines(), "request failed")["trace_id"]
    assert "exc" not in line


async def test_traceback_that_the_middleware_could_not_log_is_in_the_servers_record(lines, monkeypatch):
    """Its logger is disabled, as a `dictConfig` does with existing ones. The first record has it, no other."""
    monkeypatch.setattr(request_module.log, "disabled", True)
    error = await fail()

    server.error("error in application", exc_info=error)
    server.error("closing the connection", exc_info=error)

    assert "in serve" in named(lines(), "error in application")["exc"]
    assert "exc" not in named(lines(), "closing the connection")


@pytest.mark.usefixtures("lines")
async def test_handler_of_the_program_gets_each_traceback():
    """It may have the server's records alone."""
    error = await fail()

    exc_info = type(error), error, error.__traceback__
    record = server.makeRecord("server", logging.ERROR, __file__, 1, "error", (), exc_info)

    assert "in serve" in json.loads(JsonFormatter().format(record))["exc"]


async def test_exception_that_ends_the_program_is_told_in_full(lines):
    """An autopsy reads the cause in it."""
    error = await fail()

    logging.getLogger(CRASH_LOGGER).critical("uncaught exception", exc_info=error)

    assert "in serve" in named(lines(), "uncaught exception")["exc"]

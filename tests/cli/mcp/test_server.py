"""The command as an assistant's program uses it: a child that speaks the protocol, by the SDK's own client."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys

import pytest

from hearthnet.cli.mcp.records import Records
from hearthnet.observability import telemetry, trace

pytest.importorskip("mcp")  # it needs newer packages than the lowest that the others take

from mcp import Client, StdioServerParameters, stdio_client

from hearthnet.cli.mcp.server import server_of

SERVE = [sys.executable, "-m", "hearthnet", "mcp"]
PATIENCE_S = 60.0
NAMES = ["search", "trace", "logs", "doctor", "autopsy", "sql"]


@pytest.fixture
def recorded(config):
    """Settings of a store with a trace."""
    with telemetry.open(config.observability), trace.new_trace("job.run"):
        pass
    return config


async def talk(server, *calls):
    """Returns the names of the tools, and for each call whether it failed, and its text."""
    async with Client(server, read_timeout_seconds=PATIENCE_S) as client:
        tools = (await client.list_tools()).tools
        results = [await client.call_tool(name, arguments) for name, arguments in calls]
    return tools, [(result.is_error, result.content[0].text) for result in results]


def test_a_child_is_asked(recorded):
    """Over standard input and output, which nothing else is printed to; an error is told and ends nothing."""
    server = stdio_client(StdioServerParameters(command=SERVE[0], args=SERVE[1:], env=dict(os.environ)))
    tools, results = asyncio.run(
        talk(
            server,
            ("search", {}),
            ("trace", {"trace_id": "zz"}),
            ("logs", {"level": "loud"}),
            ("trace", {"trace_id": "last"}),
        )
    )

    assert [tool.name for tool in tools] == NAMES
    assert all(tool.annotations.read_only_hint and tool.description for tool in tools)
    assert [is_error for is_error, _ in results] == [False, True, True, False]
    assert json.loads(results[0][1])["rows"][0]["capability"] == "job.run"
    assert "no trace id begins with 'zz'" in results[1][1]
    assert json.loads(results[3][1])["visits"][0]["capability"] == "job.run"


def test_it_ends_with_its_input(recorded):
    """Whatever that was; what it prints is the protocol or nothing."""
    given = b'no protocol\n{"jsonrpc": "2.0", "id": 1}\n\xff\n' + b"[" * 100_000
    done = subprocess.run(SERVE, input=given, capture_output=True, timeout=PATIENCE_S, check=False)

    assert done.returncode == 0
    for line in done.stdout.splitlines():
        assert json.loads(line)["jsonrpc"] == "2.0"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_by_a_signal(recorded, number):
    """While its input stays open, as on a terminal."""
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    first = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}
    with subprocess.Popen(SERVE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            process.stdin.write(json.dumps(first).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == 1
            process.send_signal(number)
            assert process.wait(PATIENCE_S) == -number
            assert process.stderr.read() == b""
        finally:
            process.kill()


@pytest.fixture
def own_root_handlers():
    """The SDK gives the root logger a handler of its own, for the life of a process."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)


@pytest.mark.usefixtures("own_root_handlers")
def test_folder_of_another_node_has_no_doctor(recorded):
    """All else is the same, with bounded arguments."""
    server = server_of(Records.in_folder(recorded.observability.data_dir))
    calls = [("search", {"limit": 5_000}), ("sql", {"statement": "DELETE FROM traces"}), ("doctor", {}), ("search", {})]
    tools, results = asyncio.run(talk(server, *calls))

    assert [tool.name for tool in tools] == [name for name in NAMES if name != "doctor"]
    assert [is_error for is_error, _ in results] == [True, True, True, False]


@pytest.mark.usefixtures("own_root_handlers")
def test_failure_that_was_not_thought_of(recorded, monkeypatch):
    """Is told without its words, which may hold anything, and ends nothing."""

    def fail(*_):
        raise RuntimeError("secret words")

    monkeypatch.setattr(Records, "trace", fail)
    _, (broken, intact) = asyncio.run(
        talk(server_of(Records.of(recorded)), ("trace", {"trace_id": "last"}), ("search", {}))
    )

    assert broken[0]
    assert "secret words" not in broken[1]
    assert not intact[0]

"""A real node: its own process, home and port, called over HTTP by a client that signs."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import orjson
from support import forkserver, reading
from support.waiting import wait_until

from hearthnet.config import load, resolve_paths
from hearthnet.identity.keys import KeyPair
from hearthnet.transport.auth.signing import sign

START_TIMEOUT_S = STOP_TIMEOUT_S = 60


class RunningNode:
    """A node's process and what a test asks of it."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        config = resolve_paths(load())
        self.keys = KeyPair.load(config.identity.keys_dir)
        self.data_dir = config.observability.data_dir
        self.log_dir = config.observability.log_dir
        self.command = [sys.executable, "-m", "hearthnet", "run"]
        self.process: forkserver.Process | None = None

    def start(self, **streams) -> None:
        """Starts the process, by default with its output in `run.out`, and waits until it answers."""
        with (self.home / "run.out").open("ab") as out:
            self.process = forkserver.spawn(self.command, **{"stdout": out, "stderr": out, **streams})
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Waits until the process answers."""
        ends_at = time.monotonic() + START_TIMEOUT_S
        # Reading certificates costs more CPU than the request, and would slow the start that is waited for.
        with httpx.Client(verify=False, timeout=1) as client:
            while time.monotonic() < ends_at:
                assert self.process.poll() is None, (self.home / "run.out").read_text()
                with suppress(httpx.TransportError):
                    if client.get(f"{self.url}/ready").status_code == 200:
                        return
                self._wait_a_moment()
        raise AssertionError("the node does not answer")

    def _wait_a_moment(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(0.05)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def headers(self, body, capability="experimental.echo", version="1.0", request_id=None, keys=None):
        """The signed headers of a call."""
        signed = sign(keys or self.keys, self.keys.node_id, capability, version, body, request_id)
        return {"Content-Type": "application/json", **signed}

    # Without certificates, whose reading costs ten times the CPU of a request.
    def get(self, path: str, **named) -> httpx.Response:
        """Asks the node."""
        return httpx.get(f"{self.url}{path}", timeout=30, verify=False, **named)

    def post(self, path: str, **named) -> httpx.Response:
        """Posts to the node."""
        return httpx.post(f"{self.url}{path}", timeout=30, verify=False, **named)

    def call(self, body, client=None, headers=None, **named) -> httpx.Response:
        """Calls a capability, signed by the node's own key unless headers are given."""
        signed = {"Content-Type": "application/json", **(self.headers(body, **named) if headers is None else headers)}
        content = orjson.dumps(body)
        if client is None:
            return self.post("/bus/v1/call", content=content, headers=signed)
        return client.post(f"{self.url}/bus/v1/call", content=content, headers=signed, timeout=30)

    def echo(self, text="hello", client=None, **wanted) -> httpx.Response:
        """Calls the echo service."""
        return self.call({"params": {}, "input": {"text": text, **wanted}}, client)

    def sql(self, query: str, *values):
        """What `sqlite3` would answer, from another process."""
        return reading.rows(self.data_dir / "telemetry.db", query, *values)

    def wait_for_sql(self, expected, query: str, *values) -> None:
        """Waits until a query answers as expected: until the next commit."""
        found = []

        def answers_as_expected():
            try:
                found[:] = self.sql(query, *values)
            except sqlite3.OperationalError as error:  # a database that is made anew has no tables yet
                found[:] = [error]
            return found == expected

        wait_until(answers_as_expected, found)

    def wait_a_while_for(self, condition, instead=None) -> None:
        """Waits until something is so."""
        wait_until(condition, instead)

    def cli(self, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
        """Runs the command line as a person would; with options of `subprocess.run` by a new interpreter."""
        command = [sys.executable, "-m", "hearthnet", *arguments]
        options.setdefault("env", {**os.environ, "HOME": str(self.home)})
        if options.keys() <= {"cwd", "env", "input"}:
            return forkserver.run(command, **options)
        return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)

    def log_lines(self) -> list[dict]:
        """Every line of the JSON log, parsed."""
        return reading.log_lines(self.log_dir)

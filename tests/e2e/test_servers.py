"""Web servers of several processes, each of which records into one store: uvicorn's workers, and a prefork server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from contextlib import contextmanager

import pytest
from support.longer import few
from support.reading import rows
from support.waiting import wait_until

from hearthnet.observability import telemetry

HEAD = """
import os
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, telemetry, trace

log = get_logger("app")
settings = ObservabilityConfig(data_dir=Path(DATA), log_dir=Path(LOGS), flush_interval_s=0.1)
"""

# Opens telemetry in each worker, when its server begins.
ASGI = """
opened = telemetry.open(settings)

async def lifespan(receive, send):
    while (await receive())["type"] == "lifespan.startup":
        await opened.__aenter__()
        await send({"type": "lifespan.startup.complete"})
    await opened.__aexit__()
    await send({"type": "lifespan.shutdown.complete"})

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    with trace.new_trace("web.get"):
        log.error("served")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""

# Opens telemetry before it forks, as `gunicorn --preload` does with an application that opens it at import.
PREFORK = """
import signal, socket, sys

leave = {"exit": sys.exit, "_exit": os._exit}[sys.argv[2]]
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))

def serve():
    signal.signal(signal.SIGTERM, lambda *_: leave(0))
    while True:
        connection, _ = listener.accept()
        with connection, trace.new_trace("web.get"):
            connection.recv(4096)
            log.error("served")
            body = str(os.getpid())
            connection.sendall(f"HTTP/1.0 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}".encode())

with telemetry.open(settings):
    children = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            serve()
        children.append(child)
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(child, signal.SIGTERM) for child in children])
    for child in children:
        os.waitpid(child, 0)
"""


@pytest.fixture
def serving(tmp_path, observability, free_port):
    """Runs a server until the block ends, then ends it in order.

    Yields what calls it, and how many calls each process has served.
    """
    calls = Counter()

    @contextmanager
    def running(program, *command):
        head = HEAD.replace("DATA", repr(str(observability.data_dir))).replace("LOGS", repr(str(observability.log_dir)))
        (tmp_path / "server.py").write_text(head + program)
        filled = [part.replace("PORT", str(free_port)) for part in command]
        process = subprocess.Popen([sys.executable, *filled], cwd=tmp_path, stderr=subprocess.PIPE)
        try:
            wait_until(lambda: answer() or process.poll() is not None)
            assert process.poll() is None, process.stderr.read()
            yield answer, calls
            process.send_signal(signal.SIGTERM)
            _, complaints = process.communicate(timeout=60)
            assert b"Traceback" not in complaints, complaints
        finally:
            process.kill()
            process.communicate()

    def answer():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{free_port}", timeout=30) as response:
                calls[int(response.read())] += 1
        except OSError:
            return False
        return True

    return running


def served(observability):
    """How many requests of each process are in SQL, as traces and as log records; of each different ones only."""
    path = observability.data_dir / telemetry.DATABASE
    sql = "SELECT pid, count(DISTINCT number) FROM {} JOIN runs USING (run_id) WHERE {} GROUP BY pid"
    counts = (
        rows(path, sql.format(*part)) for part in (("traces", "capability = 'web.get'"), ("logs", "msg = 'served'"))
    )
    return tuple(Counter(dict(found)) for found in counts)


def test_both_workers_of_uvicorn_are_in_sql_while_they_live(serving, observability):
    """Each of two workers commits what it serves, and both runs end in order."""
    command = ("-m", "uvicorn", "server:app", "--workers", "2", "--port", "PORT", "--no-access-log")
    with serving(ASGI, *command) as (answer, calls):
        wait_until(lambda: answer() and len(calls) == 2)
        wait_until(lambda: served(observability) == (calls, calls))

    with telemetry.open(observability):  # of a run that could not commit its end in time, the box has it
        pass
    path = observability.data_dir / telemetry.DATABASE
    ends = rows(path, "SELECT end_reason, count(*) FROM runs WHERE pid <> ? GROUP BY 1", os.getpid())
    assert ends == [("clean", 2)]
    assert rows(path, "SELECT count(*) - count(DISTINCT run_id || number) FROM traces") == [(0,)]


@pytest.mark.parametrize(
    ("leave", "ends"), few([("exit", {"clean": 4}), ("_exit", {"clean": 1, "unclean": 3})], "_exit")
)
def test_children_of_a_prefork_server_are_in_sql_while_they_live(serving, observability, leave, ends):
    """A server opens telemetry and forks three workers: each records as a run of its own, whichever way it leaves."""
    with serving(PREFORK, "server.py", "PORT", leave) as (answer, calls):
        wait_until(lambda: answer() and len(calls) == 3)
        wait_until(lambda: served(observability) == (calls, calls))
        living = rows(observability.data_dir / telemetry.DATABASE, "SELECT pid FROM runs WHERE ended_us IS NULL")

    assert {pid for (pid,) in living} > calls.keys()
    with telemetry.open(observability):
        pass
    path = observability.data_dir / telemetry.DATABASE
    reasons = rows(path, "SELECT end_reason FROM runs WHERE pid <> ?", os.getpid())
    assert Counter(reason for (reason,) in reasons) == ends
    assert not list(observability.data_dir.glob("*.box*"))
    assert rows(path, "SELECT count(*) FROM gaps") == [(0,)]

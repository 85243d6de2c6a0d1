"""Fixtures for all tests: a home of its own, instruments as after import, a telemetry store in a temporary folder."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import re
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import support.environment  # noqa: F401  # before what it is for
from hypothesis import HealthCheck, settings
from support.ports import reserve_port
from support.reading import rows
from support.waiting import wait_until

from hearthnet.config import ObservabilityConfig, default_config, resolve_paths
from hearthnet.observability.logs import messages
from hearthnet.observability.runtime import runtime


@pytest.hookimpl(optionalhook=True)  # not every run has xdist
def pytest_xdist_auto_num_workers():
    """Lets `-n auto` start three processes for two cores: a test often waits for a timer, a disk or another process."""
    return (os.cpu_count() or 1) * 3 // 2


def pytest_configure():
    """Lets Ctrl-C end tests and their programs, also in a shell's background, which ignores it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Leaves out of garbage collection what stays to the end anyway: a million objects of modules and tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Puts the tests of whole nodes first: each takes seconds, and what is shared out at the end should be short."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


# An example takes as long as a busy machine lets it, and so does the making of it. `scripts/soak properties` tries
# fifty times as many.
_UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("suite", max_examples=20, **_UNTIMED)
settings.register_profile("soak", max_examples=1_000, **_UNTIMED)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def _new_folder(tmp_path_factory):
    """Makes folders by number: pytest would look through those of all tests before, for the name of each."""
    base, numbers = tmp_path_factory.getbasetemp(), itertools.count()

    def make(name: str):
        path = base / f"{next(numbers)}-{name}"
        path.mkdir(mode=0o700)
        return path

    return make


@pytest.fixture
def tmp_path(_new_folder, request):
    """A folder of a test's own."""
    return _new_folder(re.sub(r"\W", "_", request.node.name)[:30])


@pytest.fixture(autouse=True)
def home(_new_folder, monkeypatch):
    """A home directory that nothing else uses; no test may touch the real one."""
    path = _new_folder("home")
    monkeypatch.setenv("HOME", str(path))
    exporting = [name for name in os.environ if name.startswith("OTEL_")]
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", *exporting):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


@pytest.fixture(autouse=True)
def fresh_instruments():
    """Each test starts and ends with instruments as they are after import."""
    runtime.reset()
    yield
    runtime.reset()
    logging.getLogger("uvicorn.access").propagate = True  # a server without an access log switches that off


@pytest.fixture
def logged():
    """Every record that is logged while the test runs, of every level, the standard way."""
    records: list[logging.LogRecord] = []
    collector = logging.Handler()
    collector.emit = records.append
    root = logging.getLogger()
    level = root.level
    root.addHandler(collector)
    root.setLevel(logging.DEBUG)
    yield records
    root.removeHandler(collector)
    root.setLevel(level)


@pytest.fixture
def unsampled(monkeypatch):
    """Every log record is stored, however many there are of a message."""
    monkeypatch.setattr(messages, "LINES_A_SECOND", 1_000_000)
    monkeypatch.setattr(messages, "ROWS_A_SECOND", 1_000_000)


@pytest.fixture
def observability(tmp_path) -> ObservabilityConfig:
    """Settings of a store in a temporary folder."""
    return ObservabilityConfig(data_dir=tmp_path / "data", log_dir=tmp_path / "logs", flush_interval_s=0.05)


@pytest.fixture
def config(home):
    """A node's settings, paths in the temporary home, discovery and outside anchors off."""
    base = default_config()
    quiet = base.emergency.model_copy(update={"probe_targets": ()})
    return resolve_paths(base.model_copy(update={"emergency": quiet}))


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 40 MB that nothing else is on; needs the right to mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m,mode=700", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def free_port() -> int:
    """A TCP port of loopback that nothing listens on."""
    return reserve_port()


@pytest.fixture
def taken_port():
    """A TCP port of loopback that a program, which speaks no HTTP, listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        answering = threading.Thread(target=_hang_up, args=(holder,), daemon=True)
        answering.start()
        yield holder.getsockname()[1]
        holder.shutdown(socket.SHUT_RDWR)
    answering.join()


def _hang_up(holder: socket.socket) -> None:
    with suppress(OSError):
        while True:
            holder.accept()[0].close()


@pytest.fixture
def http_date_server():
    """Starts HTTP servers whose Date is off by so many seconds; returns their `host:port`."""
    servers = []

    def start(offset_s: float) -> str:
        class Handler(BaseHTTPRequestHandler):
            def date_time_string(self, timestamp=None):
                return formatdate(time.time() + offset_s, usegmt=True)

            def do_HEAD(self):
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args):
                """Stays quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def query_until():
    """Asks a store again and again until it answers as expected."""

    def ask(settings, sql, expected):
        database = settings.data_dir / "telemetry.db"
        wait_until(lambda: rows(database, sql) == expected, lambda: f"{sql}: {rows(database, sql)}, not {expected}")

    return ask


@pytest.fixture
def as_nobody():
    """What runs within it is somebody else, who owns nothing; skipped where we may not become that."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")

    @contextmanager
    def nobody():
        os.seteuid(65_534)
        try:
            yield
        finally:
            os.seteuid(0)

    return nobody

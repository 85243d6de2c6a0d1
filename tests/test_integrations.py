"""docs/integrations.md: each program on the page does what the page says, in an empty home."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import urlopen
from wsgiref.simple_server import make_server

import pytest
from support.reading import rows
from support.web import ask, environ_of

from hearthnet.cli.main import _run
from hearthnet.observability import telemetry
from hearthnet.observability.middleware import wsgi_metrics
from hearthnet.observability.middleware.aiohttp_server import aiohttp_middleware

PAGE = (Path(__file__).parent.parent / "docs" / "integrations.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def programs(title: str) -> list[str]:
    """The programs of a section."""
    return re.findall(r"```python\n(.*?)```", SECTIONS[title], re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the program runs; what it has left open is closed."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    if (opened := telemetry.opened()) is not None:
        opened.close()


def load(text: str) -> dict:
    """Runs a program in this process; returns its names."""
    names = {"__name__": "program"}
    exec(compile(text, "program", "exec", dont_inherit=True), names)
    return names


def run(text: str, folder: Path) -> str:
    """Runs a program in a process of its own; returns what it printed."""
    (folder / "program.py").write_text(text)
    done = subprocess.run([sys.executable, "program.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def recorded(folder: Path) -> list[tuple]:
    """Name and result of the traces in the store, oldest first."""
    return rows(folder / "runs" / "telemetry.db", "SELECT capability, result FROM traces ORDER BY seq")


async def test_fastapi(folder, capsys):
    """A request is a trace with its span and log record; the metrics page has it, and `--data` reads it."""
    pytest.importorskip("fastapi")
    app = load(programs("FastAPI, Starlette, any ASGI")[0])["app"]
    async with app.router.lifespan_context(app):
        _, body = await ask(app, "/orders/7")
        await ask(app, "/orders/none")
        _, page = await ask(app, "/metrics/")

    assert body["body"] == b'{"number":7}'
    assert b'http_route="/orders/{number}",http_response_status_code="422"' in page["body"] or (
        b'http_response_status_code="422",http_route="/orders/{number}"' in page["body"]
    )
    assert recorded(folder)[:2] == [("GET /orders/{number}", "ok")] * 2
    assert _run(["search", "--data", "runs", "--logs", "number:7"]) == 0
    assert "order read" in capsys.readouterr().out


def test_flask(folder):
    """Over a socket, with the standard library's server."""
    pytest.importorskip("flask")
    app = load(programs("Flask, any WSGI")[0])["app"]
    with make_server("127.0.0.1", 0, app) as server:
        server.RequestHandlerClass.log_message = lambda *_: None
        serving = threading.Thread(target=server.handle_request)
        serving.start()
        with urlopen(f"http://127.0.0.1:{server.server_port}/orders/7") as response:
            assert response.read().strip() == b'{"number":7}'
        serving.join()
    telemetry.opened().close()

    assert recorded(folder) == [("GET /orders/<int:number>", "ok")]
    (page,) = wsgi_metrics(environ_of("/metrics"), lambda *_: None)
    assert b"/orders/<int:number>" in page


def test_django(folder):
    """The trace has the route's template, also where the view raises; an unknown path has none."""
    pytest.importorskip("django")
    (folder / "shop").mkdir()
    (folder / "shop" / "settings.py").write_text(
        "ROOT_URLCONF = 'shop.urls'\nSECRET_KEY = 'x'\nALLOWED_HOSTS = ['*']\n"
    )
    (folder / "shop" / "urls.py").write_text(DJANGO_URLS)
    said = run(programs("Django")[0] + DJANGO_CALLS, folder).splitlines()

    assert [line for line in said if line[:1].isdigit() and line.endswith("END")] == [
        "200 OK END",
        "500 Internal Server Error END",
        "404 Not Found END",
    ]
    assert recorded(folder) == [
        ("GET /orders/<int:number>", "ok"),
        ("GET /orders/<int:number>", "internal_error"),
        ("GET", "ok"),
    ]


DJANGO_URLS = """
from django.http import JsonResponse
from django.urls import path

def order(request, number):
    return JsonResponse({"number": 1 // number})

urlpatterns = [path("orders/<int:number>", order)]
"""
DJANGO_CALLS = """
from wsgiref.util import setup_testing_defaults

for number in ("orders/1", "orders/0", "secret"):
    environ = {"PATH_INFO": f"/{number}"}
    setup_testing_defaults(environ)
    application(environ, lambda status, *_: print(status, "END")).close()
"""


async def test_aiohttp(folder):
    """Routes, errors that are responses, exceptions, and a caller's trace."""
    aiohttp = pytest.importorskip("aiohttp")
    from aiohttp.test_utils import TestClient, TestServer

    app, mounted = load(programs("aiohttp")[0])["app"], aiohttp.web.Application(middlewares=[aiohttp_middleware])

    async def inner(request):
        raise aiohttp.web.HTTPServiceUnavailable

    mounted.router.add_get("/inner/{x}", inner)
    app.add_subapp("/mounted", mounted)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with TestClient(TestServer(app)) as client:
        response = await client.get("/orders/7", headers={"traceparent": parent})
        assert await response.json() == {"number": 7}
        assert (await client.get("/orders/seven")).status == 500
        assert (await client.get("/secret")).status == 404
        assert (await client.get("/mounted/inner/1")).status == 503

    assert recorded(folder) == [
        ("GET /orders/{number}", "ok"),
        ("GET /orders/{number}", "internal_error"),
        ("GET", "ok"),
        ("GET /mounted/inner/{x}", "internal_error"),
    ]
    database = folder / "runs" / "telemetry.db"
    assert rows(database, "SELECT count(*) FROM traces WHERE parent_id = 'b7ad6b7169203331'") == [(1,)]
    assert rows(database, "SELECT count(*) FROM logs WHERE msg = 'request failed'") == [(1,)]


def test_textfile(folder):
    """Has the program's metrics."""
    run(programs("Metrics")[0], folder)

    lines = (folder / "nightly.prom").read_text().splitlines()
    assert "nightly_files_total 3.0" in lines
    assert [line for line in lines if "hearthnet" in line] == []
    assert recorded(folder) == [("nightly", "ok")]


def test_cron_job(folder, capsys):
    """The warning is on stderr, which cron mails; autopsy knows how the run ended."""
    printed = run(programs("Cron jobs")[0], folder)

    assert "one file was locked" in printed
    assert recorded(folder) == [("backup", "ok")]
    assert _run(["autopsy", "--data", "runs"]) == 0
    assert "CLEAN STOP" in capsys.readouterr().out


def test_celery(folder):
    """A task is a trace, in a process that the signals have prepared."""
    pytest.importorskip("celery")
    from celery.signals import worker_process_init, worker_process_shutdown

    names = load(programs("Workers: Celery, APScheduler, pools")[0])
    worker_process_init.send(None)
    assert names["add"].apply((2, 3)).get() == 5
    worker_process_shutdown.send(None)

    assert names["add"].name.endswith("add")
    assert recorded(folder) == [("tasks.add", "ok")]


def test_apscheduler(folder):
    """A job is a trace."""
    pytest.importorskip("apscheduler")
    scheduler = load(programs("Workers: Celery, APScheduler, pools")[1])["scheduler"]
    (job,) = scheduler.get_jobs()

    assert job.func() == "done"

    telemetry.opened().close()
    assert recorded(folder) == [("refresh", "ok")]


def test_pools(folder):
    """Threads work in the trace that submitted the work, processes record runs of their own."""
    assert run(programs("Workers: Celery, APScheduler, pools")[2], folder) == "[320, 240]\n[2, 4]\n"

    database = folder / "runs" / "telemetry.db"
    assert sorted(recorded(folder)) == [("album", "ok"), ("batch", "ok"), ("batch", "ok")]
    assert rows(database, "SELECT name FROM spans WHERE capability = 'album'") == [("resize",)] * 2
    own = "SELECT count(*) FROM traces WHERE run_id = (SELECT run_id FROM traces WHERE capability = 'album')"
    assert rows(database, own) == [(1,)]


def test_pytest(folder):
    """The example passes; a test that fails shows its traces and its log records; without the plugin, nothing."""
    conftest, test = programs("pytest")
    (folder / "conftest.py").write_text(conftest)
    failing = test + (
        "\n\ndef test_fails(traces, caplog):\n    from hearthnet import get_logger\n\n"
        '    with trace("order"), span("pay", amount=3):\n        get_logger("shop").warning("declined")\n'
        '    assert caplog.messages[0] == "declined"\n    assert traces() == []\n'
    )
    (folder / "test_shop.py").write_text(failing)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)

    assert "1 failed, 1 passed" in done.stdout
    assert re.search(r"-+ Traces -+\norder  ok  [\d.]+ ms\n  pay  ok  [\d.]+ ms  amount=3\n", done.stdout)
    assert re.search(r"-+ Captured log call -+\nWARNING +shop:test_shop.py:\d+ declined", done.stdout)


def test_plugin_is_not_loaded_by_itself():
    """No entry point: every pytest of every user would import it."""
    import tomllib

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
    assert "pytest11" not in project["entry-points"]


def test_jupyter(folder):
    """The value of the cell has a picture, in IPython as it is."""
    shell_class = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    shell = shell_class.instance()
    try:
        shell.run_cell(programs("Jupyter")[0], store_history=False)
        result = shell.run_cell(programs("Jupyter")[0], store_history=False)
        data, _ = shell.display_formatter.format(result.result)
    finally:
        shell_class.clear_instance()
        shell.history_manager.end_session()

    assert result.success
    assert data["text/html"].count("<rect") == 1
    assert "analysis" in data["text/html"]


@pytest.mark.parametrize(("at", "library"), [(0, "loguru"), (1, "structlog")])
def test_other_libraries_for_logs(folder, at, library):
    """Fields, context and exception of a record arrive, within the trace."""
    pytest.importorskip(library)
    run(programs("What other libraries write")[at] + OTHERS_MORE[library], folder)

    database = folder / "runs" / "telemetry.db"
    found = rows(database, "SELECT level, msg, json_extract(extras, '$.number'), exc FROM logs ORDER BY seq")
    assert [row[:3] for row in found] == [("info", "paid", 7), ("error", "refused", 8)]
    assert found[1][3].endswith("KeyError: 'bank'")
    assert rows(database, "SELECT count(*) FROM logs JOIN traces USING (trace_id)") == [(2,)]


OTHERS_MORE = {
    "loguru": """
    with logger.contextualize(number=8):
        try:
            raise KeyError("bank")
        except KeyError:
            logger.exception("refused")
""",
    "structlog": """
    with structlog.contextvars.bound_contextvars(number=8):
        try:
            raise KeyError("bank")
        except KeyError:
            structlog.get_logger("shop").exception("refused")
""",
}


@pytest.mark.parametrize("text", [text for title in SECTIONS for text in programs(title)])
def test_every_program_is_python(text):
    """And imports what there is."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hearthnet"):
            module = __import__(node.module, fromlist=["x"])
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_every_program_is_run():
    """By one of the tests above."""
    assert {title: len(programs(title)) for title in SECTIONS if programs(title)} == {
        "FastAPI, Starlette, any ASGI": 1,
        "Flask, any WSGI": 1,
        "Django": 1,
        "aiohttp": 1,
        "Metrics": 1,
        "Cron jobs": 1,
        "Workers: Celery, APScheduler, pools": 3,
        "pytest": 2,
        "Jupyter": 1,
        "What other libraries write": 2,
    }
    assert asyncio.iscoroutinefunction(test_fastapi)

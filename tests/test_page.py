"""The page without a node: mounted in a program's application, and served from a folder."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from contextlib import closing, contextmanager

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from support import forkserver
from support.old_store import OLDER, old_store
from support.records import a_trace
from support.stores import put, unreserved
from support.waiting import until

from hearthnet.cli.main import _run
from hearthnet.observability import telemetry, trace
from hearthnet.observability.store.migrate import migrate_store
from hearthnet.observability.telemetry import DATABASE
from hearthnet.page import page_app, page_of
from hearthnet.transport.admission.gate import Load
from hearthnet.transport.app import build_page_app
from hearthnet.transport.page import autopsies, source
from hearthnet.transport.page.access import HEADER
from hearthnet.transport.page.grants import Grants

__all__ = ["unreserved"]

VIEWS = ["events", "now", "series", "capabilities", "traces", "logs", "doctor", "runs", "questions"]


@pytest.fixture
def recorded(observability):
    """The settings of a program that has recorded a trace."""
    with telemetry.open(observability), trace.new_trace("job.run"):
        pass
    return observability


@contextmanager
def killing(process):
    """Kills a process if the test fails, or leaving it would wait for it."""
    try:
        yield
    except BaseException:
        process.kill()
        raise


def fastapi(page):
    """A FastAPI application with the page mounted."""
    app = FastAPI()
    app.mount("/telemetry", page)
    return app


def starlette(page):
    """A Starlette application with the page mounted, below another mount."""
    return Starlette(routes=[Mount("/telemetry", routes=[Mount("/", app=page)])])


def client(app, address="127.0.0.1"):
    """A client of an application on this machine."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 4_000)), base_url="http://localhost")


@pytest.mark.parametrize("framework", [fastapi, starlette])
async def test_mounted_page(recorded, framework):
    """Its shell, claim and data are below the mount; access is by the same file as a node's."""
    async with client(framework(page_app(recorded.data_dir))) as asking:
        shell = await asking.get("/telemetry/")
        refused = await asking.get("/telemetry/page/v1/now")
        token = Grants(recorded.data_dir).offer()
        origin = {"Origin": "http://localhost"}
        claimed = await asking.post("/telemetry/page/v1/claim", json={"token": token}, headers=origin)
        headers = {HEADER: claimed.json()["secret"]}
        traces = await asking.get("/telemetry/page/v1/traces", headers=headers)
        checks = await asking.get("/telemetry/page/v1/doctor", headers=headers)

    assert (shell.status_code, refused.status_code) == (200, 401)
    assert [row["capability"] for row in traces.json()["traces"]] == ["job.run"]
    assert (checks.json()["results"], bool(checks.json()["message"])) == (None, True)


async def test_mounted_page_refuses_the_same(recorded):
    """Foreign hosts and origins, other machines, forwarded requests, a POST that is no JSON."""
    app = fastapi(page_app(recorded.data_dir, hosts=["jobs.example"]))
    async with client(app) as asking:
        assert (await asking.get("/telemetry/", headers={"Host": "evil.example"})).status_code == 421
        assert (await asking.get("/telemetry/", headers={"Host": "jobs.example"})).status_code == 200
        assert (await asking.get("/telemetry/", headers={"Origin": "http://evil.example"})).status_code == 403
        assert (await asking.get("/telemetry/", headers={"Via": "x"})).status_code == 403
        text = {"Origin": "http://localhost", "Content-Type": "text/plain"}
        assert (await asking.post("/telemetry/page/v1/claim", content=b"{}", headers=text)).status_code == 415
    async with client(app, "192.168.1.9") as asking:
        assert (await asking.get("/telemetry/")).status_code == 403
        Grants(recorded.data_dir).share(60)
        assert (await asking.get("/telemetry/")).status_code == 200


async def test_open_telemetry_is_the_default(observability):
    """Without a folder, the page is that of the program's own store."""
    with telemetry.open(observability) as recording:
        with trace.new_trace("job.own"):
            pass
        recording.flush()
        app = page_app()
        secret = Grants(observability.data_dir).claim(Grants(observability.data_dir).offer()).secret
        async with client(app) as asking:
            found = (await asking.get("/page/v1/capabilities", headers={HEADER: secret})).json()

    assert [item["capability"] for item in found["capabilities"]] == ["job.own"]


@pytest.mark.parametrize("version", OLDER)
async def test_store_of_an_older_version(tmp_path, version):
    """Each route says so and names the command, after which the same page shows it; to strangers it says nothing."""
    path = tmp_path / DATABASE
    old_store(path, version)
    grants = Grants(tmp_path)
    headers = {HEADER: grants.claim(grants.offer()).secret, "Origin": "http://localhost"}
    async with client(page_app(tmp_path)) as asking:
        assert (await asking.get("/")).status_code == 200
        assert (await asking.get("/page/v1/now")).status_code == 401
        said = [await asking.get(f"/page/v1/{name}", headers=headers) for name in VIEWS]
        said.append(await asking.post("/page/v1/sql", json={"sql": "SELECT 1"}, headers=headers))
        assert {(one.status_code, one.json()["hint"]) for one in said} == {
            (501, f"hearthnet telemetry migrate {tmp_path}")
        }
        assert f"its schema is {version}" in said[0].json()["message"]
        migrate_store(path)
        for name in VIEWS[1:]:  # the first one is a stream
            assert (await asking.get(f"/page/v1/{name}", headers=headers)).status_code == 200, name


@contextmanager
def asking(directory):
    """Yields a page, a client of it, and the headers of a browser with access."""
    grants = Grants(directory)
    with closing(page_of(directory, None, grants)) as page:
        headers = {HEADER: grants.claim(grants.offer()).secret, "Origin": "http://localhost"}
        yield page, client(build_page_app(page)), headers


async def test_older_version_copied_over_the_store(tmp_path):
    """`cp` keeps the inode: what the page knew of the file is true no more, and of the old one as little."""
    path = tmp_path / DATABASE
    put(path, [a_trace(1)])
    old_store(tmp_path / "old" / DATABASE, OLDER[-1])
    put(tmp_path / "new" / DATABASE, [a_trace(1)])
    with asking(tmp_path) as (page, http, headers):
        found = [(await http.get("/page/v1/now", headers=headers)).status_code]
        for other in ("old", "new"):
            page.disconnect()  # as after the last viewer
            subprocess.run(["cp", tmp_path / other / DATABASE, path], check=True)
            found.append((await http.get("/page/v1/now", headers=headers)).status_code)

    assert found == [200, 501, 200]


async def test_empty_file_becomes_an_older_store(tmp_path):
    """What was no store yet is not remembered as one that fits."""
    path = tmp_path / DATABASE
    path.touch(0o600)
    with asking(tmp_path) as (page, http, headers):
        empty = await http.get("/page/v1/traces", headers=headers)
        page.disconnect()
        old_store(path, OLDER[-1])
        old = await http.get("/page/v1/traces", headers=headers)

    assert (empty.status_code, old.status_code) == (503, 501)


async def test_store_is_opened_in_a_thread(tmp_path, monkeypatch):
    """To connect may wait for a second; and once the store is known to fit, no request connects for that."""
    by, real = [], source.schema_of
    monkeypatch.setattr(source, "schema_of", lambda path: by.append(threading.get_ident()) or real(path))
    path = tmp_path / DATABASE
    old_store(path, OLDER[-1])
    with asking(tmp_path) as (_, http, headers):
        for _ in range(2):
            assert (await http.get("/page/v1/traces", headers=headers)).status_code == 501
        assert len(by) == 2
        migrate_store(path)
        for _ in range(2):
            assert (await http.get("/page/v1/traces", headers=headers)).status_code == 200

    assert len(by) == 3
    assert threading.get_ident() not in by


def test_folder_of_an_older_version_is_not_served(tmp_path, capsys):
    """The command says at once what a browser would say of each view."""
    old_store(tmp_path / DATABASE, OLDER[-1])

    assert _run(["page", "--data", str(tmp_path)]) == 1
    assert f"hearthnet telemetry migrate {tmp_path}" in capsys.readouterr().err
    assert _run(["telemetry", "migrate", str(tmp_path)]) == 0
    assert f"schema {OLDER[-1]} to " in capsys.readouterr().out


async def test_stop_ends_an_autopsy(recorded, monkeypatch):
    """The server stops at once, though the process that a page has begun would go on."""
    monkeypatch.setattr(autopsies, "_PROGRAM", "import signal; signal.pause()")
    grants = Grants(recorded.data_dir)
    load, page = Load(), page_of(recorded.data_dir, None, grants)
    headers = {HEADER: grants.claim(grants.offer()).secret}
    async with client(build_page_app(page, load)) as asking:
        (run,) = (await asking.get("/page/v1/runs", headers=headers)).json()["runs"]
        asked = asyncio.create_task(asking.get(f"/page/v1/runs/{run['run_id']}", headers=headers))
        await until(lambda: page.children._running)
        await load.stop()
        failed = await asyncio.wait_for(asked, 60)
    page.close()

    assert (failed.status_code, failed.json()["message"]) == (503, "the autopsy of this run failed")


def test_folder_is_served_until_it_is_interrupted(recorded):
    """`hearthnet page --data`: its link works, nothing is written into the folder, and Ctrl-C ends it."""
    before = {path.name for path in recorded.data_dir.iterdir()}
    command = [sys.executable, "-m", "hearthnet", "page", "--data", str(recorded.data_dir), "--json"]
    with forkserver.spawn(command, stdout=subprocess.PIPE, text=True) as serving, killing(serving):
        base, _, token = json.loads(serving.stdout.readline())["url"].partition("/#token=")
        with httpx.Client(verify=False, timeout=60) as asking:
            claimed = asking.post(f"{base}/page/v1/claim", json={"token": token}, headers={"Origin": base})
            found = asking.get(f"{base}/page/v1/now", headers={HEADER: claimed.json()["secret"]}).json()
        serving.send_signal(signal.SIGINT)
        code = serving.wait(60)

    assert (found["node"]["is_alive"], found["totals"]["count"]) == (False, 1)
    assert found["verdict"]["sentence"].endswith("is not running: it stopped cleanly")
    assert code in (0, 130)
    # SQLite's own, which every reader makes where there are none.
    made = {path.name for path in recorded.data_dir.iterdir()} - {"telemetry.db-shm", "telemetry.db-wal"}
    assert made == before

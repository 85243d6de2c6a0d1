"""The page's routes on a real node: who may use them, what they return, and that the node does not notice."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import threading
from contextlib import closing

import httpx
import pytest
from support.stores import put
from support.waiting import wait_until

from hearthnet.constants import DATABASE
from hearthnet.transport.app import build_page_app
from hearthnet.transport.page import models, routes
from hearthnet.transport.page.access import HEADER
from hearthnet.transport.page.grants import Grants
from hearthnet.transport.page.source import Page, PageSettings

ROUTES = {
    "/now": models.NowOut,
    "/series": models.SeriesOut,
    "/series?minutes=1440&capability=experimental.echo": models.SeriesOut,
    "/capabilities": models.CapabilitiesOut,
    "/capabilities?minutes=5": models.CapabilitiesOut,
    "/traces": models.TracesOut,
    "/traces?q=cap:experimental.echo+-result:ok&order=slowest": models.TracesOut,
    "/traces?q=result:": models.TracesOut,
    "/logs?q=started&n=1": models.LogsOut,
    "/runs": models.RunsOut,
    "/doctor": models.DoctorOut,
    "/questions": models.CatalogueOut,
}


def granted(node) -> dict[str, str]:
    """Returns the headers of a browser with access."""
    token = Grants(node.data_dir).offer()
    claimed = node.post("/page/v1/claim", json={"token": token}, headers={"Origin": node.url})
    assert claimed.status_code == 200, claimed.text
    return {HEADER: claimed.json()["secret"], "Origin": node.url}


@pytest.fixture(scope="module")
def used(shared_node):
    """A node with some calls, one of them failed, all committed."""
    for number in range(25):
        shared_node.echo(f"call {number}")
    shared_node.echo("late", fail="timeout")
    shared_node.wait_for_sql([(26,)], "SELECT count(*) FROM traces")
    return shared_node


@pytest.fixture(scope="module")
def headers(used):
    """The headers of a browser with access to it."""
    return granted(used)


@pytest.mark.parametrize("path", ROUTES)
def test_response_is_as_documented(used, headers, path):
    """Every route's JSON has exactly the fields and types of its model."""
    response = used.get(f"/page/v1{path}", headers=headers)

    assert response.status_code == 200, response.text
    ROUTES[path].model_validate_json(response.content)


def test_one_trace_run_and_export(used, headers):
    """A trace with its spans as SQL has them, its run, and the same as OTLP."""
    (seq, spans) = used.sql("SELECT seq, spans FROM traces WHERE result = 'timeout'")[0]
    found = used.get(f"/page/v1/traces/{seq}", headers=headers)
    models.OneTraceOut.model_validate_json(found.content)
    exported = used.get(f"/page/v1/traces/{seq}/otlp", headers=headers)
    run_id = found.json()["run"]["run_id"]
    run = used.get(f"/page/v1/runs/{run_id}", headers=headers)
    models.OneRunOut.model_validate_json(run.content)

    assert found.json()["trace"]["spans"] == json.loads(spans)
    assert found.json()["usual"]["count"] == 25
    assert found.json()["usual"]["spans"]["handle"]["count"] == 25
    assert len(exported.json()["resourceSpans"][0]["scopeSpans"][0]["spans"]) == 1 + len(json.loads(spans))
    assert exported.headers["content-disposition"] == f'attachment; filename="trace-{seq}.json"'
    assert (run.json()["verdict"], run.json()["is_alive"]) == ("running", True)
    assert run.json()["vitals"]


@pytest.mark.parametrize("path", ["/traces/999999", "/traces/999999/otlp", f"/runs/{26 * '0'}"])
def test_what_is_gone_is_not_found(used, headers, path):
    """The ring may have evicted it since it was listed."""
    response = used.get(f"/page/v1{path}", headers=headers)

    assert (response.status_code, response.json()["error"]) == (404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/traces/x",
        "/traces/-1",
        f"/traces/{2**63}",
        "/runs/--json",
        "/traces?n=0",
        "/traces?before=x",
        "/series?minutes=0",
    ],
)
def test_wrong_parameters_are_refused(used, headers, path):
    """With a message that names them."""
    response = used.get(f"/page/v1{path}", headers=headers)

    assert (response.status_code, response.json()["error"]) == (400, "bad_request")


def test_terms_have_their_moments(used, headers):
    """So that the page can make a link of a relative time that shows the same tomorrow."""
    terms = used.get("/page/v1/logs?q=started+since:1970-01-01T00:00:01Z", headers=headers).json()["terms"]

    assert [(term["value"], term["us"]) for term in terms] == [("started", None), ("1970-01-01T00:00:01Z", 1_000_000)]


def test_figures_are_those_of_sql(used, headers):
    """What the page shows is what SQL says."""
    totals = used.get("/page/v1/now", headers=headers).json()["totals"]
    (capability,) = used.get("/page/v1/capabilities", headers=headers).json()["capabilities"]
    (stats,) = used.sql("SELECT count, errors, p50_ms, p99_ms, max_ms FROM capability_stats")

    assert (totals["count"], totals["failed"]) == (26, 1)
    assert tuple(capability[name] for name in ("count", "failed", "p50_ms", "p99_ms", "max_ms")) == stats


def test_sql_reads_alone(used, headers):
    """Rows, values of every type, SQLite's own words for an error, and nothing that writes."""
    ask = lambda sql: used.post("/page/v1/sql", json={"sql": sql}, headers=headers)  # noqa: E731
    found = ask("SELECT 1 AS a, x'0a' AS b, NULL AS a, 1e999, 'x'")

    models.SqlOut.model_validate_json(found.content)
    assert (found.json()["columns"][:3], found.json()["rows"]) == (["a", "b", "a"], [[1, "0a", None, None, "x"]])
    wrong = ask("SELEC 1")
    assert (wrong.status_code, wrong.json()["message"]) == (400, 'near "SELEC": syntax error')
    for sql in ("DELETE FROM traces", "PRAGMA journal_mode = DELETE", "ATTACH 'x' AS y", "VACUUM INTO '/tmp/x'", ""):
        assert ask(sql).status_code == 400
    many = ask("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 5000) SELECT x FROM c").json()
    assert (len(many["rows"]), many["has_more"]) == (1_000, True)
    assert used.sql("SELECT count(*) FROM traces") == [(26,)]


async def test_endless_sql_is_ended(tmp_path, monkeypatch):
    """A query without an end gets 408."""
    monkeypatch.setattr(routes, "READ_S", 0.1)  # of CPU time that is spent for nothing
    put(tmp_path / DATABASE)
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    with closing(Page(PageSettings(tmp_path, None, 256), Grants(None))) as page:
        headers = {HEADER: page.grants.claim(page.grants.offer()).secret, "Origin": "http://localhost"}
        through = httpx.ASGITransport(build_page_app(page))
        async with httpx.AsyncClient(transport=through, base_url="http://localhost") as client:
            response = await client.post("/page/v1/sql", json={"sql": endless}, headers=headers)

    assert (response.status_code, response.json()["error"]) == (408, "timeout")


def test_shell_has_no_data_and_a_strict_policy(used):
    """It is the same for everybody on this machine, and nothing on it comes from elsewhere."""
    response = used.get("/")
    policy = response.headers["content-security-policy"]

    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert used.keys.node_id not in response.text
    names = re.findall(r'(?:href|src)="(page/[^"]+)"', response.text)
    for name in names:
        file = used.get(f"/{name}")
        assert (file.status_code, file.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
    assert used.get("/page/0.0.0/app.js").status_code == 404


EVERY_ROUTE = ["/now", "/traces", "/logs", "/events", "/doctor", "/runs", "/questions", "/series", "/capabilities"]


@pytest.mark.parametrize("path", EVERY_ROUTE)
def test_without_a_secret(used, headers, path):
    """None, a wrong one, a cookie, one in the URL: all the same 401, which says what to type."""
    secret = headers[HEADER]
    for sent in (
        {},
        {HEADER: "x"},
        {HEADER: secret[:-1]},
        {"Cookie": f"{HEADER}={secret}"},
        {"Authorization": f"Bearer {secret}"},
    ):
        response = used.get(f"/page/v1{path}?secret={secret}&token={secret}", headers=sent)
        assert response.status_code == 401
        assert response.json()["error"] == "unauthorized"
        assert response.json()["message"].endswith("type on its machine: hearthnet page")


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Proto"])
@pytest.mark.parametrize("path", ["/", "/page/v1/now", "/page/v1/events"])
def test_forwarded_request_is_not_from_this_machine(used, headers, path, name):
    """Even with the secret, and whatever address it claims."""
    response = used.get(path, headers={**headers, name: "127.0.0.1"})

    assert (response.status_code, response.json()["error"]) == (403, "unauthorized")
    assert "--share" in response.json()["hint"]


@pytest.mark.parametrize("path", ["/", "/page/v1/now", "/page/v1/events"])
def test_other_hosts_and_origins_are_refused(used, headers, path):
    """A page that rebinds its own name to this machine, and one of another origin."""
    foreign = f"evil.example:{used.port}"

    assert used.get(path, headers={**headers, "Host": foreign, "Origin": f"http://{foreign}"}).status_code == 421
    assert used.get(path, headers={**headers, "Origin": "http://evil.example"}).status_code == 403
    assert used.get(path, headers={**headers, "Origin": f"http://127.0.0.1:{used.port + 1}"}).status_code == 403


@pytest.mark.parametrize("path", ["/page/v1/claim", "/page/v1/sql"])
def test_writes_need_json_and_our_origin(used, headers, path):
    """A form or plain text that needs no preflight, and a request without an origin."""
    for kind, status in (("text/plain", 415), ("application/x-www-form-urlencoded", 415)):
        response = used.post(path, content=b"{}", headers={**headers, "Content-Type": kind})
        assert response.status_code == status
    without = {HEADER: headers[HEADER], "Content-Type": "application/json"}
    assert used.post(path, content=b"{}", headers=without).status_code == 403
    assert used.post(path, content=b'{"a": 1, "a": 2}', headers={**headers, **without}).status_code == 400


def test_token_works_once_and_no_secret_is_logged(used, headers):
    """Neither in the log nor in the store, though each was presented in every way."""
    token = Grants(used.data_dir).offer()
    origin = {"Origin": used.url}
    first = used.post("/page/v1/claim", json={"token": token}, headers=origin)
    again = used.post("/page/v1/claim", json={"token": token}, headers=origin)
    used.post("/page/v1/claim", json={"token": token, token: 1}, headers=origin)
    used.get(f"/page/v1/now?token={token}", headers={HEADER: token})
    used.get(f"/?token={token}")

    assert (first.status_code, again.status_code, again.json()["error"]) == (200, 401, "unauthorized")
    wait_until(lambda: used.sql("SELECT 1 FROM logs WHERE extras LIKE '%\"page\"%'"))
    recorded = "".join(path.read_text() for path in used.log_dir.iterdir())
    with closing(sqlite3.connect(used.data_dir / "telemetry.db")) as connection:
        recorded += "\n".join(connection.iterdump())
    assert not any(text in recorded for text in (token, first.json()["secret"], headers[HEADER]))
    assert 'hearthnet_refused_total{reason="page"}' in used.get("/metrics").text


def test_page_leaves_no_traces(used, headers):
    """Its requests are no calls: neither recorded nor counted."""
    before = (
        used.sql("SELECT count(*) FROM traces"),
        re.findall(r"^hearthnet_requests_total.*$", used.get("/metrics").text, re.MULTILINE),
    )
    for path in ("/now", "/traces", "/series"):
        used.get(f"/page/v1{path}", headers=headers)
    used.echo("one more")
    used.wait_for_sql([(before[0][0][0] + 1,)], "SELECT count(*) FROM traces")

    after = re.findall(r"^hearthnet_requests_total.*$", used.get("/metrics").text, re.MULTILINE)
    assert len(after) == len(before[1])


def test_openapi_describes_the_page(used):
    """With the header that each route needs, and models instead of anything."""
    document = used.get("/openapi.json").json()
    now = document["paths"]["/page/v1/now"]["get"]

    assert HEADER in [parameter["name"] for parameter in now["parameters"]]
    assert now["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/NowOut")
    assert "parameters" not in document["paths"]["/page/v1/claim"]["post"]


class Stream:
    """An open stream of events, read by a thread."""

    def __init__(self, node, headers) -> None:
        self.events: list[tuple[str, str | None, object]] = []
        self._address, self._headers = f"{node.url}/page/v1/events", headers
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            with httpx.stream("GET", self._address, headers=self._headers, timeout=60, verify=False) as response:
                assert response.headers["x-accel-buffering"] == "no"
                for line in response.iter_lines():
                    if line.startswith(":"):
                        continue
                    if line:
                        name, _, value = line.partition(": ")
                        fields[name] = value
                    elif fields:
                        self.events.append((fields["event"], fields.get("id"), json.loads(fields["data"])))
                        fields = {}
        except httpx.TransportError:  # the node was killed
            return

    def wait(self, condition) -> None:
        """Waits until the events fulfil a condition."""
        wait_until(lambda: condition(self), lambda: self.events)

    def join(self) -> None:
        """Waits until the stream has ended."""
        self._thread.join(60)
        assert not self._thread.is_alive()

    def texts(self) -> list[int]:
        """The numbers of the traces that it has had."""
        return [row["seq"] for kind, _, rows in self.events if kind == "traces" for row in rows]

    def last_id(self) -> str:
        """The id to resume with."""
        return [event_id for _, event_id, _ in self.events if event_id][-1]


def test_stream_resumes_after_a_kill(node):
    """Killed in the middle, started again: every committed trace comes once, by the same secret."""
    headers = granted(node)
    one = Stream(node, headers)
    one.wait(lambda stream: stream.events)
    node.echo("before")
    one.wait(lambda stream: stream.texts())
    node.stop(signal.SIGKILL)
    one.join()
    node.start()
    node.echo("after")
    two = Stream(node, {**headers, "Last-Event-ID": one.last_id()})
    two.wait(lambda stream: stream.texts())
    node.wait_for_sql([(2,)], "SELECT count(*) FROM traces")

    assert one.texts() + two.texts() == [seq for (seq,) in node.sql("SELECT seq FROM traces ORDER BY seq")]
    assert "reset" not in [kind for kind, _, _ in two.events]
    (run_id,) = (
        row["run_id"] for row in node.get("/page/v1/runs", headers=headers).json()["runs"] if not row["is_alive"]
    )
    judged = node.get(f"/page/v1/runs/{run_id}", headers=headers).json()
    assert (judged["verdict"], bool(judged["evidence"])) == ("killed", True)
    assert node.stop() == 0  # with the stream still open
    two.join()


def test_revoking_ends_stream_and_access(node):
    """By the command's file, within seconds; a restart does not bring it back."""
    headers = granted(node)
    one = Stream(node, headers)
    one.wait(lambda stream: stream.events)
    Grants(node.data_dir).revoke()
    one.join()

    assert node.get("/page/v1/now", headers=headers).status_code == 401
    node.stop()
    node.start()
    assert node.get("/page/v1/now", headers=headers).status_code == 401


@pytest.mark.parametrize("query", [r'"\ud800"', r'"\udfff":x', r'cap:"\ud800"'])
def test_half_a_character_in_a_query_is_a_problem_of_the_query(used, headers, query):
    """It cannot be sent back as it is."""
    response = used.get("/page/v1/traces", params={"q": query}, headers=headers)

    assert response.status_code == 200
    assert response.json()["terms"] or response.json()["problems"]

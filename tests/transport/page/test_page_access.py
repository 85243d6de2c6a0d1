"""Who sees the page in a browser: a link works once, no cookie, nothing for other ports, an end that is seen.

Also where no node serves it: in another program's application, and to other machines over TLS.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from support.browser import NEEDS_CHROMIUM, link
from support.certificates import write_pair
from support.old_store import OLDER, old_store
from support.ports import reserve_port
from support.records import a_log, a_trace
from support.stores import put
from support.waiting import wait_until

from hearthnet.config import TransportConfig
from hearthnet.constants import DATABASE
from hearthnet.observability.store.migrate import migrate_store
from hearthnet.page import page_app, page_of
from hearthnet.transport.admission.gate import Load
from hearthnet.transport.app import build_page_app
from hearthnet.transport.page import access, routes, shell
from hearthnet.transport.page.grants import Grants
from hearthnet.transport.server import Server, bind

pytestmark = NEEDS_CHROMIUM
LOCKED = "hearthnet page"
REFUSED = "the server responded with a status of 401"


@pytest.fixture(autouse=True)
def running(page_node, monkeypatch):
    """The node runs."""
    monkeypatch.setenv("HOME", str(page_node.home))
    if page_node.process is None or page_node.process.poll() is not None:
        page_node.start()


@pytest.fixture(scope="module")
def one_browser(page_node, open_tab):
    """One browser for a module: to open another costs more than most tests."""
    return open_tab(page_node.url)


@pytest.fixture
def tab(one_browser):
    """A browser that has never been here; `shared_tab` is another one, which has access."""
    yield one_browser
    one_browser.forget()


def api(tab) -> list[str]:
    """What the tab asked the node for besides files."""
    return [url for url in tab.asked if "/page/v1/" in url]


def test_without_a_link_it_says_what_to_type(page_node, tab):
    """No data is asked for, and none is shown."""
    tab.page.goto(page_node.url)
    tab.page.wait_for_selector(".locked code")

    assert tab.text(".locked code") == LOCKED
    assert api(tab) == []
    tab.check()


def test_link_works_once_and_leaves_the_address(page_node, tab, shared_tab):
    """The token is gone from the address before the first request, and another browser cannot use it."""
    address = link(page_node)
    token = address.partition("#token=")[2]
    seen = []

    def note(request):
        seen.append((request.url, request.headers.get("referer"), tab.page.url))

    tab.page.on("request", note)
    tab.page.goto(address)
    tab.page.wait_for_selector(".tile")
    tab.page.remove_listener("request", note)

    assert token not in tab.page.url
    assert [one for one in seen if token in one[0] or one[1]] == []
    assert tab.page.context.cookies() == []
    tab.check()
    tab.forget()
    tab.expected.append(REFUSED)
    tab.page.goto(address)
    tab.page.wait_for_selector(".locked code")
    assert "used already" in tab.text(".locked")
    tab.check()
    shared_tab.expected.append(REFUSED)
    shared_tab.page.goto(address)
    shared_tab.page.wait_for_selector(".tile")  # a used link does not lock out who has access
    shared_tab.check()


def test_a_link_in_an_open_tab_is_taken(page_node, tab):
    """Pasted into the address of the locked page it unlocks, though the browser loads nothing anew."""
    tab.page.goto(page_node.url)
    tab.page.wait_for_selector(".locked code")
    tab.page.goto(link(page_node))
    tab.page.wait_for_selector(".tile")
    tab.check()


def test_a_stale_secret_is_forgotten(page_node, tab):
    """The line says so; the secret is not tried again."""
    tab.expected.append(REFUSED)
    tab.page.goto(page_node.url)
    tab.page.evaluate("localStorage.setItem('hearthnet.page.secret', 'stale')")
    tab.page.reload()
    tab.page.wait_for_selector(".locked code")

    assert "ended or was revoked" in tab.text(".locked")
    assert tab.page.evaluate("localStorage.getItem('hearthnet.page.secret')") is None
    tab.check()


def test_a_forwarded_request_is_not_from_here(page_node, shared_tab):
    """Not even the empty page is served."""
    shared_tab.page.set_extra_http_headers({"X-Forwarded-For": "127.0.0.1"})
    try:
        assert shared_tab.page.goto(page_node.url).status == 403
    finally:
        shared_tab.page.set_extra_http_headers({})


def test_another_host_name_is_refused(page_node):
    """Also with an origin that matches it."""
    headers = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert [page_node.get(path, headers=headers).status_code for path in ("/", "/page/v1/now")] == [421, 421]


def test_a_server_on_another_port_learns_nothing(page_node, shared_tab):
    """The same host, another port: no cookie, no secret, and its page cannot read ours."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>other</title>")

        def log_message(self, *args):
            """Stays quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    secret = shared_tab.page.context.storage_state()["origins"][0]["localStorage"][0]["value"]
    shared_tab.page.goto(f"http://127.0.0.1:{server.server_port}/")
    found = shared_tab.page.evaluate(
        """async url => {
            const asked = (path, options) => fetch(url + path, options).then((one) => one.status, () => "refused");
            const read = await asked("/page/v1/now", { credentials: "include" });
            const wrote = await asked("/page/v1/claim", { method: "POST", body: "{}" });
            return [read, wrote, document.cookie, localStorage.length];
        }""",
        page_node.url,
    )
    server.shutdown()
    server.server_close()

    assert found == ["refused", "refused", "", 0]
    assert [one for one in seen if "cookie" in map(str.lower, one) or secret in str(one)] == []


def test_two_tabs_of_one_browser_share_the_access(page_node, tab):
    """What one tab claims unlocks the other; where one forgets it, the other locks."""
    tab.page.goto(page_node.url)
    tab.page.wait_for_selector(".locked code")
    second = tab.page.context.new_page()
    second.goto(link(page_node))
    wait_until(lambda: tab.page.locator(".tile").count() > 0, "the first tab is locked still")
    second.locator(".settings summary").click()
    second.get_by_role("button", name="Lock this browser").click()
    tab.page.wait_for_selector(".locked code")
    assert tab.page.locator(".tile").count() == 0
    second.close()
    tab.check()


def test_revoked_access_ends_while_one_looks(page_node, tab):
    """The open page locks itself; neither token nor secret is in the log."""
    address = link(page_node)
    tab.expected.append(REFUSED)
    tab.page.goto(address)
    tab.page.wait_for_selector(".tile")
    secret = tab.page.evaluate("localStorage.getItem('hearthnet.page.secret')")
    assert page_node.cli("page", "--revoke").returncode == 0
    tab.page.wait_for_selector(".locked code")

    assert tab.page.locator(".tile").count() == 0
    tab.check()
    page_node.stop()
    written = (page_node.home / "run.out").read_text() + str(page_node.log_lines())
    assert secret not in written
    assert address.partition("#token=")[2] not in written


# --- without a node: served by this process


@contextmanager
def mounted(directory, port):
    """The page of a folder in another program's application; yields the paths that were asked for."""
    asked = []

    async def noting(scope, receive, send):
        asked.append(scope["path"])
        await page(scope, receive, send)

    page = page_app(directory)
    app = Starlette(routes=[Mount("/telemetry", app=noting)])
    options = {"lifespan": "off", "log_config": None, "access_log": False, "timeout_graceful_shutdown": 1}
    server = uvicorn.Server(uvicorn.Config(app, port=port, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield asked
    finally:
        server.should_exit = True
        thread.join(60)


def linked(directory, base):
    """A link as `hearthnet page --url` prints it."""
    return f"{base}/#token={Grants(directory).offer()}"


def test_mounted_in_another_application(open_tab, tmp_path, monkeypatch):
    """All is below its path, the stream as well; a second visit asks for no file. After an upgrade it says so."""
    put(tmp_path / DATABASE, [a_trace(number) for number in (1, 2, 3)], runs=[("run", None)])
    port = reserve_port()
    base = f"http://127.0.0.1:{port}/telemetry"
    tab = open_tab(base)
    tab.expected += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE"]
    with mounted(tmp_path, port) as asked:
        tab.page.goto(linked(tmp_path, base))
        tab.page.wait_for_selector(".tile")
        tab.go("#traces")
        put(tmp_path / DATABASE, [a_trace(4)])
        wait_until(lambda: tab.seqs() == [4, 3, 2, 1], tab.seqs)
        asked.clear()
        again = tab.page.context.new_page()
        again.goto(f"{base}/#logs")
        again.wait_for_selector(".message:visible")
        assert [path for path in asked if path.endswith((".js", ".css"))] == []
        again.close()
    with monkeypatch.context() as upgraded, mounted(tmp_path, port):
        upgraded.setattr(shell, "__version__", "99.0")
        shell._files.cache_clear()
        tab.page.wait_for_selector(".banner:has-text('another version')")
        tab.page.get_by_role("button", name="Reload").click()
        tab.page.wait_for_selector(".connection.live")
        assert tab.page.locator(".banner").is_hidden()
        assert "/page/99.0-" in tab.page.locator("script").first.evaluate("script => script.src")
        tab.page.goto("about:blank")
    shell._files.cache_clear()
    tab.check()


LARGE = 2**53 + 1


def test_integers_keep_their_digits(open_tab, tmp_path):
    """Those that a browser's number would round: in fields, within lists, of spans, and in the results of SQL."""
    extras = b'{"n": %d, "deep": [{"n": -%d}], "most": %d, "text": "%d", "real": 0.5}' % (
        LARGE, LARGE, 2**63 - 1, LARGE,
    )  # fmt: skip
    span = b'{"id": "s", "parent": null, "name": "one", "offset_ms": 0, "duration_ms": 1, "status": "ok", "extras": %b}'
    trace = a_trace(1, extras=extras, spans=b"[%b]" % (span % extras))
    put(tmp_path / DATABASE, [trace], [a_log(2, extras=extras)])
    port = reserve_port()
    base = f"http://127.0.0.1:{port}/telemetry"
    shown = [str(LARGE), f'[{{"n":-{LARGE}}}]', str(2**63 - 1), str(LARGE), "0.5"]
    tab = open_tab(base)
    with mounted(tmp_path, port):
        tab.page.goto(linked(tmp_path, base))
        tab.page.wait_for_selector(".tile")
        tab.go("#traces?open=1")
        tab.page.locator(".draw-row[data-span]").first.click()
        assert tab.page.locator(".span-detail dd").all_inner_texts() == shown
        assert tab.page.locator(".about dd").all_inner_texts()[-len(shown) :] == shown
        assert f'"deep":[{{"n":-{LARGE}}}]' in tab.page.locator(".draw-row[data-span]").first.get_attribute("title")
        tab.go("#logs?open=2")
        assert tab.page.locator(".pane dd").all_inner_texts()[: len(shown)] == shown
        tab.go("#sql")
        editor = tab.page.locator("textarea")
        editor.fill(f"SELECT {LARGE} AS n, '{LARGE}' AS text, 1 AS one")
        editor.press("Control+Enter")
        tab.page.wait_for_selector(".result td")
        assert tab.page.locator(".result td").all_inner_texts() == [str(LARGE), str(LARGE), "1"]
        assert tab.page.locator(".result td.num").count() == 2
        tab.check()
        tab.page.goto("about:blank")


def test_store_of_an_older_version(open_tab, tmp_path):
    """In the place of every view one sentence, and the command after which all is there."""
    old_store(tmp_path / DATABASE, OLDER[-1])
    port = reserve_port()
    base = f"http://127.0.0.1:{port}/telemetry"
    tab = open_tab(base)
    with mounted(tmp_path, port):
        tab.expected.append("the server responded with a status of 501")
        tab.page.goto(linked(tmp_path, base))
        for fragment in ("#now", "#traces", "#logs?open=7", "#doctor", "#runs?open=ended", "#sql"):
            tab.page.evaluate("hash => { location.hash = hash; }", fragment)
            tab.page.wait_for_selector(".view-old-store code")
            assert "written by an older hearthnet" in tab.text("main h1")
            assert tab.text("main code") == f"hearthnet telemetry migrate {tmp_path}"
        migrate_store(tmp_path / DATABASE)
        tab.page.get_by_role("button", name="Try again").click()
        tab.page.wait_for_selector("main textarea")
        tab.go("#traces")
        assert tab.seqs() == [12, 9, 6, 5]
        tab.check()
        tab.page.goto("about:blank")


def test_a_request_given_up_has_no_answer(page_node, tab):
    """A view that goes away while a refusal is on its way: what it said is not known, and nothing is claimed of it."""
    script = """async () => {
        const version = document.querySelector("script").getAttribute("src").split("/")[1];
        const api = await import(`/page/${version}/api.js`);
        const told = [];
        api.whenOldStore(error => told.push(error.message));
        const fetched = window.fetch;
        const body = () => Promise.reject(new DOMException("", "AbortError"));
        window.fetch = async () => ({ ok: false, status: 501, json: body });
        const error = await api.get("now").catch(error => error);
        window.fetch = fetched;
        return [error.name, told];
    }"""
    tab.page.goto(page_node.url)
    tab.page.wait_for_selector(".locked")
    assert tab.page.evaluate(script) == ["AbortError", []]


@contextmanager
def serving(page, transport):
    """A server of our own that runs in a thread."""
    load, listening = Load(), bind(transport)
    server = Server(build_page_app(page, load, transport), transport, load)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve([listening]),))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield listening.getsockname()[1]
    finally:
        loop.call_soon_threadsafe(server.stop)
        thread.join(60)
        page.close()
        loop.close()


def test_shared_over_tls(open_tab, tmp_path, monkeypatch):
    """Another machine is admitted while it lasts, with a link of its own; its secret is of no use at another origin."""
    here = lambda request: request.scope["server"][0] == "127.0.0.1"  # noqa: E731  # 127.0.0.2 is another machine
    for module in (access, routes):
        monkeypatch.setattr(module, "is_loopback", here)
    put(tmp_path / DATABASE, [a_trace(1)], runs=[("run", None)])
    hosts = ("127.0.0.1", "127.0.0.2")
    transport = TransportConfig(host="0.0.0.0", port=reserve_port(), **write_pair(tmp_path, hosts=hosts))
    grants = Grants(tmp_path)
    with serving(page_of(tmp_path, None, grants), transport) as port:
        there, local = (f"https://{host}:{port}" for host in reversed(hosts))
        tab = open_tab(there, ignore_https_errors=True)
        tab.expected.append("the server responded with a status of 403")
        assert tab.page.goto(there).status == 403
        tab.page.goto("about:blank")  # or the link would only change the fragment
        grants.share(600)
        tab.page.goto(linked(tmp_path, there))
        tab.page.wait_for_selector(".tile")
        tab.page.wait_for_selector(".connection.live")
        other = tab.page.context.new_page()
        other.goto(local)
        other.wait_for_selector(".locked code")
        assert other.evaluate("localStorage.length") == 0
        other.close()
        with grants._changing() as state:
            state.shared_until_us = 0
        tab.page.wait_for_selector(".connection.lost")
        assert tab.page.goto(there).status == 403
        tab.page.goto("about:blank")
    tab.check()

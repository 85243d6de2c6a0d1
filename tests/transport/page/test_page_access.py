"""Who sees the page in a browser: a link works once, no cookie, nothing for other ports, an end that is seen."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.browser import NEEDS_CHROMIUM
from support.page_browser import link
from support.waiting import wait_until

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
    """What one tab claims unlocks the other."""
    tab.page.goto(page_node.url)
    tab.page.wait_for_selector(".locked code")
    second = tab.page.context.new_page()
    second.goto(link(page_node))
    wait_until(lambda: tab.page.locator(".tile").count() > 0, "the first tab is locked still")
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

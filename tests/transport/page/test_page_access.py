"""Who sees the page in a browser: a link works once, no cookie, nothing for other ports, an end that is seen."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.browser import NEEDS_CHROMIUM, link
from support.waiting import wait_until

pytestmark = NEEDS_CHROMIUM
LOCKED = "hearthnet page"
REFUSED = "the server responded with a status of 401"


@pytest.fixture(scope="module", autouse=True)
def running(page_node):
    """The node runs."""
    page_node.start()


def api(tab) -> list[str]:
    """What the tab asked the node for besides files."""
    return [url for url in tab.asked if "/page/v1/" in url]


def test_without_a_link_it_says_what_to_type(page_node, open_tab):
    """No data is asked for, and none is shown."""
    tab = open_tab(page_node.url)
    tab.page.goto(page_node.url)
    tab.page.wait_for_selector(".locked code")

    assert tab.text(".locked code") == LOCKED
    assert api(tab) == []
    tab.check()


def test_link_works_once_and_leaves_the_address(page_node, open_tab, signed_in):
    """The token is gone from the address before the first request, and another browser cannot use it."""
    address = link(page_node)
    token = address.partition("#token=")[2]
    tab = open_tab(page_node.url)
    seen = []
    tab.page.on("request", lambda request: seen.append((request.url, request.headers.get("referer"), tab.page.url)))
    tab.page.goto(address)
    tab.page.wait_for_selector(".tile")

    assert token not in tab.page.url
    assert [one for one in seen if token in one[0] or one[1]] == []
    assert tab.page.context.cookies() == []
    tab.check()
    other = open_tab(page_node.url)
    other.expected.append(REFUSED)
    other.page.goto(address)
    other.page.wait_for_selector(".locked code")
    assert "used already" in other.text(".locked")
    other.check()
    ours = open_tab(page_node.url, storage_state=signed_in)
    ours.expected.append(REFUSED)
    ours.page.goto(address)
    ours.page.wait_for_selector(".tile")  # a used link does not lock out who has access
    ours.check()


def test_a_link_in_an_open_tab_is_taken(page_node, open_tab):
    """Pasted into the address of the locked page it unlocks, though the browser loads nothing anew."""
    tab = open_tab(page_node.url)
    tab.page.goto(page_node.url)
    tab.page.wait_for_selector(".locked code")
    tab.page.goto(link(page_node))
    tab.page.wait_for_selector(".tile")
    tab.check()


def test_a_stale_secret_is_forgotten(page_node, open_tab):
    """The line says so; the secret is not tried again."""
    tab = open_tab(page_node.url)
    tab.expected.append(REFUSED)
    tab.page.goto(page_node.url)
    tab.page.evaluate("localStorage.setItem('hearthnet.page.secret', 'stale')")
    tab.page.reload()
    tab.page.wait_for_selector(".locked code")

    assert "ended or was revoked" in tab.text(".locked")
    assert tab.page.evaluate("localStorage.getItem('hearthnet.page.secret')") is None
    tab.check()


def test_a_forwarded_request_is_not_from_here(page_node, open_tab, signed_in):
    """Not even the empty page is served."""
    tab = open_tab(page_node.url, storage_state=signed_in, extra_http_headers={"X-Forwarded-For": "127.0.0.1"})
    assert tab.page.goto(page_node.url).status == 403


def test_another_host_name_is_refused(page_node):
    """Also with an origin that matches it."""
    headers = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert [page_node.get(path, headers=headers).status_code for path in ("/", "/page/v1/now")] == [421, 421]


def test_a_server_on_another_port_learns_nothing(page_node, open_tab, signed_in):
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
    secret = signed_in["origins"][0]["localStorage"][0]["value"]
    tab = open_tab(page_node.url, storage_state=signed_in)
    tab.page.goto(f"http://127.0.0.1:{server.server_port}/")
    found = tab.page.evaluate(
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


def test_revoked_access_ends_while_one_looks(page_node, open_tab):
    """The open page locks itself; neither token nor secret is in the log."""
    address = link(page_node)
    tab = open_tab(page_node.url)
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


def test_two_tabs_of_one_browser_share_the_access(page_node, open_tab, monkeypatch):
    """What one tab claims unlocks the other."""
    monkeypatch.setenv("HOME", str(page_node.home))
    page_node.start()
    first = open_tab(page_node.url)
    first.page.goto(page_node.url)
    first.page.wait_for_selector(".locked code")
    second = first.page.context.new_page()
    second.goto(link(page_node))
    wait_until(lambda: first.page.locator(".tile").count() > 0, "the first tab is locked still")
    first.check()

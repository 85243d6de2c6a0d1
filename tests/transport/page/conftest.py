"""A node, a browser and a tab for the tests of the page."""

from __future__ import annotations

import pytest
from support.nodes import end, make_node
from support.page_browser import WIDE, Tab, browser_in
from support.ports import reserve_port


@pytest.fixture(scope="module")
def page_node(tmp_path_factory):
    """A node that is configured, not started, for the tests of a module."""
    home = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(home))
        node = make_node(home, reserve_port())
        yield node
        end(node)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser for the tests of a module."""
    with browser_in(str(tmp_path_factory.mktemp("browser"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def open_tab(browser):
    """Opens tabs, each in a context of its own, and checks all of them at the end of each test."""
    contexts = []

    def opened(url: str, **options) -> Tab:
        context = browser.new_context(**{"viewport": WIDE, "timezone_id": "Europe/Berlin", **options})
        contexts.append(context)
        return Tab(context.new_page(), url)

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def signed_in(page_node, open_tab):
    """What the browser keeps once it has claimed a token."""
    printed = page_node.cli("page")
    assert printed.returncode == 0, printed.stderr
    tab = open_tab(page_node.url)
    tab.page.goto(printed.stdout.split()[0])
    tab.page.wait_for_selector(".tile")
    state = tab.page.context.storage_state()
    tab.check()
    tab.page.context.close()
    return state


@pytest.fixture(scope="module")
def shared_tab(page_node, open_tab, signed_in):
    """One tab for a module: to load the page costs more than most tests."""
    tab = open_tab(page_node.url, storage_state=signed_in)
    tab.page.goto(page_node.url)
    tab.page.wait_for_selector(".tile")
    return tab


@pytest.fixture
def tab(shared_tab):
    """The tab, signed in, on Now; whatever it did wrong fails the test at its end."""
    shared_tab.page.set_viewport_size(WIDE)
    shared_tab.page.emulate_media(color_scheme="light")
    shared_tab.go("#now")
    yield shared_tab
    shared_tab.check()

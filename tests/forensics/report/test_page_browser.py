"""The page in a real browser without network: no requests, no console errors, and the filter works."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from test_report import hostile

from hearthnet.forensics.gather import gather
from hearthnet.forensics.report.document import document
from hearthnet.forensics.report.page import page
from hearthnet.forensics.verdict import judge

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium here; on Debian: apt-get install chromium")
# Requests that the browser itself makes at its start; they fail at a proxy that does not exist.
OWN_HOSTS = re.compile(r"https?://(?:[\w-]+\.)*(?:google\.com|googleapis\.com|gstatic\.com)(?:[/:?;]|$)")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-domain-reliability", "--disable-default-apps",
    "--proxy-server=127.0.0.1:9", "--enable-logging=stderr", "--v=0", "--dump-dom",
)  # fmt: skip


def opened(path, tmp_path) -> tuple[str, list[str], list[str]]:
    """Opens a page; returns its final DOM, its requests and its console output."""
    netlog = tmp_path / "net.json"
    command = [BROWSER, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={netlog}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    asked = {url for url in re.findall(r'https?://[^"\s\\]+', netlog.read_text()) if not OWN_HOSTS.match(url)}
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, sorted(asked), said


def test_browser_tells_of_a_page_that_asks_and_complains(tmp_path):
    """Counterpart that proves the checks: a page with a remote image and a failing script."""
    path = tmp_path / "bad.html"
    path.write_text('<img src="http://evil.example/x.png"><script>throw new Error("boo")</script>')
    _, asked, said = opened(path, tmp_path)

    assert "http://evil.example/x.png" in asked
    assert any("boo" in line for line in said)


@pytest.mark.parametrize("kind", ["real", "hostile"])
def test_page_asks_for_nothing(program, tmp_path, kind):
    """No request and no error; our script ran, and no other."""
    case = gather(program(30) / "data") if kind == "real" else hostile()
    path = tmp_path / "page.html"
    path.write_text(page(document(case, judge(case))), "utf-8")
    became, asked, said = opened(path, tmp_path)

    assert (asked, said) == ([], [])
    assert re.search(r'<input id="filter"(?![^>]*hidden)', became)
    assert "<svg" in became
    assert became.count("<script") == 2
    assert "<img" not in became

"""The page's files: the shell without data, and modules by their version."""

from __future__ import annotations

import os

import httpx
import pytest

from hearthnet.transport.app import build_page_app
from hearthnet.transport.page import shell
from hearthnet.transport.page.grants import Grants
from hearthnet.transport.page.source import Page, PageSettings


@pytest.fixture
def static(tmp_path, monkeypatch):
    """A folder of files in place of the page's own."""
    (tmp_path / "index.html").write_text('<script src="page/PAGE_VERSION/app.js"></script>')
    (tmp_path / "app.js").write_text("export const one = 1")
    (tmp_path / "notes.txt").write_text("not served")
    monkeypatch.setattr(shell, "_STATIC", tmp_path)
    monkeypatch.setattr(shell, "_SHELL", tmp_path / "index.html")
    monkeypatch.setattr(shell, "_FOLDERS", {"": tmp_path, "draw": tmp_path / "missing"})
    shell._files.cache_clear()
    yield tmp_path
    shell._files.cache_clear()


def test_shell_names_the_version(static):
    """The modules that it loads are those of the present version."""
    assert shell.shell() == f'<script src="page/{shell.page_version()}/app.js"></script>'


def test_files_are_served_in_their_version_only(static):
    """Another version is none: a browser never mixes two."""
    version = shell.page_version()

    assert shell.file_of(version, "app.js") == (b"export const one = 1", "text/javascript")
    assert shell.file_of("0.0.0-00000000", "app.js") is None


def started_anew() -> str:
    """The version of a process that begins now."""
    shell._files.cache_clear()
    return shell.page_version()


def test_version_is_of_the_content(static):
    """A file that is changed, added or renamed makes another version; the same files, written again, do not."""
    versions = [shell.page_version()]
    (static / "app.js").write_text("export const one = 2")
    versions.append(started_anew())
    (static / "style.css").write_text("")
    versions.append(started_anew())
    (static / "style.css").rename(static / "other.css")
    versions.append(started_anew())
    (static / "index.html").write_text("<p>")
    versions.append(started_anew())

    assert len(set(versions)) == 5
    os.utime(static / "app.js", (1, 1))
    assert started_anew() == versions[-1]


def test_upgrade_beneath_a_running_process(static):
    """It serves the files that it began with: a page never gets some of either version."""
    version = shell.page_version()
    (static / "app.js").write_text("export const two = 2")

    assert shell.page_version() == version
    assert shell.file_of(version, "app.js") == (b"export const one = 1", "text/javascript")


def an_app(directory):
    """An application that serves a page."""
    return build_page_app(Page(PageSettings(directory, None, 256), Grants(None)))


def test_upgrade_before_the_first_request(static, tmp_path):
    """The files are those that were there when the application was made: newer ones need newer routes."""
    an_app(tmp_path)
    (static / "app.js").write_text("export const two = 2")

    assert shell.file_of(shell.page_version(), "app.js") == (b"export const one = 1", "text/javascript")


async def test_page_without_its_files(static, tmp_path):
    """A damaged installation costs the page, not the application."""
    (static / "index.html").unlink()
    through = httpx.ASGITransport(an_app(tmp_path), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=through, base_url="http://localhost") as client:
        found = [(await client.get(path)).status_code for path in ("/", "/page/v1/now")]

    assert found == [500, 401]


@pytest.mark.parametrize(
    "name", ["index.html", "notes.txt", "../grants.py", "..", "", "/etc/passwd", "draw/x.js", "app.js/"]
)
def test_nothing_else_is_served(static, name):
    """No other type, and nothing outside of the folders."""
    assert shell.file_of(shell.page_version(), name) is None


def test_own_files_are_there():
    """The installed page has a shell."""
    assert "<html" in shell.shell()

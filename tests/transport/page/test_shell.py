"""The page's files: the shell without data, and modules by their version."""

from __future__ import annotations

import os

import pytest

from hearthnet.transport.page import shell


@pytest.fixture
def static(tmp_path, monkeypatch):
    """A folder of files in place of the page's own."""
    (tmp_path / "index.html").write_text('<script src="page/PAGE_VERSION/app.js"></script>')
    (tmp_path / "app.js").write_text("export const one = 1")
    (tmp_path / "notes.txt").write_text("not served")
    monkeypatch.setattr(shell, "_STATIC", tmp_path)
    monkeypatch.setattr(shell, "_SHELL", tmp_path / "index.html")
    monkeypatch.setattr(shell, "_FOLDERS", {"": tmp_path, "draw": tmp_path / "missing"})
    return tmp_path


def test_shell_names_the_version(static):
    """The modules that it loads are those of the present version."""
    assert shell.shell() == f'<script src="page/{shell.page_version()}/app.js"></script>'


def test_files_are_served_in_their_version_only(static):
    """Another version is none: a browser never mixes two."""
    version = shell.page_version()

    assert shell.file_of(version, "app.js") == (b"export const one = 1", "text/javascript")
    assert shell.file_of("0.0.0-00000000", "app.js") is None


def test_version_follows_the_files(static):
    """A file that is changed, added or removed makes another version."""
    versions = {shell.page_version()}
    (static / "app.js").write_text("export const one = 2;")
    versions.add(shell.page_version())
    (static / "style.css").write_text("")
    versions.add(shell.page_version())
    os.utime(static / "style.css", (1, 1))
    versions.add(shell.page_version())
    (static / "app.js").unlink()
    versions.add(shell.page_version())

    assert len(versions) == 5


@pytest.mark.parametrize(
    "name", ["index.html", "notes.txt", "../grants.py", "..", "", "/etc/passwd", "draw/x.js", "app.js/"]
)
def test_nothing_else_is_served(static, name):
    """No other type, and nothing outside of the folders."""
    assert shell.file_of(shell.page_version(), name) is None


def test_own_files_are_there():
    """The installed page has a shell."""
    assert "<html" in shell.shell()

"""The files of the page: nothing from elsewhere, nothing that would parse a value as markup, nothing inline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hearthnet.transport import page

STATIC = Path(page.__file__).parent / "static"
MODULES = sorted(STATIC.glob("*.js"))
SHELL = (STATIC / "index.html").read_text("utf-8")
STYLE = (STATIC / "style.css").read_text("utf-8")
# What turns text into markup or code.
SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|setHTML|createContextualFragment|DOMParser|srcdoc"
    r"|\beval\b|new Function|javascript:|setAttribute\(\"(?:style|on)|\bcssText\b|setTimeout\(\s*[\"'`]"
)
ELSEWHERE = re.compile(r"(?:https?:)?//[\w-]+\.[\w-]+")
MAX_LINES = 400


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_module_makes_text_alone(path):
    """No value can become markup, and nothing is asked of another host."""
    text = path.read_text("utf-8")
    assert SINKS.findall(text) == []
    assert ELSEWHERE.findall(text) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_module_is_small_and_says_what_it_does(path):
    """A comment first; imports are of files beside it that exist."""
    lines = path.read_text("utf-8").splitlines()
    assert lines[0].startswith("// ")
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= 130
    draw = STATIC.parents[2] / "forensics" / "report"
    for name in re.findall(r'from "(.+)"', "\n".join(lines)):
        assert name.startswith("./")
        assert (STATIC / name).is_file() or (draw / name).is_file(), name


def test_sinks_are_found():
    """Counterpart that proves the pattern."""
    for text in ("a.innerHTML = b", 'node.setAttribute("onclick", x)', "eval(x)", 'setTimeout("x()", 1)'):
        assert SINKS.search(text), text


def test_shell_has_nothing_inline():
    """No script or style within it, and it asks for every module at once, instead of one after the other."""
    assert re.findall(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", SHELL) == []
    named = set(re.findall(r'(?:href|src)="page/PAGE_VERSION/([\w.-]+\.js)"', SHELL))
    assert named == {path.name for path in MODULES}
    assert ELSEWHERE.findall(SHELL) == []


def test_style_asks_for_nothing():
    """No font, picture or sheet of others."""
    assert re.findall(r"url\(|@import", STYLE) == []

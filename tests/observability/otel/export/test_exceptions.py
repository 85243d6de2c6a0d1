"""The type of an exception, from a traceback as the interpreter and libraries write it."""

from __future__ import annotations

import sqlite3
import traceback
import zlib

import pytest

from hearthnet.observability.otel.export.exceptions import type_in, type_of


class RefusedError(Exception):
    """Of this module, with a message of several lines, as drivers of databases have."""

    def __str__(self):
        return "duplicate key\nDETAIL:  Key (id)=(1) already exists.\n    LINE 1: INSERT"


def test_traceback_of_the_interpreter():
    """Builtin types, those of modules, in lower case too; a chain has the last one's, a group its own."""
    raised = [
        (ValueError("no"), "ValueError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (sqlite3.OperationalError("locked: x"), "sqlite3.OperationalError"),
        (zlib.error("bad"), "zlib.error"),
        (RefusedError(), f"{__name__}.RefusedError"),
        (ExceptionGroup("both", [ValueError("a"), TypeError("b")]), "ExceptionGroup"),
    ]
    for error, name in raised:
        try:
            raise error from KeyError("cause")
        except BaseException as caught:  # noqa: BLE001
            shown = "".join(traceback.format_exception(caught))
        assert type_in(shown) == name
        assert type_in(shown.partition("\n")[2]) is not None  # its beginning was cut


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", None),
        ("\n\n", None),
        ("…[cut]…\n    raise x\nhttpx.ConnectError: refused\n", "httpx.ConnectError"),
        (
            "Traceback (most recent call last):\n  [frames cut]\nOSError\n\nStack (most recent call last):\n  x\n",
            "OSError",
        ),
        ("nothing of the kind", None),
    ],
)
def test_other_texts(text, name):
    """What was cut, what has a stack behind it, and what is none."""
    assert type_in(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("asyncio.exceptions.TimeoutError", "asyncio.exceptions.TimeoutError"),
        ("app.<locals>.Late: x", "app.<locals>.Late"),
        ("config.toml: not found", None),
        ("Not found: x", None),
        (5, None),
    ],
)
def test_type_of_an_errors_text(text, name):
    """A program's own text has none."""
    assert type_of(text) == name

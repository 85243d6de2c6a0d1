"""Secrets in places where careless programs leave them: header lists, bytes, lines of a key, what is printed."""

from __future__ import annotations

import sys
import threading
import traceback

import pytest
from support import forkserver

from hearthnet.errors import WireError
from hearthnet.observability import doctor
from hearthnet.observability.doctor import CheckResult
from hearthnet.observability.process import uncaught as capture
from hearthnet.observability.records.record import bounded, clean_text
from hearthnet.observability.redaction import rules as redaction
from hearthnet.observability.redaction.rules import REDACTED, scrub
from hearthnet.transport.api.error_body import error_body

KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nMzEfYyjiWA4R4/M2\n-----END PRIVATE KEY-----\nafter"
UNCAUGHT = """
import sys, threading
from hearthnet.observability import logging
from hearthnet.observability.process import uncaught as capture

SAID = "password=" + "hunter" + "2"  # Python 3.13 prints the source lines of such a program, and those stay

class Gone:
    def __del__(self):
        raise ValueError(SAID)

def fail():
    raise ValueError(SAID)

logging.keep_quiet()  # else the standard library prints the record itself
capture.install()
Gone()
thread = threading.Thread(target=fail, name="worker-7")
thread.start()
thread.join()
threading.Thread(target=sys.exit).start()
fail()
"""


@pytest.mark.parametrize("name", [b"cookie", "Authorization", b"X-Api-Key", "password"])
@pytest.mark.parametrize("make", [tuple, list])
def test_pair_of_a_secrets_name_and_a_value_is_redacted(make, name):
    """Headers are kept as pairs, of bytes or of text; the value of a secret's name is not recorded."""
    kept = bounded({"headers": [make((name, b"swordfish")), make((b"host", b"h"))]})

    assert kept["headers"] == [[clean_text(name), REDACTED], ["b'host'", "b'h'"]]


@pytest.mark.parametrize("pair", [(1, 2), ("token", None), ("a", "b"), ("tokens_in", 12), ("x", "password")])
def test_other_pairs_are_kept(pair):
    """Two numbers, two words, a count of tokens, a name without a value: all recorded as they are."""
    assert bounded(pair) == list(pair)


@pytest.mark.parametrize("make", [bytes, bytearray])
def test_secret_in_bytes_with_both_quotes_is_redacted(make):
    """Shown as Python shows them, such bytes are full of backslashes; the secret is found before."""
    raw = make(b"""it's [(b'authorization', b'Bearer swordfish'), ("n", 1)]""")

    kept = bounded({"raw": raw})["raw"]

    assert "swordfish" not in kept
    assert "[redacted]" in kept
    assert bounded({"raw": make(b"\xff\x00plain")})["raw"] == "b'\\xff\\x00plain'"


def test_lines_of_a_private_key_are_redacted():
    """A key that was split into lines is no secret's shape any more; the lines around it stay."""
    kept = bounded({"lines": ["before", *KEY.splitlines()]})["lines"]

    assert kept[0] == "before"
    assert kept[2:4] == [REDACTED, REDACTED]
    assert kept[-1] == "after"
    assert "MIIE" not in str(bounded(traceback.format_exception(ValueError(KEY))))


def test_error_in_a_group_is_no_source_line():
    """The lines of an exception group are indented; the text of its errors is scrubbed as any other."""
    said = "Set-Cookie: SID=31d4d96e407aad42; Path=/"
    try:
        try:
            raise ValueError(said)
        except ValueError as error:
            raise ExceptionGroup("several", [error]) from error
    except ExceptionGroup as group:
        text = "".join(traceback.format_exception(group))

    assert text.count(said) == 2
    assert "31d4d96e407aad42" not in scrub(text)
    assert "raise ValueError(said)" in scrub(text)


def test_uncaught_errors_are_printed_without_secrets():
    """What the interpreter prints of a thread, of a dying object and at the end has its traceback, and no secret."""
    done = forkserver.run([sys.executable, "-c", UNCAUGHT])

    assert done.returncode == 1
    assert "hunter2" not in done.stderr
    assert done.stderr.count("ValueError: password=[redacted]") == 3
    assert done.stderr.count("Traceback (most recent call last):") == 3
    assert "Exception in thread worker-7:" in done.stderr
    assert "Gone.__del__" in done.stderr
    assert "SystemExit" not in done.stderr


def test_error_that_cannot_be_printed_is_counted(monkeypatch):
    """A stderr that is closed costs nothing but the print; none at all is no failure."""
    before = capture.failures()
    monkeypatch.setattr(sys, "stderr", None)
    capture.print_error(ValueError("x"))
    assert capture.failures() == before
    with open(threading.__file__) as closed:  # noqa: PTH123  # any file that is not for writing
        monkeypatch.setattr(sys, "stderr", closed)
        capture.print_error(ValueError("x"))
    assert capture.failures() == before + 1


def test_answer_quotes_no_secret():
    """The message of an error is scrubbed on its way out; the code and the time to come back stay."""
    redaction.register_secrets(["orchid-lantern-4471"])
    error = WireError("capacity_exceeded", "cannot use orchid-lantern-4471", retry_after_ms=7)

    assert error_body(error) == {
        "error": "capacity_exceeded",
        "message": "cannot use [redacted]",
        "retry_after_ms": 7,
    }


def test_doctors_findings_hold_no_secret(config):
    """Detail, fix and evidence of a check are scrubbed, whatever the check found."""
    url = "http://me:s3cr3tpw@host/v1"
    doctor.register(
        "careless", lambda *_: CheckResult("careless", False, f"no {url}", f"curl {url}", evidence={url: url})
    )
    try:
        found = doctor.run_one("careless", config)
    finally:
        doctor._checks.pop("careless")

    assert "s3cr3tpw" not in str(found.as_dict())
    assert (found.detail, found.fix) == ("no http://me:[redacted]@host/v1", "curl http://me:[redacted]@host/v1")

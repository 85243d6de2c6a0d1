"""Secrets in lines of settings, and at the beginning of a command."""

from __future__ import annotations

import pytest

from hearthnet.observability.redaction.directives import MAX_CHARS, directed
from hearthnet.observability.redaction.rules import REDACTED, needs_scrub, scrub

SECRET = "S3cretPw9x"
LINES = [
    "masterauth {}", "x=1 masterauth {}", 'masterauth "{}" # of the other', "localhost:5432:db:bob:{}", "*:*:*:bob:{}",
    "of .pgpass: db.example.org:5432:*:bob:{}", "net user bob {} /add", "net user bob {}",
    r"net use \\h\s {} /user:bob",
    r"net use Z: \\h\s /user:bob {}", "mc alias set m http://h:9000 minio {}",
]  # fmt: skip
WORDS = [
    "the masterauth of it: unset", "masterauth is set for all", "net user sessions dropped: 14", "net user bob *",
    "net use of memory grew", "12:5432:7:8", "see 10.0.0.1:5432 and 10.0.0.2:5432:", "net user bob /delete",
    "masterauthority S3cretPw9x", "the precision of it, 0123456789",
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_secret_of_a_line_is_redacted(line):
    """The rest of the line stays."""
    assert scrub(line.format(SECRET)) == line.format(REDACTED)


@pytest.mark.parametrize("text", WORDS)
def test_sentence_with_such_a_word_stays(text):
    """Words of a sentence, placeholders, addresses."""
    assert scrub(text) is text


def test_word_that_ends_its_line_is_a_secret():
    """A password may be a word; one that a sentence goes on behind is none."""
    assert scrub("masterauth foobared") == f"masterauth {REDACTED}"
    assert scrub("net user bob swordfish /add") == f"net user bob {REDACTED} /add"


def test_long_texts_are_not_searched():
    """Neither by the quick check nor by the search."""
    text = f"masterauth {SECRET} {'and so on ' * (MAX_CHARS // 10)}"

    assert directed(text) == []
    assert not needs_scrub(text)
    assert scrub(text[:MAX_CHARS]) == text[:MAX_CHARS].replace(SECRET, REDACTED)


def test_bounds_of_what_is_searched():
    """Eighteen characters, and 512, with a separator or one of the first words."""
    assert directed("masterauth S3cretP") == [(11, 18)]
    assert directed("masterauth S3cret") == []
    assert directed("a masterauth S3cretPw9x") == []
    assert directed("a masterauth 'S3cretPw9x'") == [(14, 24)]
    assert directed("net user bob S3cretPw9x, dapi0123456789abcdef012345") == [(29, 51), (13, 24)]
    text = f"set: masterauth {SECRET} ".ljust(MAX_CHARS, "x")
    assert directed(text) == [(16, 26)]
    assert directed(f"{text}x") == []


def test_commands_are_found_at_the_beginning_only():
    """To search all of a text for their everyday words would cost too much; a setting is found anywhere."""
    assert directed(f"ran: net user bob {SECRET}") == []
    assert directed(f"set: masterauth {SECRET}") == [(16, 26)]

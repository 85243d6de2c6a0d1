"""Records in systemd's journal, read from a socket that stands in for its own."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading

import pytest

from hearthnet.observability import logging as node_logging
from hearthnet.observability import trace
from hearthnet.observability.logging import get_logger
from hearthnet.observability.logs.journal import Journal, journal_of_stderr
from hearthnet.observability.logs.messages import find
from hearthnet.observability.redaction.rules import register_secrets
from hearthnet.observability.runtime import runtime

log = get_logger("hearthnet.journal_test")
GET_SEALS = 1_034


def parsed(content: bytes) -> dict[str, str]:
    """The fields of a datagram, as the journal reads them."""
    fields = {}
    while content:
        line, _, rest = content.partition(b"\n")
        name, is_short, value = line.partition(b"=")
        if not is_short:
            (size,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + size], rest[9 + size :]
            assert content[len(line) + 9 + size : len(line) + 10 + size] == b"\n"
        assert name.decode() not in fields
        fields[name.decode()] = value.decode()
        content = rest
    return fields


@pytest.fixture
def receiver(tmp_path):
    """The journal's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "socket"))
        made.settimeout(30)
        yield made


@pytest.fixture
def journal(receiver, observability):
    """A configured log whose records go to the journal too."""
    node_logging.install_sinks(observability)
    runtime.journal = Journal(receiver.getsockname())
    yield runtime.journal
    runtime.journal.close()


def received(receiver) -> dict[str, str]:
    """The next record."""
    return parsed(receiver.recv(1 << 20))


def test_record_has_its_fields(journal, receiver):
    """Priority, logger and each field by name; the message alone says all of it."""
    log.warning("calls refused", extra={"calls": 3, "why": "full", "Odd-Name.x": [1, None]})

    assert received(receiver) == {
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "hearthnet",
        "MESSAGE": "calls refused  calls=3  why=full  Odd-Name.x=[1,null]",
        "LOGGER": "hearthnet.journal_test",
        "HEARTHNET_CALLS": "3",
        "HEARTHNET_WHY": "full",
        "HEARTHNET_ODD_NAME_X": "[1,null]",
    }
    assert journal.dropped == 0


@pytest.mark.parametrize(("level", "priority"), [("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")])
def test_priority_is_that_of_syslog(journal, receiver, level, priority):
    """So that `journalctl -p` chooses by it."""
    getattr(log, level)("said")

    assert received(receiver)["PRIORITY"] == priority


def test_record_of_a_trace_has_its_ids(journal, receiver):
    """`journalctl TRACE_ID=…` finds it."""
    with trace.new_trace("experimental.work") as made, trace.span("inner"):
        log.info("within")

    found = received(receiver)
    assert found["TRACE_ID"] == made.trace_id
    assert len(found["SPAN_ID"]) == 16


def test_traces_that_end_well_are_not_sent_and_others_are(journal, receiver):
    """A line a call would wear a card; a failure is worth one."""
    with trace.new_trace("experimental.work"):
        pass
    with pytest.raises(ValueError, match="broken"), trace.new_trace("experimental.work") as made:
        raise ValueError("broken")

    found = received(receiver)
    assert (found["TRACE_ID"], found["HEARTHNET_RESULT"]) == (made.trace_id, "internal_error")
    assert found["MESSAGE"].startswith("done  ")
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(1)


def test_lines_of_a_traceback_are_no_fields(journal, receiver):
    """A value of several lines has its length before it: an error cannot forge another field."""
    try:
        raise RuntimeError("broken\nMESSAGE=forged\nPRIORITY=0\n")
    except RuntimeError:
        log.exception("failed", extra={"path": "a\nPRIORITY=1"})

    found = received(receiver)
    assert found["PRIORITY"] == "3"
    assert found["MESSAGE"].startswith("failed  path=a")
    assert "RuntimeError: broken" in found["MESSAGE"]


def test_secrets_do_not_reach_the_journal(journal, receiver):
    """Neither in the message, nor in a field, nor in a traceback."""
    register_secrets(["hunter2-and-more"])
    try:
        raise RuntimeError("hunter2-and-more")
    except RuntimeError:
        log.exception("hunter2-and-more", extra={"password": "s3cret-0815", "said": "hunter2-and-more"})

    content = receiver.recv(1 << 20)
    assert b"hunter2" not in content
    assert b"s3cret" not in content
    assert parsed(content)["HEARTHNET_PASSWORD"] == "[redacted]"


@pytest.mark.parametrize("text", ["", "ä€😀", "\ud800", "\x00\x1b[31m", "x=y", "a\u2028b"])
def test_every_text_is_sent(journal, receiver, text):
    """Whatever a record holds."""
    log.info("said", extra={"said": text, text: 1})

    assert received(receiver)["MESSAGE"].startswith("said")
    assert journal.dropped == 0


def test_record_that_is_too_large_goes_through_a_sealed_file(journal, receiver):
    """The journal takes a memory file that nobody can change any more."""
    journal._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_608)
    log.info("said", extra={f"said {n}": "y" * 4_000 for n in range(4)})

    content, sent, _, _ = receiver.recvmsg(1 << 16, socket.CMSG_SPACE(4))
    assert content == b""
    (fd,) = struct.unpack("i", sent[0][2])
    try:
        assert fcntl.fcntl(fd, GET_SEALS) == 0b1111
        assert len(parsed(os.pread(fd, 1 << 20, 0))["MESSAGE"]) > 4_608
    finally:
        os.close(fd)
    assert journal.dropped == 0


def test_journal_that_is_not_there_is_counted(tmp_path, observability):
    """Missing, or closed by a restart: the file has every line all the same."""
    node_logging.install_sinks(observability)
    runtime.journal = Journal(str(tmp_path / "socket"))
    log.info("one")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(str(tmp_path / "socket"))
    log.info("two")
    (tmp_path / "socket").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as back:
        back.bind(str(tmp_path / "socket"))
        log.info("three")
        assert received(back)["MESSAGE"] == "three"

    runtime.journal.close()
    assert runtime.journal.dropped == 2
    lines = next(observability.log_dir.glob("*.log")).read_text("utf-8").splitlines()
    assert len(lines) == 3


def test_journal_that_does_not_read_holds_nothing_up(journal, receiver):
    """What it does not take is counted, and so is what comes after a close."""
    for _ in range(2_000):
        log.info("said", extra={"said": "z" * 2_000})
        if journal.dropped:
            break

    assert journal.dropped == 1
    journal.close()
    log.info("late")
    assert journal.dropped == 2


def test_repeats_of_a_storm_are_sent_as_one_record(journal, receiver, monkeypatch):
    """As in the JSON log."""
    monkeypatch.setattr("hearthnet.observability.logs.messages.LINES_A_SECOND", 1)
    message = find("hearthnet.journal_test", 20, "said")
    message.drop(5, 5)
    node_logging.log_dropped(all_of_them=True)

    assert received(receiver)["HEARTHNET_REPEATS"] == "4"


def test_many_threads_may_send(journal, receiver):
    """Each record is a datagram of its own."""
    threads = [
        threading.Thread(target=log.info, args=("said",), kwargs={"extra": {"n": n}}) for n in range(8)
    ]  # a socket's queue holds ten
    for thread in threads:
        thread.start()
    found = {received(receiver)["HEARTHNET_N"] for _ in threads}
    for thread in threads:
        thread.join()

    assert found == {str(n) for n in range(8)}


def test_stream_is_recognised_by_device_and_inode():
    """As systemd says: the variable may be inherited by a child whose output goes elsewhere."""
    status = os.fstat(2)

    made = journal_of_stderr({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    assert made is not None
    made.close()
    for value in (f"{status.st_dev}:{status.st_ino + 1}", "", "a:b"):
        assert journal_of_stderr({"JOURNAL_STREAM": value}) is None
    assert journal_of_stderr({}) is None

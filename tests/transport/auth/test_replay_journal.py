"""The next run knows all accepted signatures and refuses nothing else, whatever happens to the file between."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager, suppress

import pytest

from hearthnet.transport.auth import replay
from hearthnet.transport.auth.replay import ReplayJournal, Replays

NOW_S = 1_800_000_000.5
ACCEPTED = [("a", str(number), NOW_S + offset_s) for number, offset_s in enumerate((0, 59, -59, 0.0004, 3, -30, 59.2))]
RECORD_BYTES = 24


@pytest.fixture
def path(tmp_path):
    """The path of the journal."""
    return tmp_path / "community" / "replays.bin"


@contextmanager
def run(path, now_s=NOW_S, **limits):
    """The replay protection of one run of a node."""
    journal = ReplayJournal(path)
    try:
        yield Replays("own", lambda: now_s, journal=journal, **limits)
    finally:
        journal.close()


def taken(replays, requests) -> list[str]:
    """Returns the verdict on each request."""
    return [replays.take(*request) for request in requests]


def new_requests(now_s):
    """Returns new requests, from clocks that are off by up to 59 s."""
    return [("a", f"new at {now_s + offset_s}", now_s + offset_s) for offset_s in (-59, -5, 0, 0.0004, 5, 59)]


@pytest.mark.parametrize("away_s", [0, 0.0002, 1, 20, 3_600, -50, -3_600])
def test_restart_knows_what_was_accepted_and_serves_the_rest(path, away_s):
    """At once, an hour later or after the clock was set back: accepted ones are known, others are served."""
    with run(path) as first:
        assert set(taken(first, ACCEPTED)) == {"new"}
    for number in range(2):
        now_s = NOW_S + away_s + number
        with run(path, now_s) as again:
            assert set(taken(again, ACCEPTED)) == {"replayed"}
            assert set(taken(again, new_requests(now_s))) == {"new"}


def test_file_is_private_and_keeps_no_signature(path):
    """The file is private and contains only hashes."""
    with run(path) as replays:
        replays.take("sender in clear", "signature in clear", NOW_S)

    assert path.stat().st_mode & 0o777 == 0o600
    assert b"clear" not in path.read_bytes()


def test_full_memory_is_full_after_a_restart(path):
    """Shares stay full, old signatures are dropped as before, and none of these is accepted again."""
    limits = {"max_of_sender": 10, "max_of_all": 40}
    with run(path, **limits) as first:
        assert taken(first, [("a", str(n), NOW_S) for n in range(12)]) == ["new"] * 10 + ["full"] * 2
        assert first.take("b", "old", NOW_S - 50) == "new"
    later_s = NOW_S + 30
    with run(path, later_s, **limits) as second:
        assert second.take("a", "more", later_s) == "full"
        assert taken(second, [("b", str(n), later_s) for n in range(9)]) == ["new"] * 9
        assert second.take("b", "one more", later_s) == "new"  # the oldest has expired and is dropped
    with run(path, NOW_S, **limits) as third:  # the clock is set back
        assert third.take("b", "old", NOW_S - 50) != "new"
        assert third.take("b", "0", later_s) == "replayed"


def test_file_is_bounded(path, monkeypatch):
    """A full file is rewritten without losing records; it does not grow from start to start."""
    monkeypatch.setattr(replay, "_MAX_BYTES", 100 * RECORD_BYTES)
    requests = [("own", str(number), NOW_S + number) for number in range(1_000)]
    sizes = []
    for part in range(0, 1_000, 20):
        with run(path, NOW_S + 10_000, max_of_all=100) as replays:
            for request in requests[part : part + 20]:
                assert replays.take(*request) == "new"
                sizes.append(path.stat().st_size)
            assert len(replays) <= 50
    assert max(sizes) <= 110 * RECORD_BYTES
    with run(path, max_of_all=100) as again:
        verdicts = taken(again, requests)
    closed = verdicts.count("closed")
    assert verdicts == ["closed"] * closed + ["replayed"] * (1_000 - closed)
    assert closed <= 950


@pytest.mark.parametrize("cut", range(1, RECORD_BYTES))
def test_record_that_was_cut_costs_no_other(path, cut):
    """A kill during a write drops only the record of the request without a response."""
    with run(path) as first:
        taken(first, ACCEPTED)
    os.truncate(path, path.stat().st_size - cut)
    for _ in range(2):
        with run(path) as again:
            assert taken(again, ACCEPTED[:-1]) == ["replayed"] * (len(ACCEPTED) - 1)
            assert again.take("a", "new", NOW_S) in ("new", "replayed")


@pytest.mark.parametrize("kind", ["empty", "foreign", "folder"])
def test_after_damage_what_was_signed_before_the_start_is_refused(path, logged, kind):
    """If nothing is known of the last run, its time is closed, once, over further restarts too, and logged."""
    with run(path) as first:
        taken(first, ACCEPTED)
    whole = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "foreign": b"\x7fELF" + whole}[kind])
    before, after = [request for request in ACCEPTED if request[2] < NOW_S], ("a", "new", NOW_S + 1)
    with run(path) as again:
        assert set(taken(again, before)) == {"closed"}
        assert taken(again, [after, after]) == ["new", "replayed"]
    with run(path, NOW_S + 2) as third:
        assert set(taken(third, before)) == {"closed"}
        assert third.take(*after) == ("closed" if kind == "folder" else "replayed")

    assert [record.levelname for record in logged] == ["WARNING"] * (4 if kind == "folder" else 1)


def test_noise_in_the_file_stops_nothing(path):
    """Overwritten records are unknown; all others are known."""
    with run(path) as first:
        taken(first, ACCEPTED)
    raw = path.read_bytes()
    path.write_bytes(raw[:-RECORD_BYTES] + os.urandom(10 * RECORD_BYTES))
    with run(path) as again:
        assert set(taken(again, ACCEPTED[:-1])) == {"replayed"}
        assert set(taken(again, new_requests(NOW_S))) == {"new"}


def remount(folder, how):
    """Mounts a file system read-only (`ro`), or not (`rw`)."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def test_folder_that_cannot_be_written_stops_nothing(tiny_disk, logged):
    """Records in the file are known; the time in which the last run may have accepted more is closed."""
    path = tiny_disk / "replays.bin"
    with run(path) as first:
        taken(first, ACCEPTED)
    remount(tiny_disk, "ro")
    unseen = ("a", "unseen", NOW_S + 8)
    with run(path, NOW_S + 7) as second:
        assert set(taken(second, ACCEPTED)) == {"replayed"}
        assert second.take("a", "may have been", NOW_S + 6) == "closed"
        assert taken(second, [unseen, unseen]) == ["new", "replayed"]
    with run(path, NOW_S + 9) as third:
        assert third.take(*unseen) == "closed"
        assert third.take("a", "new", NOW_S + 10) == "new"
    remount(tiny_disk, "rw")

    assert [record.levelname for record in logged] == ["WARNING"] * 2  # one a run


def test_full_disk_is_survived(tiny_disk, logged):
    """After a run that could not write, the time before the start is closed; with space all is written again."""
    path, ballast = tiny_disk / "replays.bin", tiny_disk / "ballast"
    early = [("a", str(number), NOW_S + number / 100) for number in range(1_000)]
    late = [("a", f"late {number}", NOW_S + 20 + number / 100) for number in range(1_000)]
    with run(path) as first:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**20))
        assert set(taken(first, early)) == {"new"}
    assert path.read_bytes() == b""
    assert len([record for record in logged if "cannot be written" in record.getMessage()]) == 1
    ballast.unlink()
    with run(path, NOW_S + 15) as second:
        assert set(taken(second, early)) == {"closed"}
        assert set(taken(second, late)) == {"new"}
    with run(path, NOW_S + 30) as third:
        assert set(taken(third, early)) == {"closed"}
        assert set(taken(third, late)) == {"replayed"}


def test_damaged_record_of_the_far_future_closes_nothing_for_good(path):
    """A flipped bit in a time makes it one that no clock shows: it is dropped, and newer requests are served."""
    with run(path) as first:
        taken(first, ACCEPTED)
    damaged = bytearray(path.read_bytes())
    damaged[len(replay._HEADER) + 7] ^= 0x40
    path.write_bytes(damaged)
    for number in range(2):
        now_s = NOW_S + 10 + number
        with run(path, now_s) as again:
            assert taken(again, [("new", "signature", now_s + 1 + number)]) == ["new"]
            assert set(taken(again, ACCEPTED)) == {"replayed"}


def test_pipe_in_its_place_stops_nothing(path):
    """Something else where the file belongs is no journal: the start does not wait for it."""
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with run(path) as replays:
        assert taken(replays, [("a", "older", NOW_S - 1), ("a", "newer", NOW_S + 1)]) == ["closed", "new"]

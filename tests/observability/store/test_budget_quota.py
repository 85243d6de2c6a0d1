"""Whether the file may grow, whether the WAL may, and whether they are still the files that were opened."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest
from support.writers import RUN, offer, path, writers

from hearthnet.database import TELEMETRY, open_database
from hearthnet.observability.records.recorder import Recorder
from hearthnet.observability.store import budget
from hearthnet.observability.store.budget import MB, Budget, DiskQuota, Wal
from hearthnet.observability.store.writer import Writer

__all__ = ["path", "writers"]

FLOOR = 100 * MB


@pytest.fixture
def now(monkeypatch):
    """A clock that advances only when set; monotonic seconds."""
    now = [1_000.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def free(monkeypatch):
    """How many megabytes the disk has free; None: it cannot be asked."""
    free = [1_000]

    def ask(*_):
        if free[0] is None:
            raise FileNotFoundError
        return free[0] * MB, FLOOR

    monkeypatch.setattr(budget, "free_bytes", ask)
    return free


@pytest.mark.parametrize(
    ("had", "is_low", "is_tight"),
    [
        ([101], False, False),
        ([100], False, False),
        ([99], True, True),
        ([99, 101], False, True),  # a little more is no reason to grow again
        ([99, 108], False, True),
        ([99, 109], False, False),
        ([99, None], False, True),
        ([None], False, False),
    ],
)
def test_file_may_not_grow_into_the_space_to_be_kept_free(tmp_path, free, had, is_low, is_tight):
    """It may again once there is comfortably more."""
    quota = DiskQuota(tmp_path / "telemetry.db", Budget(256))
    for free[0] in had:
        found = quota.check_free(FLOOR)

    assert (found, quota.is_tight, quota.is_disk_short) == (is_low, is_tight, is_tight)
    assert quota.batch_rows(1_000) == (200 if is_tight else 1_000)


def test_disk_that_refused_space_is_not_believed_for_a_minute(tmp_path, free, now):
    """Whatever it says is free: a quota may be reached."""
    quota = DiskQuota(tmp_path / "telemetry.db", Budget(256))
    quota.forbid_growth()
    assert quota.is_tight
    assert not quota.is_disk_short  # it grants a probe: the file is at its ceiling
    seen = []
    for _ in range(3):
        now[0] += 30.0
        quota.check_free(FLOOR)
        seen.append(quota.is_tight)

    assert seen == [True, False, False]


@pytest.mark.parametrize("is_granted", [True, False])
def test_file_at_its_ceiling_is_no_full_disk(tmp_path, monkeypatch, is_granted):
    """A disk that grants space is not short of it, whatever SQLite has called full."""
    quota = DiskQuota(tmp_path / "telemetry.db", Budget(256))

    def grant(*_):
        if not is_granted:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", grant)
    quota.forbid_growth()

    assert (quota.is_tight, quota.is_disk_short) == (True, not is_granted)


def test_rows_fit_into_pages_that_are_free(tmp_path):
    """As many as they may take, no fewer."""
    quota = DiskQuota(tmp_path / "telemetry.db", Budget(256))
    needed = budget.pages_for(100_000)

    assert quota.fits(needed, 100_000)
    assert quota.fits(needed + 1, 100_000)
    assert not quota.fits(needed - 1, 100_000)


async def test_files_are_whole_while_they_are_as_large_as_they_were(path, writers):
    """They may grow; what is cut is noticed, until it is taken for whole."""
    quota = (await writers("run")).quota
    assert quota.is_whole()
    with path.open("ab") as file:
        file.write(b"x" * 10)
    assert quota.is_whole()
    os.truncate(path, path.stat().st_size - 1)
    assert [quota.is_whole(), quota.is_whole()] == [False, False]
    quota.note_sizes()
    assert quota.is_whole()


async def test_growth_that_is_noted_may_not_be_lost(path, writers):
    """Between two flushes, too."""
    quota = (await writers("run")).quota
    size = path.stat().st_size
    os.truncate(path, size + 10)
    quota.note_growth()
    os.truncate(path, size)
    quota.note_growth()

    assert quota.is_whole() is False


async def test_growth_by_a_commit_is_noted_with_it(tmp_path):
    """What is cut before the next one is noticed."""
    path = tmp_path / "small.db"
    open_database(path, TELEMETRY._replace(reserve_bytes=0)).close()
    writer = Writer(path, Recorder("run", lambda *_: None))
    await writer.open(("run", *RUN))
    writer.is_gentle = True  # else it looks at the files once more before it returns
    size = path.stat().st_size
    await committed(writer)
    assert path.stat().st_size > size
    os.truncate(path, size)

    assert writer.quota.is_whole() is False
    await writer.disconnect()


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
async def test_other_files_of_the_same_names_are_not_those_that_are_open(path, writers, ending):
    """Others would never see a write."""
    quota = (await writers("run")).quota
    file = path.with_name(path.name + ending)
    copy = path.with_name("copy")
    copy.write_bytes(file.read_bytes())
    copy.rename(file)

    assert quota.is_whole() is None


async def test_shm_that_was_cut_is_lengthened_before_it_is_used(path, writers):
    """A page that is missing would end the process; -shm never shrinks by itself."""
    writer = await writers("run")
    shm = path.with_name(f"{path.name}-shm")
    size = shm.stat().st_size
    os.truncate(shm, 0)

    assert writer.quota.is_whole() is False
    assert shm.stat().st_size == size > 0
    os.truncate(shm, 0)
    writer.quota.note_sizes()
    assert writer.quota.is_whole() is False
    assert shm.stat().st_size == size


@pytest.mark.parametrize(("pages", "is_crowded"), [(0, False), (15_000, False), (15_625, False), (15_626, True)])
def test_tables_of_others_crowd_where_they_take_more_than_half(path, monkeypatch, now, pages, is_crowded):
    """That they do not is believed for a minute: all pages of ours are read for it."""
    asked = []
    monkeypatch.setattr(budget, "foreign_pages", lambda _: asked.append(1) or pages)
    quota = DiskQuota(path, Budget(256))
    assert quota._ceiling == 31_250

    assert [quota.is_crowded(), quota.is_crowded()] == [is_crowded] * 2
    assert len(asked) == (2 if is_crowded else 1)
    now[0] += 60.0
    assert quota.is_crowded() == is_crowded
    assert len(asked) == (3 if is_crowded else 2)
    assert quota.has_foreign_tables() == (pages > 0)


def test_store_that_cannot_be_read_is_not_crowded(tmp_path):
    """The next commit has the reason."""
    quota = DiskQuota(tmp_path / "none.db", Budget(256))

    assert not quota.is_crowded()
    assert not quota.has_foreign_tables()


async def test_bytes_that_were_written_are_those_of_the_systems_count(writers, tmp_path):
    """None where there is no count."""
    quota = (await writers("run")).quota
    assert quota.written_bytes() is None or quota.written_bytes() >= 0
    quota._io = tmp_path / "io"
    assert quota.written_bytes() is None
    quota._io.write_text("rchar: 7\nwrite_bytes: 4096\ncancelled_write_bytes: 9\n")
    assert quota.written_bytes() == 4_096
    quota._io.write_text("rchar: 7\n")
    assert quota.written_bytes() is None

    assert DiskQuota(tmp_path / "telemetry.db", Budget(256)).written_bytes() is None


async def committed(writer, count=10):
    """Commits so many traces of ten kilobytes each."""
    offer(writer, range(1, count + 1), extras=b'"%b"' % (b"x" * 10_000))
    assert await writer.flush()


@pytest.fixture
def reader(path):
    """A connection that begins a transaction when it is asked to."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:

        def begin():
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM traces").fetchone()
            return connection

        yield begin


@pytest.mark.parametrize(("total", "reserved"), [(256, 4), (128, 4), (64, 2)])
async def test_wal_has_its_space_before_it_is_needed(path, writers, total, reserved):
    """Half of its share, at most four megabytes: commits go on when the disk is full."""
    writer = await writers("run", budget=Budget(total))

    assert writer.wal.size() == reserved * MB
    missing = Wal(path.with_name("none.db"), Budget(256))
    assert (missing.size(), missing.used) == (0, 0)


async def test_checkpoint_frees_the_wal_unless_a_reader_needs_it(writers, reader):
    """Then so much of it stays in use as there are frames."""
    writer = await writers("run")
    await committed(writer)
    open_reader = reader()
    offer(writer, [11], extras=b'"%b"' % (b"x" * 10_000))
    assert await writer.flush()
    assert not await writer.wal.checkpoint(writer._db)
    assert writer.wal.used > 100_000
    open_reader.execute("COMMIT")

    assert await writer.wal.checkpoint(writer._db)
    assert writer.wal.used == 0


async def test_wal_beyond_its_share_is_cut_once_no_reader_needs_it(writers):
    """And gets its reserve again."""
    writer = await writers("run", budget=Budget(64))
    await writer._be_patient(0)
    os.truncate(writer.wal.path, 5 * MB)
    await committed(writer)
    assert await writer.wal.checkpoint(writer._db)

    assert writer.wal.size() == 2 * MB
    assert writer.wal.used == 0


@pytest.mark.parametrize(("more", "modes"), [(-1, ["PASSIVE"]), (0, ["PASSIVE"]), (1, ["PASSIVE", "TRUNCATE"])])
async def test_wal_is_cut_only_beyond_its_share(writers, monkeypatch, more, modes):
    """To cut it waits for every reader, and costs its reserve."""
    writer = await writers("run", budget=Budget(64))
    os.truncate(writer.wal.path, 4 * MB + more)
    found, genuine = [], writer.wal._checkpoint

    def noting(db, mode):
        found.append(mode)
        return genuine(db, mode)

    monkeypatch.setattr(writer.wal, "_checkpoint", noting)
    assert await writer.wal.checkpoint(writer._db)

    assert found == modes


@pytest.mark.parametrize(("more", "fits"), [(-1, True), (0, True), (1, False)])
async def test_wal_that_a_checkpoint_frees_has_space_up_to_its_cap(writers, reader, more, fits):
    """A reader of the newest rows keeps the WAL from being cut, not from being used from its start."""
    writer = await writers("run", budget=Budget(64))
    await writer._be_patient(0)
    await committed(writer)
    reader()
    cap, largest = 16 * MB, 5_319_600
    assert budget._growth(largest) == cap
    writer.wal.used = cap

    assert await writer.wal.has_space(writer._db, largest + more) is fits


async def test_wal_may_not_pass_its_cap_while_a_reader_pins_it(writers, reader):
    """A commit that fits exactly is made; one that does not waits for the reader's end."""
    writer = await writers("run", budget=Budget(64))
    await writer._be_patient(0)
    await committed(writer)
    open_reader = reader()
    offer(writer, [11], extras=b'"%b"' % (b"x" * 10_000))
    assert await writer.flush()
    cap, rows = 16 * MB, 100_000
    writer.wal.used = cap - budget._growth(rows)
    assert await writer.wal.has_space(writer._db, rows)
    assert writer.wal.used == cap - budget._growth(rows)

    assert not await writer.wal.has_space(writer._db, rows + 1)
    assert writer.wal.used < 1 * MB  # as the checkpoint has found: it was an estimate
    assert await writer.wal.has_space(writer._db, rows + 1)
    assert not await writer.wal.has_space(writer._db, cap)
    open_reader.execute("COMMIT")
    assert await writer.wal.has_space(writer._db, cap)  # the largest commit has to pass one day
    assert writer.wal.size() == 2 * MB


class Measured:
    """A database whose WAL has grown by a part of what was estimated, at each checkpoint."""

    def __init__(self, wal, part):
        self.wal, self.part, self.checkpoints = wal, part, 0

    async def execute_fetchall(self, _):
        """Returns what a checkpoint does: all frames are moved."""
        self.checkpoints += 1
        frames = round(self.wal.used * self.part / budget._FRAME_BYTES)
        return [(0, frames, frames)]


@pytest.mark.parametrize(("part", "later"), [(1.0, 1.0), (0.5, 2.0), (3.0, 1.0), (0.0, 1 / budget._LEAST_SCALE)])
async def test_checkpoints_are_as_frequent_as_the_wal_grows(tmp_path, part, later):
    """The first comes by the estimate, the next by what was measured then, within bounds."""
    wal = Wal(tmp_path / "telemetry.db", Budget(256), 2_000_000)
    db = Measured(wal, part)
    commits = []
    for number in (1, 2):
        commits.append(0)
        while db.checkpoints < number:
            wal.add(1_000)
            commits[-1] += 1
            await wal.checkpoint_if_due(db)

    first, second = commits
    assert first == -(-2_000_000 // budget._growth(1_000))
    assert second == pytest.approx(first * later, rel=0.05)

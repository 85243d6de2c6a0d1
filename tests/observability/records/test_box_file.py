"""The file of a box: its name, its sizes, and that it is whole when it gets its name."""

from __future__ import annotations

import mmap
import os
import time

import pytest

from hearthnet.forensics import box as layout
from hearthnet.observability.records import box_file
from hearthnet.observability.records.box_file import DRAFTS, Sizes, box_path, make, new_header

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


def header(**sizes):
    """The header of a small box."""
    return new_header(
        layout.LIBRARY, RUN, "1", None, Sizes(**{"traces": 20_000, "logs": 9_000, "entries": 64, **sizes})
    )


def test_name_is_free_and_not_that_of_an_older_layout(tmp_path):
    """A box of layout 1 with this pid is no obstacle; one of layout 2, as of a container's process, is."""
    pid = os.getpid()
    (tmp_path / f"telemetry.{pid}.box").touch()
    assert box_path(tmp_path, RUN).name == f"telemetry.{pid}.box2"
    names = []
    for _ in range(3):
        path = box_path(tmp_path, RUN)
        path.touch()
        names.append(path.name)

    assert names == [f"telemetry.{pid}.box2", f"telemetry.{pid}.{RUN}.1.box2", f"telemetry.{pid}.{RUN}.2.box2"]
    assert len(layout.boxes_in(tmp_path)) == 4
    assert [path.name for path in tmp_path.glob("telemetry.*.box")] == [f"telemetry.{pid}.box"]


def test_header_tells_the_process_and_when_it_began():
    """By both clocks, in the units of each."""
    before_us, before_ns = time.time_ns() // 1_000, time.monotonic_ns()
    made = header()

    assert before_us <= made.started_us <= time.time_ns() // 1_000
    assert before_ns <= made.started_ns <= time.monotonic_ns()
    assert (made.pid, made.process_start, made.boot_id) == (
        os.getpid(), layout.process_start(os.getpid()), layout.this_boot(),
    )  # fmt: skip


@pytest.mark.parametrize("entries", [0, 1, 64, 4_096])
def test_parts_begin_where_a_mapping_can(tmp_path, entries):
    """Each ring has whole pages of its own, and the sizes are told before the file is made."""
    made = header(entries=entries)
    assert made.traces_at % mmap.ALLOCATIONGRANULARITY == made.logs_at % mmap.ALLOCATIONGRANULARITY == 0
    assert made.total_bytes == Sizes(20_000, 9_000, entries).total
    file = make(tmp_path / "telemetry.1.box2", made)

    assert (tmp_path / "telemetry.1.box2").stat().st_size == made.total_bytes
    assert (len(file.head), len(file.traces), len(file.logs)) == (made.traces_at, made.trace_bytes, made.log_bytes)
    os.close(file.fd)


def test_name_is_given_to_a_locked_and_whole_file(tmp_path, monkeypatch):
    """Another process that looks at the very moment sees a box that is being written."""
    seen = []

    def name(draft, path):
        seen.append((layout.is_locked(draft), layout.header_of(draft).run_id, path.exists()))
        assert list(tmp_path.glob(DRAFTS)) == [draft]
        assert layout.boxes_in(tmp_path) == []
        really_name(draft, path)

    really_name = box_file.name_new
    monkeypatch.setattr(box_file, "name_new", name)
    file = make(tmp_path / "telemetry.1.box2", header())

    assert seen == [(True, RUN, False)]
    assert [path.name for path in tmp_path.glob("telemetry.*")] == ["telemetry.1.box2"]
    os.close(file.fd)


@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no hard links"])
def test_name_that_is_taken_is_an_error(tmp_path, monkeypatch, has_links):
    """The other file stays as it is, and no draft is left."""

    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "telemetry.1.box2"
    path.write_bytes(b"another")
    with pytest.raises(FileExistsError):
        make(path, header())
    assert (path.read_bytes(), len(list(tmp_path.glob("telemetry.*")))) == (b"another", 1)
    path.unlink()
    os.close(make(path, header()).fd)
    assert [found.name for found in tmp_path.glob("telemetry.*")] == ["telemetry.1.box2"]


def test_space_is_taken_where_the_system_has_no_call_for_it(tmp_path, monkeypatch):
    """The file is as large as it would be, without a hole, and nothing but zeros follow its header."""
    monkeypatch.delattr(os, "posix_fallocate")
    path = tmp_path / "telemetry.1.box2"
    file = make(path, header(traces=3_000_000))
    os.close(file.fd)

    assert path.stat().st_size == file_size(path) == header(traces=3_000_000).total_bytes
    assert path.read_bytes()[layout.HEADER_BYTES :].count(0) == path.stat().st_size - layout.HEADER_BYTES


def file_size(path):
    """The bytes of a file that are allocated, as far as it has any."""
    return min(path.stat().st_size, path.stat().st_blocks * 512)


MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:27 / /home rw,relatime shared:2 - btrfs /dev/vdb rw
31 30 0:28 / /home/joe/my\040store rw - zfs tank/store rw
32 22 0:29 / /homer rw - tmpfs tmpfs rw
33 22 0:30 / /home rw,relatime master:4 propagate_from:2 - bcachefs /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/box", "ext4"),
        ("/home/box", "bcachefs"),  # mounted over the one before
        ("/home/joe/my store/box", "zfs"),
        ("/home/joe/my", "bcachefs"),
        ("/homer/box", "tmpfs"),
        ("/", "ext4"),
    ],
)
def test_file_system_is_that_of_the_nearest_mount(monkeypatch, path, kind):
    """The last of those that are mounted at the longest part of the path."""
    monkeypatch.setattr(box_file.Path, "read_bytes", lambda *_: MOUNTS.strip().encode())

    assert box_file._file_system(box_file.Path(path)) == kind


def test_file_system_is_unknown_where_the_system_does_not_tell(monkeypatch):
    """Without the table of Linux a box is mapped."""

    def refuse(*_):
        raise FileNotFoundError

    monkeypatch.setattr(box_file.Path, "read_bytes", refuse)
    assert box_file._file_system(box_file.Path("/")) == ""


def test_stand_in_behaves_as_a_mapping_does(tmp_path):
    """Position, end, slices and what is closed: the same answers, the same errors."""
    answers = []
    for number, kind in enumerate((box_file._mapped, box_file._Written)):
        path = tmp_path / str(number)
        path.write_bytes(bytes(2 * mmap.ALLOCATIONGRANULARITY))
        fd = os.open(path, os.O_RDWR)
        part = kind(fd, mmap.ALLOCATIONGRANULARITY, 10)
        part.write(b"abcdef")
        told = [part.tell()]
        with pytest.raises(ValueError, match=r"."):
            part.write(b"12345")
        told += [part.tell(), part[0:3], part[2:5], part[:]]
        part.write(b"1234")  # up to its end
        told += [part.tell(), part[8:]]
        part.seek(0)
        part.write(b"x")
        part[4:6] = b"!?"
        part.seek(10)
        with pytest.raises(ValueError, match=r"."):
            part.write(b"y")
        told += [part[:], part.tell()]
        part.close()
        part.close()
        for refused in (lambda part=part: part.write(b"z"), lambda part=part: part[0:1]):
            with pytest.raises(ValueError, match=r"."):
                refused()
        os.close(fd)
        answers.append((told, path.read_bytes()))

    assert answers[0] == answers[1]


def test_stand_in_that_is_closed_has_no_descriptor(tmp_path, monkeypatch):
    """It had one of its own, which it closes once: the number may be another file's by then."""
    with (tmp_path / "box").open("w+b") as file:
        part = box_file._Written(file.fileno(), 0, 100)
        held, closed = part._open_fd(), []
        assert held != file.fileno()
        monkeypatch.setattr(os, "close", closed.append)
        part.close()
        part.close()
        monkeypatch.undo()

        assert closed == [held]
        os.close(held)

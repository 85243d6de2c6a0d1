"""Private files: their modes, and that a write happens whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hearthnet.files import make_private_dir, replace_private


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["000", "022", "077"])
def umask(request):
    """A umask that a node may be started with."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_made_folders_are_private(tmp_path):
    """Each folder that was missing gets mode 0700, whatever the umask."""
    make_private_dir(tmp_path / "a" / "b" / "c")

    assert [mode(tmp_path / "a"), mode(tmp_path / "a" / "b"), mode(tmp_path / "a" / "b" / "c")] == [0o700] * 3


def test_folder_that_is_there_stays_as_it_is(tmp_path):
    """A folder that somebody opened on purpose is not closed, and its parents are left alone."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    make_private_dir(shared)
    make_private_dir(shared / "mine")

    assert (mode(shared), mode(shared / "mine")) == (0o755, 0o700)


def test_folder_below_a_file_is_refused(tmp_path):
    """A file in the way is told, and is untouched."""
    (tmp_path / "file").write_text("x")

    with pytest.raises(OSError, match="file"):
        make_private_dir(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.usefixtures("umask")
def test_new_file_is_private(tmp_path):
    """The file has mode 0600, whatever the umask, and holds exactly the bytes."""
    path = tmp_path / "new" / "secret"
    replace_private(path, b"\x00\xff\n")

    assert (mode(path), path.read_bytes()) == (0o600, b"\x00\xff\n")
    assert mode(path.parent) == 0o700


def test_replacing_makes_an_open_file_private(tmp_path):
    """What was readable for others is not so after its replacement."""
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o644)
    replace_private(path, b"new")

    assert (mode(path), path.read_bytes()) == (0o600, b"new")


def test_reader_keeps_the_old_file(tmp_path):
    """Who has the old file open reads it to its end: it is replaced, never written into."""
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        replace_private(path, b"a longer new content")

        assert reader.read() == b"old"


def test_nothing_else_is_left(tmp_path):
    """No temporary file stays behind."""
    folder = tmp_path / "folder"
    replace_private(folder / "secret", b"1")
    replace_private(folder / "secret", b"2")

    assert [path.name for path in folder.iterdir()] == ["secret"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, function):
    """When writing or renaming fails, the old content stands and the temporary file is gone."""
    folder = tmp_path / "folder"
    path = folder / "secret"
    replace_private(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError("disk on fire")

    with monkeypatch.context() as patched:
        patched.setattr(os if function == "fsync" else Path, function, refuse)
        with pytest.raises(OSError, match="disk on fire"):
            replace_private(path, b"new")

    assert path.read_bytes() == b"old"
    assert [item.name for item in folder.iterdir()] == ["secret"]


def test_interruption_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    """Ctrl-C in the middle is no exception to this."""
    folder = tmp_path / "folder"
    path = folder / "secret"
    replace_private(path, b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            replace_private(path, b"new")

    assert [(item.name, item.read_bytes()) for item in folder.iterdir()] == [("secret", b"old")]


def test_folder_in_the_place_of_the_file_is_refused(tmp_path):
    """A folder of that name is not replaced, and nothing is left beside it."""
    (tmp_path / "folder" / "secret").mkdir(parents=True)

    with pytest.raises(OSError, match="secret"):
        replace_private(tmp_path / "folder" / "secret", b"new")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["secret"]

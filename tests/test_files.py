"""Private files: their modes, and that a write happens whole or not at all."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
from support.reachable import reachable
from support.strange import STRANGE, plant

from hearthnet import files
from hearthnet.files import (
    NotRegularError,
    create_private,
    create_whole,
    foreign,
    hint_for,
    make_private_dir,
    open_file,
    open_regular,
    read_in,
    read_regular,
    replace_in,
    replace_private,
)

NOBODY = 65_534


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o177, 0o277, 0o777], ids="{:03o}".format)
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


@pytest.fixture
def folder(tmp_path):
    """An open folder; its descriptor and path."""
    path = tmp_path / "folder"
    path.mkdir()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd, path
    os.close(fd)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_failure_in_an_open_folder_leaves_the_old_file(folder, monkeypatch, function):
    """And nothing else."""
    fd, path = folder
    replace_in(fd, "secret", b"old")

    def refuse(*_, **__):
        raise OSError("disk on fire")

    with monkeypatch.context() as patched:
        patched.setattr(os, function, refuse)
        with pytest.raises(OSError, match="disk on fire"):
            replace_in(fd, "secret", b"new")

    assert [(item.name, item.read_bytes(), mode(item)) for item in path.iterdir()] == [("secret", b"old", 0o600)]


def test_open_folder_is_read_without_links_and_within_bounds(folder):
    """A state file that is anything else is none."""
    fd, path = folder
    replace_in(fd, "state", b"12345")
    (path / "link").symlink_to("state")
    (path / "other").mkdir()

    assert read_in(fd, "state", 5) == b"12345"
    for name, limit, error in (("state", 4, OSError), ("link", 5, OSError), ("other", 5, NotRegularError)):
        with pytest.raises(error):
            read_in(fd, name, limit)


@pytest.mark.parametrize("target", ["there", "missing"])
def test_link_is_not_followed_if_that_is_asked_for(tmp_path, target):
    """Neither to append, nor to create what it leads to."""
    (tmp_path / "there").touch()
    (tmp_path / "link").symlink_to(tmp_path / target)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    with pytest.raises(OSError, match="link"):
        open_regular(tmp_path / "link", flags)
    os.close(open_regular(tmp_path / "new", flags))

    assert {path.name for path in tmp_path.iterdir()} - {"home"} == {"link", "new", "there"}


@pytest.mark.usefixtures("umask")
def test_every_created_file_is_private(tmp_path):
    """Mode 0600 whatever the umask, also of a file that is opened for appending and missing."""
    for path, fd in (
        (tmp_path / "new", create_private(tmp_path / "new")),
        (tmp_path / "log", open_regular(tmp_path / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)),
    ):
        os.close(fd)
        assert mode(path) == 0o600
    create_whole(tmp_path / "key", b"1")
    create_whole(tmp_path / "key.pub", b"1", 0o644)

    assert (mode(tmp_path / "key"), mode(tmp_path / "key.pub")) == (0o600, 0o644)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT], ids=["read", "write", "create"])
@pytest.mark.parametrize("kind", STRANGE)
def test_nothing_but_a_file_is_opened(tmp_path, kind, flags):
    """A pipe does not wait for its other end, a device is not written to: it is an error that says which it is."""
    path = plant(tmp_path / "telemetry.lock", kind)

    with pytest.raises(NotRegularError, match=r"it is a (pipe|socket|device|folder), not a file") as caught:
        open_regular(path, flags)
    assert str(path) in str(caught.value)


def test_the_hint_moves_it_aside(tmp_path):
    """The command of the hint works, whatever the name."""
    path = tmp_path / "a b'$(c).lock"
    os.mkfifo(path)
    with pytest.raises(NotRegularError) as caught:
        read_regular(path)

    subprocess.run(shlex.split(hint_for(caught.value).removeprefix("move it aside: ")), check=True)
    assert not path.exists()
    assert path.with_name(f"{path.name}.aside").is_fifo()


def test_file_that_becomes_a_pipe_is_not_opened(tmp_path, monkeypatch):
    """Between the look at it and the opening it was replaced: nothing is waited for, and nothing stays open."""
    path = tmp_path / "file"
    path.write_bytes(b"1")
    really_open = os.open

    def replacing(name, flags, *mode):
        path.unlink()
        os.mkfifo(path)
        return really_open(name, flags, *mode)

    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", replacing)
        with pytest.raises(NotRegularError, match="a pipe"):
            open_file(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_links_to_files_are_followed(tmp_path):
    """A link to a file is one; a link to a missing file is made one by opening it to create."""
    (tmp_path / "there").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "dangling").symlink_to(tmp_path / "missing")

    assert read_regular(tmp_path / "link") == b"1"
    with pytest.raises(NotRegularError, match="it is a link to nothing, not a file"):
        open_regular(tmp_path / "dangling")
    os.close(open_regular(tmp_path / "dangling", os.O_WRONLY | os.O_CREAT))
    assert mode(tmp_path / "missing") == 0o600
    (tmp_path / "nowhere").symlink_to(tmp_path / "no folder" / "file")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nowhere", os.O_WRONLY | os.O_CREAT)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="Too many levels"):
        open_regular(tmp_path / "loop", os.O_WRONLY | os.O_CREAT)


def test_folder_that_is_a_link_to_nothing_is_named(tmp_path):
    """`File exists` would be true, and would help with nothing."""
    (tmp_path / "data").symlink_to(tmp_path / "unmounted")

    with pytest.raises(NotADirectoryError, match="it is a link to nothing, not a folder"):
        make_private_dir(tmp_path / "data" / "keys")


@pytest.mark.parametrize("kind", ["file", *STRANGE])
def test_whole_file_replaces_nothing(tmp_path, kind):
    """Whatever has the name keeps it, and no temporary file is left."""
    path = plant(tmp_path / "keys" / "device.ed25519", kind)
    before = sorted(path.parent.iterdir()), path.lstat()

    with pytest.raises(FileExistsError):
        create_whole(path, b"new")
    assert (sorted(path.parent.iterdir()), path.lstat().st_ino) == (before[0], before[1].st_ino)


@pytest.mark.parametrize("failing", ["fsync", "link and rename", "open", "fchmod"])
def test_whole_file_is_absent_after_a_failure(tmp_path, monkeypatch, failing):
    """Whichever step fails, neither the file nor a part of it is there; the next try succeeds."""
    folder = tmp_path / "keys"
    folder.mkdir()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        for name in failing.split(" and "):
            patched.setattr(Path if name == "rename" else os, name, refuse)
        with pytest.raises(OSError, match="No space"):
            create_whole(folder / "key", b"1" * 32, 0o644)
        patched.undo()
        assert list(folder.iterdir()) == []

    create_whole(folder / "key", b"1" * 32)
    assert (folder / "key").read_bytes() == b"1" * 32


def test_whole_file_without_hard_links(tmp_path, monkeypatch):
    """On a file system that has none it is renamed; a name that is taken is still refused."""
    folder = tmp_path / "keys"
    folder.mkdir()

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(files.os, "link", refuse)
    create_whole(folder / "key", b"1")

    with pytest.raises(FileExistsError):
        create_whole(folder / "key", b"2")
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("key", b"1")]


def test_file_of_another_owner_is_named(tmp_path, as_nobody):
    """As after a run with `sudo`: the hint has the owner and the command that takes the file back."""
    path = tmp_path / "telemetry.lock"
    path.touch(mode=0o600)
    reachable(tmp_path.parent)
    tmp_path.chmod(0o777)

    with as_nobody(), pytest.raises(PermissionError) as caught:
        open_regular(path, os.O_RDWR | os.O_CREAT)
    with as_nobody():
        assert hint_for(caught.value) == f"it belongs to root: sudo chown -h --from=0 65534 {path}"
    assert hint_for(caught.value) is None  # root may use it


def owned(path: Path, uid: int, mode: int) -> Path:
    """Gives a file or folder to a user."""
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


@pytest.fixture
def home(tmp_path):
    """A folder of another user than root, which that user can reach."""
    reachable(tmp_path)
    (tmp_path / "home").mkdir()
    return owned(tmp_path / "home", NOBODY, 0o700)


def test_leftovers_of_root_are_taken_back_at_once(home, as_nobody):
    """All of a node's that root left beside a file, and the highest of its folders: not one command for each."""
    (home / "state" / "hearthnet" / "log").mkdir(parents=True)
    owned(home / "state", NOBODY, 0o700)
    owned(home / "state" / "hearthnet", 0, 0o700)
    (home / "page.json").touch()
    owned(home / "page.json", NOBODY, 0o600)
    for name in ("telemetry.lock", "telemetry.db", "telemetry.1.box x"):
        (home / name).touch(0o600)
    command = f"sudo chown -h --from=0 {NOBODY}"
    with as_nobody():
        assert foreign(home / "telemetry.lock") == (
            "it belongs to root",
            f"{command} {home}/telemetry.lock '{home}/telemetry.1.box x' {home}/telemetry.db",
        )
        assert foreign(home / "state" / "hearthnet" / "log" / "x.log") == (
            f"{home}/state/hearthnet belongs to root",
            f"sudo chown -R -h --from=0 {NOBODY} {home}/state/hearthnet",
        )
        assert foreign(home / "gone") is None


def test_root_takes_nothing(home):
    """Nothing keeps root from a file; a hint would give a service's store, or a home, to root."""
    (home / "telemetry.db").touch()
    owned(home / "telemetry.db", NOBODY, 0o600)

    assert foreign(home / "telemetry.db") is None
    assert foreign(home) is None


def test_what_is_no_file_of_a_node_is_not_taken(home, as_nobody):
    """A disk, a folder with others' files, a link, a file with a second name elsewhere, one of another program."""
    (home / "disk" / "photos").mkdir(parents=True)
    (home / "disk" / "telemetry.db").touch(0o600)
    (home / "shadow").touch(0o600)
    (home / "telemetry.lock").hardlink_to(home / "shadow")
    (home / "telemetry.db-wal").symlink_to(home / "shadow")
    (home / "telemetry.db").touch(0o600)
    (home / "closed").mkdir(0o700)
    with as_nobody():
        assert foreign(home / "disk") is None
        assert foreign(home / "disk" / "telemetry.db").command.endswith(f" {home}/disk/telemetry.db")
        assert [foreign(home / name) for name in ("shadow", "telemetry.lock", "telemetry.db-wal")] == [None] * 3
        assert foreign(home / "telemetry.db").command == f"sudo chown -h --from=0 {NOBODY} {home}/telemetry.db"
        # What a closed folder holds cannot be seen; this is the one that was asked for, or is in its way.
        assert foreign(home / "closed" / "x").command == f"sudo chown -h --from=0 {NOBODY} {home}/closed"


@pytest.mark.parametrize("above", ["root", "another user"])
def test_closed_folder_elsewhere_is_not_taken(tmp_path, as_nobody, above):
    """It may be that user's home, as where HOME was kept by `su`: no command gives it away, nor its owner's disk."""
    reachable(tmp_path)
    home = tmp_path / "homes" / "ann"
    home.mkdir(parents=True)
    owned(home.parent, 0 if above == "root" else 12_345, 0o755)
    owned(home, 0 if above == "root" else 12_345, 0o700)

    with as_nobody():
        assert foreign(home / ".config" / "hearthnet" / "config.toml") is None
        assert foreign(home) is None


def test_mounted_disk_is_not_taken(home, as_nobody, monkeypatch, tmp_path):
    """Whatever its name, and neither is a folder with one below it."""
    (home / "hearthnet" / "blobs").mkdir(parents=True)
    owned(home / "hearthnet", 0, 0o700)
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(files, "_MOUNTS", table)
    for mounted, is_taken in ((home, True), (home / "hearthnet", False), (home / "hearthnet" / "blobs", False)):
        table.write_text(f"1 2 3:4 / {mounted} rw - ext4 /dev/x rw\n")
        with as_nobody():
            assert (foreign(home / "hearthnet") is not None) == is_taken


def test_file_that_can_be_used_is_no_trouble(home, as_nobody):
    """Another owner is then no reason: something else is the reason, and its hint is the right one."""
    (home / "telemetry.db").touch()
    (home / "telemetry.db").chmod(0o666)
    with as_nobody():
        assert foreign(home / "telemetry.db") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_file_that_others_can_change_is_not_roots(tmp_path):
    """Also by way of its folder, or of a link."""
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    path = folder / "file"
    path.touch()
    link.symlink_to(path)
    assert files.is_of_root(path)
    assert files.is_of_root(link)

    os.chown(link, 65_534, 65_534, follow_symlinks=False)
    assert not files.is_of_root(link)
    folder.chmod(0o777)
    assert not files.is_of_root(path)
    folder.chmod(0o1777)
    assert files.is_of_root(path)
    os.chown(folder, 65_534, 65_534)
    assert not files.is_of_root(path)
    assert not files.is_of_root(folder / "missing")

"""The state of the messages is kept where it can be, and never where another user could change it."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path

import orjson
import pytest

from hearthnet import files
from hearthnet.notify import kept as module
from hearthnet.notify.channels import ChannelError
from hearthnet.notify.deliver import deliver
from hearthnet.notify.kept import STATE_FILE, Kept
from hearthnet.notify.told import opened

FAILED = [{"name": "disk_space", "status": "fail", "detail": "the disk is full", "fix": None}]
WELL = [{**FAILED[0], "status": "pass"}]
AWAY = [{"name": "node_files", "status": "fail", "detail": "the data folder is missing", "fix": None}]
AWAY_WELL = [{**AWAY[0], "status": "pass"}]


class Phone:
    """A channel that takes every message."""

    name, key = "phone", "fake:phone"

    def __init__(self):
        self.got = []

    def send(self, message):
        """Keeps the title."""
        self.got.append(message.title.partition(": ")[2])


@pytest.fixture
def data(tmp_path):
    """The data folder."""
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A user's runtime folder, and no other place."""
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    monkeypatch.setattr(module, "UNIT_FOLDER", tmp_path / "unit")
    monkeypatch.setattr(module, "MEMORY", tmp_path / "memory")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    return path


@pytest.fixture
def full(data, monkeypatch):
    """Fills the disk of the data folder, or empties it."""
    state = {"is_full": True}
    real = module.replace_in

    def replace_in(folder, name, content, owner=None):
        if name == STATE_FILE and state["is_full"]:
            raise OSError(28, "No space left on device", str(data / name))
        real(folder, name, content, owner)

    monkeypatch.setattr(module, "replace_in", replace_in)
    return state


def test_full_disk_is_told_of_once(data, runtime, full):
    """And that there is room again, by the data folder's own state; the other is removed then."""
    phone = Phone()
    done = [deliver(data, FAILED, [phone], "fail") for _ in range(3)]
    assert phone.got == ["disk_space fails"]
    assert {one.folder for one in done} == {runtime / "hearthnet-doctor"}
    assert {one.error.strerror for one in done} == {"No space left on device"}
    full["is_full"] = False
    done = [deliver(data, WELL, [phone], "fail") for _ in range(3)]

    assert phone.got == ["disk_space fails", "disk_space is well again"]
    assert {(one.error, one.folder) for one in done} == {(None, data)}
    assert list((runtime / "hearthnet-doctor").iterdir()) == []


def test_disk_that_fills_up_after_a_message_repeats_none(data, runtime, full):
    """What the data folder has is older than what the other has."""
    phone = Phone()
    full["is_full"] = False
    deliver(data, FAILED, [phone], "fail")
    full["is_full"] = True
    for _ in range(3):
        deliver(data, WELL, [phone], "fail")

    assert phone.got == ["disk_space fails", "disk_space is well again"]


def test_disk_that_fills_up_while_a_message_is_sent(data, runtime, full):
    """It was sent: nothing says that it was not."""

    class Filling(Phone):
        def send(self, message):
            """Takes the message and the room."""
            super().send(message)
            full["is_full"] = True

    full["is_full"] = False
    phone = Filling()
    done = deliver(data, FAILED, [phone], "fail")

    assert (done.deliveries[0].error, done.folder) == (None, runtime / "hearthnet-doctor")
    assert deliver(data, FAILED, [phone], "fail").deliveries == []
    (runtime / "hearthnet-doctor").chmod(0o777)
    full["is_full"] = False
    assert deliver(data, AWAY, [phone], "fail").folder is None  # no other one can be used


@pytest.mark.parametrize("what", ["missing", "a file", "state is a folder"])
def test_data_folder_that_has_no_state_silences_nothing(data, runtime, what):
    """As when its disk is not mounted."""
    if what == "state is a folder":
        (data / STATE_FILE).mkdir()
    else:
        data.rmdir()
        if what == "a file":
            data.touch()
    phone = Phone()
    done = [deliver(data, FAILED, [phone], "fail") for _ in range(2)]

    assert phone.got == ["disk_space fails"]
    assert done[0].error is not None
    assert data.exists() is (what != "missing")


def test_two_nodes_of_a_user_have_each_their_own(data, tmp_path, runtime, full):
    """Both are told of."""
    phone = Phone()
    deliver(data, FAILED, [phone], "fail")
    deliver(tmp_path / "other", FAILED, [phone], "fail")

    assert phone.got == ["disk_space fails"] * 2
    assert len(list((runtime / "hearthnet-doctor").iterdir())) == 2


def test_other_folder_is_private(data, runtime, full):
    """It has the details of checks."""
    deliver(data, FAILED, [Phone()], "fail")
    folder = runtime / "hearthnet-doctor"

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.name == f"{hashlib.sha256(bytes(data)).hexdigest()[:16]}.json"  # it is found again after an update


@pytest.mark.parametrize(
    ("owners", "used"),
    [
        ((7, 7), "run/hearthnet-doctor"),
        ((7, None), "run/hearthnet-doctor"),
        ((None, 7), "unit"),
        ((8, 7), "unit"),
        ((0, 7), "unit"),
        ((8, 8), "memory/hearthnet-doctor-7"),
        ((0, 0), "memory/hearthnet-doctor-7"),
        ((None, None), "memory/hearthnet-doctor-7"),
    ],
)
def test_first_folder_of_this_user_is_used(data, runtime, full, tmp_path, monkeypatch, owners, used):
    """Its runtime folder, that of the unit, or one in memory: those of users with a lower or higher number are not."""
    for name in ("run/hearthnet-doctor", "unit", "memory"):
        (tmp_path / name).mkdir(mode=0o700)
    owned = dict(zip((runtime, tmp_path / "unit"), owners, strict=True))
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    monkeypatch.setattr(module, "owner_of", owned.get)
    monkeypatch.setattr(module, "exact_folder", lambda path: os.open(path, os.O_RDONLY | os.O_DIRECTORY))

    assert deliver(data, FAILED, [Phone()], "fail").folder == tmp_path / used


@pytest.mark.parametrize("variable", ["", "run"])
def test_runtime_folder_without_a_path_from_the_root_is_none(data, runtime, full, tmp_path, monkeypatch, variable):
    """It would be another one for each directory that a doctor is started in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", variable)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    assert deliver(data, FAILED, [Phone()], "fail").folder == tmp_path / f"hearthnet-doctor-{os.geteuid()}"


def test_other_folder_is_not_made_before_it_is_needed(data, runtime):
    """Nor is anything left in one that another node has made."""
    deliver(data, FAILED, [Phone()], "fail")
    assert list(runtime.iterdir()) == []
    (runtime / "hearthnet-doctor").mkdir(mode=0o700)
    (runtime / "hearthnet-doctor" / "another.json").touch()

    assert deliver(data, WELL, [Phone()], "fail").error is None
    assert [path.name for path in (runtime / "hearthnet-doctor").iterdir()] == ["another.json"]


@pytest.mark.parametrize("trap", ["link", "open to others", "a file"])
def test_folder_that_another_user_may_have_made_is_not_used(data, runtime, full, tmp_path, trap):
    """Without another one each run tells again, and says so."""
    folder, target = runtime / "hearthnet-doctor", tmp_path / "target"
    target.mkdir(mode=0o700)
    if trap == "link":
        folder.symlink_to(target)
    elif trap == "a file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    phone = Phone()
    done = [deliver(data, FAILED, [phone], "fail") for _ in range(2)]

    assert phone.got == ["disk_space fails"] * 2
    assert {one.folder for one in done} == {None}
    assert list(target.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of another user")
def test_folder_of_another_user_is_not_used(data, runtime, full):
    """Neither theirs, nor one in theirs."""
    folder = runtime / "hearthnet-doctor"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65_534, 65_534)
    with pytest.raises(PermissionError):
        files.exact_folder(folder)
    os.chown(runtime, 65_534, 65_534)
    deliver(data, FAILED, [Phone()], "fail")

    assert list(folder.iterdir()) == []


def test_link_in_the_place_of_the_state_is_replaced(data, tmp_path):
    """What it leads to is neither read nor written."""
    target = tmp_path / "target"
    target.write_bytes(b"{}")
    (data / STATE_FILE).symlink_to(target)
    deliver(data, FAILED, [Phone()], "fail")

    assert target.read_bytes() == b"{}"
    assert not (data / STATE_FILE).is_symlink()
    assert orjson.loads((data / STATE_FILE).read_bytes())["version"] == 1


def test_pipe_in_the_place_of_the_state_is_replaced(data):
    """A doctor that waited for a writer would tell nothing."""
    os.mkfifo(data / STATE_FILE)
    phone = Phone()
    deliver(data, FAILED, [phone], "fail")

    assert phone.got == ["disk_space fails"]
    assert (data / STATE_FILE).is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_state_that_root_writes_is_the_folders_owners(data, monkeypatch):
    """It is given away before it has its name, so that no other file can be put in its place."""
    os.chown(data, 65_534, 65_534)
    named = []
    real = os.replace

    def replace(source, target, *, src_dir_fd, dst_dir_fd):
        named.append(os.stat(source, dir_fd=src_dir_fd).st_uid)
        real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "chown", None)
    deliver(data, FAILED, [Phone()], "fail")

    assert set(named) == {65_534}
    assert (data / STATE_FILE).stat().st_uid == 65_534


def test_folder_that_becomes_a_link_meanwhile_changes_nothing(data, tmp_path):
    """The state goes where it was read."""
    elsewhere, moved = tmp_path / "elsewhere", tmp_path / "moved"
    elsewhere.mkdir()
    with Kept(data) as kept:
        data.rename(moved)
        data.symlink_to(elsewhere)
        kept.write(b"{}")

    assert list(elsewhere.iterdir()) == []
    assert (moved / STATE_FILE).read_bytes() == b"{}"


def test_two_doctors_at_once_tell_once(data, runtime):
    """Each waits for the other."""
    phone = Phone()
    threads = [threading.Thread(target=deliver, args=(data, FAILED, [phone], "fail")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert phone.got == ["disk_space fails"]


@pytest.mark.parametrize("places", ["data", "other", "both"])
def test_doctor_that_waits_too_long_tells_nothing(data, runtime, monkeypatch, places):
    """The other one tells: its state is being changed."""
    monkeypatch.setattr(module, "_LOCK_S", 0.05)
    if places == "both":
        Path(runtime, "hearthnet-doctor").mkdir(mode=0o700)
    elif places == "other":
        data.rmdir()
        deliver(data, WELL, [Phone()], "fail")
    phone = Phone()
    held = data if places == "data" else Path(runtime, "hearthnet-doctor")
    with files.locked_folder(held, 1.0), pytest.raises(TimeoutError, match="another program of ours"):
        deliver(data, FAILED, [phone], "fail")

    assert phone.got == []
    for folder in filter(Path.exists, (data, held)):
        with files.locked_folder(folder, 1.0):  # the one that gave up holds nothing
            pass
    deliver(data, FAILED, [phone], "fail")
    assert phone.got == ["disk_space fails"]


def test_what_was_told_while_the_folder_was_away_is_known_when_it_is_back(data, runtime):
    """Its own file, written more often, knows nothing of that; and the other nothing of what was told before."""
    phone = Phone()
    for results in (FAILED, WELL, WELL):
        deliver(data, results, [phone], "fail")
    data.rename(data.with_name("unplugged"))
    deliver(data, AWAY, [phone], "fail")
    data.with_name("unplugged").rename(data)
    for _ in range(3):
        deliver(data, AWAY_WELL, [phone], "fail")

    assert phone.got[2:] == ["node_files fails", "node_files is well again"]


def test_what_waited_while_the_folder_was_away_is_sent_when_it_is_back(data, runtime):
    """After what waited before; what was told meanwhile is not told again."""

    class Silent(Phone):
        key = "fake:silent"
        is_down = True

        def send(self, message):
            """Takes a message once the network is back."""
            if self.is_down:
                raise ChannelError("no network")
            super().send(message)

    phone, silent = Phone(), Silent()
    deliver(data, FAILED, [phone, silent], "fail")
    data.rename(data.with_name("unplugged"))
    for _ in range(2):
        deliver(data, AWAY, [phone, silent], "fail")
    data.with_name("unplugged").rename(data)
    silent.is_down = False
    deliver(data, [*FAILED, *AWAY], [phone, silent], "fail")

    assert phone.got == ["disk_space fails", "node_files fails"]
    assert silent.got == ["2 checks failing"]


def test_check_that_was_well_again_meanwhile_is_quiet_for_an_hour(data, runtime):
    """The data folder's own file does not know that either."""
    phone = Phone()
    deliver(data, WELL, [phone], "fail")
    data.rename(data.with_name("unplugged"))
    for results in (AWAY, AWAY_WELL, AWAY_WELL):
        deliver(data, results, [phone], "fail")
    data.with_name("unplugged").rename(data)
    deliver(data, AWAY, [phone], "fail")

    assert phone.got == ["node_files fails", "node_files is well again"]


def test_what_waits_in_both_states_is_bounded(data, runtime):
    """The newest changes are kept."""

    class Silent(Phone):
        def send(self, message):
            """Takes none."""
            raise ChannelError("no network")

    def fail(first):
        results = [{**FAILED[0], "name": f"check_{number}"} for number in range(first, first + 40)]
        deliver(data, results, [Silent()], "fail")

    fail(0)
    data.rename(data.with_name("unplugged"))
    fail(40)
    data.with_name("unplugged").rename(data)
    with opened(data) as told:
        names = [event.name for event in told.pending[Phone.key]]

    assert names == [f"check_{number}" for number in range(30, 80)]


def test_other_folder_that_another_doctor_has_just_made_is_shared(data, runtime):
    """Both would tell else."""
    data.rmdir()
    folder = runtime / "hearthnet-doctor"
    with Kept(data) as kept:
        folder.mkdir(mode=0o700)
        kept.write(b"{}")

    assert kept.folder == folder

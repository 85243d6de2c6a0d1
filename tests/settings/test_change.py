"""Settings are changed in the file only if the models take them."""

from __future__ import annotations

import os
import stat
import threading
import tomllib

import pytest

from hearthnet.config import default_path
from hearthnet.errors import ConfigError
from hearthnet.settings import change as change_module
from hearthnet.settings.change import change, check


@pytest.fixture
def file():
    """The standard file with a comment of a person."""
    default_path().parent.mkdir(parents=True)
    default_path().write_text("# mine\n[transport]\nport = 7081\n", "utf-8")
    return default_path()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("transport.port", "7082", 7082),
        ("transport.host", "127.0.0.1", "127.0.0.1"),
        ("transport.host", "'::1'", "::1"),
        ("observability.eco", "true", True),
        ("observability.log_level", "debug", "debug"),
        ("observability.slow_ms", "10", 10),
        ("observability.data_dir", "/srv/my data", "/srv/my data"),
        ("observability.redact_keys", '["house code"]', ["house code"]),
        ("community.community_id", "123", "123"),  # a number is a text where a text is wanted
        ("doctor.webhook", "${TOPIC}", "${TOPIC}"),
    ],
)
def test_value_is_toml_or_a_plain_text(file, name, text, value, monkeypatch):
    """Whichever the model takes; the file keeps its comments and becomes private."""
    monkeypatch.setenv("TOPIC", "https://ntfy.example.org/x")
    done = change(None, name, text)

    section, _, key = name.partition(".")
    assert tomllib.loads(file.read_text("utf-8"))[section][key] == value == done.after
    assert file.read_text("utf-8").startswith("# mine\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("transport.port", "0", "greater than or equal to 1"),
        ("transport.port", "seven", "valid integer"),
        ("transport.port", "true", "a boolean is not a number"),
        ("transport.port", "42424", "is also the port of"),
        ("observability.log_level", "loud", "debug"),
        ("observability.redact_patterns", '["("]', "redact_patterns"),
        ("transport.tls_cert", "/x.pem", "one is set without the other"),
        ("doctor.webhook", "ftp://s3cret", r"\[redacted\]"),
        ("doctor.command", "tell s3cret", r"\[redacted\]"),
        ("transport.host", "${NOT_SET_ANYWHERE}", "the environment has no NOT_SET_ANYWHERE"),
        ("transport.prot", "1", "there is no setting"),
    ],
)
def test_value_that_its_model_refuses_is_not_written(file, name, text, message):
    """The error is the model's."""
    before = file.read_bytes()
    with pytest.raises(ConfigError, match=message) as refused:
        change(None, name, text)

    assert file.read_bytes() == before
    assert "s3cret" not in refused.value.message


def test_missing_standard_file_is_made_with_its_comments():
    """As `init` writes it; a file that was named is not."""
    change(None, "transport.port", "7082")

    assert "# Port of the HTTP server" in default_path().read_text("utf-8")
    with pytest.raises(ConfigError, match="does not exist"):
        change(default_path().with_name("other.toml"), "transport.port", "7082")


def test_file_with_two_mistakes_can_be_mended_one_by_one(file):
    """What was wrong before is no reason to refuse, and is said."""
    file.write_text("[transport]\nport = 0\nmax_body_bytes = 1\n", "utf-8")
    done = change(None, "transport.port", "7082")

    assert [error.field for error in done.remaining] == ["transport.max_body_bytes"]
    assert change(None, "transport.max_body_bytes", "2048").remaining == []
    assert check(None) == (file, [])


def test_check_names_all_mistakes(file):
    """Not only the first."""
    file.write_text("[transport]\nport = 0\nprot = 1\n[nonsense]\n", "utf-8")

    assert [error.field for error in check(None)[1]] == ["transport.port", "transport.prot", "nonsense"]


def test_setting_is_removed_for_its_default(file):
    """It stays as a comment."""
    done = change(None, "transport.port", None)

    assert file.read_text("utf-8") == "# mine\n[transport]\n#port = 7080\n"
    assert (done.before, done.after) == (7081, None)
    assert change(None, "transport.port", None).before is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the file of another")
def test_file_of_another_user_stays_theirs(file, monkeypatch):
    """The node's user has to read it. It is given away before it has its name, which may be another file's then."""
    os.chown(file, 65_534, 65_534)
    monkeypatch.setattr(os, "chown", None)
    change(None, "transport.port", "7082")

    assert (file.stat().st_uid, file.stat().st_gid) == (65_534, 65_534)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_new_file_of_root_is_the_folders_owners(home):
    """As of who calls sudo."""
    default_path().parent.mkdir(parents=True)
    os.chown(default_path().parent, 65_534, 65_534)
    change(None, "transport.port", "7082")

    assert (default_path().stat().st_uid, default_path().stat().st_gid) == (65_534, 65_534)


def test_link_to_the_file_stays_a_link(file, tmp_path):
    """As of those who keep their settings elsewhere."""
    moved = tmp_path / "settings.toml"
    file.rename(moved)
    file.symlink_to(moved)
    change(None, "transport.port", "7082")

    assert file.is_symlink()
    assert "port = 7082" in moved.read_text("utf-8")


def test_file_that_is_no_toml_is_left_alone(file):
    """With the line that is wrong."""
    file.write_text("[transport\n", "utf-8")
    with pytest.raises(ConfigError, match="line 1"):
        change(None, "transport.port", "7082")
    with pytest.raises(ConfigError, match="line 1"):
        check(None)

    assert file.read_text("utf-8") == "[transport\n"


def test_changes_at_the_same_time_are_all_kept(file):
    """One writer at a time."""
    wanted = {
        "transport.port": "7082",
        "observability.eco": "true",
        "bus.prefer_local": "false",
        "transport.hosts": '["a"]',
    }
    threads = [threading.Thread(target=change, args=(None, *pair)) for pair in wanted.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert tomllib.loads(file.read_text("utf-8")) == {
        "transport": {"port": 7082, "hosts": ["a"]}, "observability": {"eco": True}, "bus": {"prefer_local": False},
    }  # fmt: skip


def test_link_that_is_put_in_place_of_the_file_is_not_followed(tmp_path, monkeypatch):
    """The folder's user holds its lock until root waits for it, and root would copy what only root can read."""
    path, secret = tmp_path / "config.toml", tmp_path / "secret.toml"
    path.write_text("[transport]\nport = 7080\n")
    secret.write_text("[node]\nname = 'hidden'\n")
    lock = change_module.locked_folder

    def locked_late(folder, wait_s):
        path.unlink()
        path.symlink_to(secret)
        return lock(folder, wait_s)

    monkeypatch.setattr(change_module, "locked_folder", locked_late)
    with pytest.raises(OSError, match=r"config\.toml"):
        change(path, "transport.port", "7081")

    assert path.is_symlink()
    assert secret.read_text() == "[node]\nname = 'hidden'\n"

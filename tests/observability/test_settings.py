"""Settings as a program passes them: which folders are filled in, and what cannot be."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.reachable import reachable

from hearthnet import get_recent, trace
from hearthnet.config import Config, ObservabilityConfig, load, save
from hearthnet.config_file import standard_paths
from hearthnet.errors import ConfigError
from hearthnet.observability import logging as node_logging
from hearthnet.observability import telemetry
from hearthnet.observability.settings import complete


@pytest.mark.parametrize("given", [{}, {"data_dir": "a"}, {"log_dir": "b"}, {"data_dir": "a", "log_dir": "b"}])
def test_each_folder_that_is_not_given_is_the_standard_one(given):
    """Each by itself, as in config.toml; all are absolute."""
    found = complete(ObservabilityConfig(**given))

    standard = standard_paths()
    assert found.data_dir == (Path.cwd() / "a" if "data_dir" in given else standard.data_dir)
    assert found.log_dir == (Path.cwd() / "b" if "log_dir" in given else standard.log_dir)


def test_other_settings_stay():
    """Only the folders are filled in, and a second time changes nothing."""
    given = ObservabilityConfig(log_level="warning", flush_interval_s=0.5)
    found = complete(given)

    assert found.model_copy(update={"data_dir": None, "log_dir": None}) == given
    assert complete(found) == found


@pytest.fixture
def homeless(monkeypatch):
    """A user without a home folder, as a container that runs as any uid has."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", str)  # as it does without an account
    monkeypatch.setattr("pathlib.Path.expanduser", lambda path: path)


@pytest.mark.usefixtures("homeless")
def test_user_without_a_home_folder_ends_no_program(tmp_path, capsys):
    """A folder that is given is used; without one the records are in memory, and the console says so."""
    assert complete(tmp_path / "runs").data_dir == tmp_path / "runs"
    assert complete(ObservabilityConfig(data_dir=tmp_path)).log_dir is None
    with telemetry.open() as opened, trace("work"):
        assert opened.error == "this user has no home folder, and no folder is given"

    assert "telemetry is kept in memory only" in capsys.readouterr().err
    assert [one.capability for one in get_recent(1)] == ["work"]


@pytest.mark.usefixtures("homeless")
def test_user_without_a_home_folder_still_hears_of_a_wrong_setting(monkeypatch, tmp_path):
    """That one is a mistake, wherever the file is."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    save(Config())
    assert complete().data_dir is None
    (tmp_path / "hearthnet" / "config.toml").write_text("[observability]\nslow_ms = 'soon'\n")
    with pytest.raises(ConfigError, match="slow_ms"):
        complete()


@pytest.fixture(params=["device", "file", "loop"])
def no_home(request, monkeypatch, tmp_path):
    """A home that is no folder, as system accounts have; the standard folders are below it."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    (tmp_path / "file").touch()
    home = {"device": Path("/dev/null"), "file": tmp_path / "file", "loop": loop}[request.param]
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.mark.usefixtures("no_home")
def test_home_that_is_no_folder_ends_no_program(tmp_path, capsys):
    """There is no config.toml in it, and no store."""
    assert complete(tmp_path / "runs").data_dir == tmp_path / "runs"
    with telemetry.open() as opened, trace("work"):
        assert "cannot be written" in opened.error

    assert "telemetry is kept in memory only" in capsys.readouterr().err
    assert [one.capability for one in get_recent(1)] == ["work"]


@pytest.fixture
def home_of_another(monkeypatch, tmp_path, as_nobody):
    """A program that another user runs, with HOME as it was, as after `su`; that home has settings."""
    reachable(tmp_path)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    save(Config())
    home.chmod(0o700)
    with as_nobody():
        yield home


def test_home_of_another_user_ends_no_program(home_of_another, capsys):
    """Its settings are not this user's: the defaults apply, also in a folder that is given, and the program is told."""
    assert complete("/somewhere/runs").data_dir == Path("/somewhere/runs")
    assert complete(ObservabilityConfig(data_dir=Path("/somewhere"))).log_dir is None
    with telemetry.open() as opened, trace("work"):
        assert "Permission denied" in opened.error

    said = capsys.readouterr().err
    assert f"{home_of_another}/.config/hearthnet/config.toml cannot be read: Permission denied" in said.replace(
        "\n", " "
    )
    assert "telemetry is kept in memory only" in said
    assert [one.capability for one in get_recent(1)] == ["work"]


@pytest.mark.usefixtures("home_of_another")
def test_node_and_command_do_not_guess():
    """They are for this home: other settings may open another port."""
    with pytest.raises(ConfigError, match="Permission denied"):
        load()


def test_own_file_that_may_not_be_read_ends_the_program(monkeypatch, tmp_path, as_nobody):
    """As root leaves one: it may have rules of redaction, and whose settings they are is not in doubt."""
    reachable(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    save(Config())
    for folder in (tmp_path / "own", tmp_path / "own" / "hearthnet"):
        folder.chmod(0o755)
    with as_nobody(), pytest.raises(ConfigError, match="Permission denied"):
        complete()


def test_no_settings_are_those_of_the_users_file(tmp_path):
    """Without any, a program has what `hearthnet run` would have."""
    assert complete() == complete(ObservabilityConfig())
    save(Config(observability=ObservabilityConfig(data_dir=tmp_path / "data", max_disk_mb=99)))

    assert (complete().data_dir, complete().max_disk_mb) == (tmp_path / "data", 99)
    assert complete().log_dir == standard_paths().log_dir


@pytest.mark.parametrize("call", [telemetry.open, node_logging.configure])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_level", "loud"),
        ("flush_interval_s", -1),
        ("max_disk_mb", 1),
        ("slow_ms", "soon"),
        ("data_dir", 5),
        ("redact_patterns", ("(",)),
    ],
)
def test_setting_that_cannot_be_is_an_error(call, name, value):
    """Pydantic checks no copy: here it is, the setting is named, and nothing is left open."""
    wrong = ObservabilityConfig().model_copy(update={name: value})
    with pytest.raises(ConfigError, match=name) as raised:
        call(wrong)

    assert raised.value.field.startswith(f"observability.{name}")
    assert telemetry.opened() is None
    assert not standard_paths().data_dir.exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"log_lvl": "debug"}, "[observability] log_lvl: no such setting; did you mean log_level?"),
        ({"colour": 1}, "[observability] colour: no such setting; there are: log_level, log_dir, "),
        ({"log_level": "loud"}, "[observability] log_level: 'loud': input should be 'debug', 'info', "),
        ({"max_disk_mb": 1}, "[observability] max_disk_mb: 1: input should be greater than or equal to 64"),
    ],
)
def test_programs_settings_that_cannot_be(given, said):
    """The same error where they are made as where they are used."""
    with pytest.raises(ConfigError) as raised:
        ObservabilityConfig(**given)

    assert (raised.value.code, raised.value.field) == ("invalid_field", f"observability.{next(iter(given))}")
    assert str(raised.value).startswith(said)


def test_level_in_capitals_is_the_level():
    """As the standard library writes them; a file may, too."""
    assert ObservabilityConfig(log_level="DEBUG").log_level == "debug"
    assert Config.model_validate({"observability": {"log_level": "Warning"}}).observability.log_level == "warning"


def test_settings_can_be_copied_and_pickled():
    """They are checked when they are made, not when Python makes them again."""
    given = ObservabilityConfig(log_level="error", max_disk_mb=99)
    assert pickle.loads(pickle.dumps(given)) == copy.deepcopy(given) == given.model_copy() == given


@pytest.mark.parametrize("given", [Config(), SimpleNamespace(log_level="info"), {"log_level": "info"}])
def test_anything_but_the_section_is_an_error(given):
    """Above all the whole settings: the error says what to pass."""
    with pytest.raises(TypeError, match=r"config\.observability.: got a value of type \w+$"):
        complete(given)


@pytest.mark.parametrize("kind", [str, Path])
def test_folder_means_the_same_settings_there(tmp_path, monkeypatch, kind):
    """Those of the user's file, with database and logs in the folder; `~` and relative names are this process's."""
    save(Config(observability=ObservabilityConfig(data_dir=tmp_path / "data", max_disk_mb=99)))
    monkeypatch.chdir(tmp_path)
    found = complete(kind("runs"))

    assert (found.data_dir, found.log_dir) == (tmp_path / "runs", tmp_path / "runs" / "logs")
    assert found.max_disk_mb == 99
    assert complete(kind("~/runs")).data_dir == Path.home() / "runs"


@pytest.mark.parametrize("folder", ["", "~nobody_of_this_name/runs"])
def test_folder_that_is_none_is_an_error(folder):
    """A variable that is not set is not the current folder."""
    with pytest.raises(ConfigError):
        telemetry.open(folder)
    assert telemetry.opened() is None


@pytest.mark.parametrize("given", [5, b"runs", ["runs"], SimpleNamespace(data_dir=None)])
def test_what_is_neither_folder_nor_settings_is_an_error(given):
    """Said with both."""
    with pytest.raises(TypeError, match="a folder, or an ObservabilityConfig"):
        telemetry.open(given)


def test_open_again_in_a_notebook_changes_nothing(tmp_path):
    """A cell is run twice; with other arguments it opens the other store, or changes the console."""
    telemetry.keep_open(tmp_path / "a")
    first = telemetry.opened()
    telemetry.keep_open(tmp_path / "a")
    assert telemetry.opened() is first
    telemetry.keep_open(tmp_path / "a", console="off")
    assert (telemetry.opened().console, telemetry.opened().data_dir) == ("off", tmp_path / "a")
    telemetry.keep_open(tmp_path / "b", console="off")
    assert telemetry.opened().data_dir == tmp_path / "b"
    with telemetry.open(tmp_path / "c"), pytest.raises(RuntimeError, match="open"), telemetry.open(tmp_path / "d"):
        pass

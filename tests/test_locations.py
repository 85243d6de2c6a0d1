"""Reading locations without the models gives the same paths and errors as with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.longer import examples

from hearthnet import config_file, locations
from hearthnet.config import Config, default_config, load, resolve_paths, save
from hearthnet.config_file import RETIRED_TRANSPORT
from hearthnet.errors import ConfigError
from hearthnet.locations import bytes_of, files_in, locate, locations_of, store_in
from hearthnet.observability.redaction.rules import forget_secrets, scrub

BACKEND = '[[llm.backends]]\nname = "{}"\nurl = "{}"\nmodel = "m"\n'
PLAIN = [
    "",
    '[observability]\ndata_dir = "~/data"\nlog_dir = "logs"',
    '[observability]\ndata_dir = ""\nslow_ms = 1\nstall_s = 0.5\nmax_disk_mb = 64',
    '[identity]\nkeys_dir = "/k"\n[community]\ncommunity_id = "c"\nstate_dir = "s"\n[file]\nblobs_dir = "b"',
    '[transport]\nhost = "::1"\nport = 9000\ntls_cert = "c.pem"\ntls_key = "k.pem"',
    '[transport]\ntls_cert = ""\ntls_key = ""',
    '[observability]\ndata_dir = "${HOME}/x"',
    BACKEND.format("ollama", "http://user:s3cr3t-Pass1@h:1") + 'api_key_env = "SOME_KEY"',
    "[transport]\nmax_connections_per_address = 'any'",
    "[discovery]\nudp_port = 7000\n[bus]\nlocal_load_threshold = 1\n[emergency]\nprobe_targets = []",
]
ODD = ['[transport]\nport = "${PORT}"']
# Mistakes in other settings, which only the models check.
UNSEEN = [
    '[bus]\nprefer_local = "perhaps"',
    "[transport]\nport = 42424",
    "[discovery]\nudp_port = 7080",
    '[transport]\ntls_cert = "c.pem"',
    "[observability]\nslow_ms = nan",
    '[observability]\nlog_level = "loud"',
    BACKEND.format("gpt", "http://h"),
    "llm.backends = 1",
    "llm.backends = [1]",
]
INVALID = [
    "[transport",
    "transport = 5",
    "[[transport]]",
    "[transprot]",
    "[transport]\nprot = 1",
    '[observability]\ndata_dri = "/x"',
    "[transport]\nport = 0",
    "[transport]\nport = true",
    '[transport]\nhost = "${ABSENT}"',
    '[observability]\ndata_dir = "~nobody-has-this-name/data"',
    '[file]\nblobs_dir = "~nobody-has-this-name"\n[bus]\nx = 1',
    "a = 1",
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 70_000_000),
    st.floats(-1, 5_000),
    st.sampled_from([float("nan"), float("inf"), "", "info", "x", "~", [], ["x"], [1], {}]),
    st.text(max_size=5),
)
FIELDS = [(name, key) for name, field in Config.model_fields.items() for key in field.annotation.model_fields]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a config.toml and returns its path; the environment has the variables of the examples."""
    monkeypatch.setenv("PORT", "9100")
    monkeypatch.setenv("SOME_KEY", "key-of-the-backend")
    monkeypatch.delenv("ABSENT", raising=False)

    def write_text(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text, "utf-8")
        return path

    return write_text


def outcome(read):
    """Returns the locations, or the content of the error."""
    try:
        return read()
    except ConfigError as error:
        return error.code, error.field, error.message, error.hint


def both(path):
    """Returns the outcome without the models, and with them."""
    return outcome(lambda: locate(path)), outcome(lambda: locations_of(resolve_paths(load(path))))


@pytest.mark.parametrize("text", PLAIN + ODD + INVALID)
def test_both_ways_agree(write, text):
    """Both give the same locations, or the same error."""
    short, full = both(write(text))

    assert short == full
    assert isinstance(short, locations.Locations) == (text not in INVALID)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_settings_need_no_models(write, text):
    """The settings of most nodes are read without pydantic."""
    assert loads_pydantic(write(text)) is False


@pytest.mark.parametrize("config", ["saved", "none"])
def test_what_init_writes_needs_no_models(tmp_path, config):
    """Without a configuration file pydantic is not imported either."""
    assert loads_pydantic(save(default_config(), tmp_path / "config.toml") if config == "saved" else None) is False


@pytest.mark.parametrize("text", UNSEEN)
def test_mistakes_elsewhere_keep_nobody_from_files(write, text):
    """An invalid value of another setting does not keep a command from reading files."""
    path = write(text)
    assert isinstance(locate(path), locations.Locations)
    with pytest.raises(ConfigError):
        load(path)


def test_every_setting_is_known():
    """The list of settings is complete: a missing one would import pydantic, a removed one would be accepted."""
    models = {name: set(field.annotation.model_fields) for name, field in Config.model_fields.items()}
    models["transport"] |= set(RETIRED_TRANSPORT)
    assert models == locations._KEYS


def test_the_odd_is_left_to_the_models(write):
    """A value that is not obviously valid is left to the models."""
    assert loads_pydantic(write(ODD[0])) is True


def loads_pydantic(path):
    """Returns True if locating imports pydantic, in a new process."""
    script = "import sys; from pathlib import Path; from hearthnet.locations import locate\n"
    script += "locate(*map(Path, sys.argv[1:])); print('pydantic' in sys.modules)"
    command = [sys.executable, "-c", script, *([] if path is None else [str(path)])]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(4), deadline=None)
@given(tree=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
def test_what_the_models_accept_leads_to_the_same_place(tmp_path, tree):
    """For any value that the models accept, both ways give the same files and port."""
    import tomli_w

    document: dict[str, dict[str, object]] = {}
    for (section, key), value in tree.items():
        if value is not None:
            document.setdefault(section, {})[key] = value
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(document), "utf-8")
    short, full = both(path)

    assert short == full or not isinstance(full, locations.Locations)


def test_secrets_are_known_after_the_short_way_too(write, monkeypatch):
    """Secrets named in the settings are redacted in printed errors."""
    monkeypatch.setenv("PLACE", "/srv/unsayable-place")
    forget_secrets()
    locate(write(PLAIN[7] + '\n[observability]\nlog_dir = "${PLACE}"'))
    printed = scrub("s3cr3t-Pass1 key-of-the-backend /srv/x")
    forget_secrets()

    assert "s3cr3t-Pass1" not in printed
    assert "key-of-the-backend" not in printed


@pytest.mark.parametrize("home", ["/home/ada", "/", "relative", "", None])
@pytest.mark.parametrize("base", ["/srv/base", "/srv/base/", "relative", " ", "", None])
def test_folders_are_those_of_platformdirs(monkeypatch, home, base):
    """For any home and XDG variables the default paths are those of platformdirs, which once took relative ones."""
    for name, value in (("HOME", home), *((f"XDG_{kind}_HOME", base) for kind in ("CONFIG", "DATA", "STATE"))):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    expected = {
        kind: Path(getattr(platformdirs, f"user_{kind}_dir")("hearthnet")) for kind in ("config", "data", "log")
    }

    for kind, path in expected.items():
        if path.is_absolute():
            assert config_file._user_dir(kind) == path
        elif home in ("/home/ada", "/"):
            assert config_file._user_dir(kind).is_relative_to(home)
        else:
            with pytest.raises(ConfigError, match="no home folder"):
                config_file._user_dir(kind)


def test_size_of_a_closed_folder_is_unknown(tmp_path, as_nobody):
    """It counts as none, and is no error: the rest of the status can still be shown."""
    (tmp_path / "log").mkdir(mode=0o700)
    (tmp_path / "log" / "a.log").write_bytes(b"12345")
    with as_nobody():
        assert bytes_of(tmp_path / "log") == 0
    assert bytes_of(tmp_path / "log") == 5


def test_store_in_one_folder(home, monkeypatch, tmp_path):
    """The folder has the database, and `logs` in it the JSON logs; `~` and relative paths are those of this process."""
    monkeypatch.chdir(tmp_path)

    assert store_in("runs") == (tmp_path / "runs", tmp_path / "runs" / "logs")
    assert store_in("~/runs").data_dir == home / "runs"
    assert not (tmp_path / "runs").exists()


def test_files_are_read_as_a_store_in_one_folder_has_them(tmp_path):
    """By its folder, and by its database."""
    (tmp_path / "logs").mkdir()

    assert files_in(tmp_path) == files_in(tmp_path / "telemetry.db") == store_in(tmp_path)


def test_logs_beside_a_store_are_found(tmp_path):
    """A program may have named its two folders itself."""
    data, logs = tmp_path / "data", tmp_path / "log"
    data.mkdir()
    logs.mkdir()
    (logs / "2026-05-26.log").write_text("{}\n")

    assert files_in(data).log_dir.resolve() == logs


def test_files_without_logs(tmp_path):
    """A folder without any JSON logs has the place for them, where there is nothing."""
    assert files_in(tmp_path / "nothing") == store_in(tmp_path / "nothing")

"""`hearthnet tools` prints each file, or writes it where it is told to, and replaces nothing unasked."""

from __future__ import annotations

import json
import stat

import pytest

from hearthnet.cli.main import main
from hearthnet.tools.files import FILES


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Runs the command line in this process: its exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as ended:
        main(["tools", *arguments])
    return ended.value.code, *capsys.readouterr()


@pytest.mark.parametrize("name", FILES)
def test_file_is_printed_as_it_is(capsys, name):
    """Byte for byte, so that a redirection makes the same file as `--out`."""
    assert run(capsys, name) == (0, FILES[name].text(), "")


def test_file_is_written_for_other_users(capsys, tmp_path):
    """Prometheus, which reads the rules, is another user; what exists is replaced with --force alone."""
    path = tmp_path / "hearthnet-alerts.yml"

    assert run(capsys, "alerts", "--out", str(path)) == (0, "", "")
    assert path.read_text("utf-8") == FILES["alerts"].text()
    assert stat.S_IMODE(path.stat().st_mode) & 0o044

    path.write_text("mine")
    code, _, error = run(capsys, "alerts", "--out", str(path))
    assert code == 1
    assert error.splitlines() == [f"error: {path} exists", "hint: replace it with --force, or name another file"]
    assert path.read_text() == "mine"
    assert run(capsys, "alerts", "--out", str(path), "--force")[0] == 0
    assert path.read_text("utf-8") == FILES["alerts"].text()


def test_missing_folder_is_named(capsys, tmp_path):
    """The error has the path."""
    code, _, error = run(capsys, "lnav", "--out", str(tmp_path / "missing" / "hearthnet.json"))

    assert code == 1
    assert error.startswith(f"error: {tmp_path}/missing/hearthnet.json: no such file or directory")


def test_metadata_name_the_database(capsys):
    """Datasette names a database by its file."""
    code, printed, _ = run(capsys, "datasette", "--name", "copy")

    assert code == 0
    assert list(json.loads(printed)["databases"]) == ["copy"]


def test_tools_need_no_node_and_no_settings(capsys, home):
    """Unusable settings do not matter."""
    path = home / ".config" / "hearthnet" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("not = [toml")

    assert run(capsys, "lnav") == (0, FILES["lnav"].text(), "")

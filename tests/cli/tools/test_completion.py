"""Real shells complete commands, options, names and ids; and print nothing else into a prompt."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.sample import make_store
from support import forkserver

from hearthnet import checks
from hearthnet.cli.main import COMMANDS, cli
from hearthnet.cli.tools import completion, names
from hearthnet.config import default_config, resolve_paths
from hearthnet.constants import DATABASE

PATIENCE_S = 60
BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
HEAVY = {"aiosqlite", "cryptography", "fastapi", "httpx", "opentelemetry", "prometheus_client", "pydantic", "rich"}
# What is typed before Tab, and the line that comes of it.
LINES = [
    ("hearthnet telemetry snap", "hearthnet telemetry snapshot"),
    ("hearthnet doctor --check=telemetry_s", "hearthnet doctor --check=telemetry_store"),
    ("hearthnet log level bus=de", "hearthnet log level bus=debug"),
    ("hearthnet log --component transport.auth.s", "hearthnet log --component transport.auth.signing"),
    ("hearthnet trace show 01kshr49", "hearthnet trace show 01KSHR49ERN5AMGH2VGEVKQ67W"),
]


def needs(program: str):
    """Skips a test where a program is missing."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not here (apt-get install)")


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    """The cookbook's store."""
    path = tmp_path_factory.mktemp("sample") / DATABASE
    make_store(path)
    return path


@pytest.fixture
def program(tmp_path, monkeypatch) -> Path:
    """`hearthnet` by its name in a folder that PATH begins with."""
    path = tmp_path / "bin" / "hearthnet"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m hearthnet "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


@pytest.fixture
def store(sample) -> Path:
    """That store as this home's."""
    data_dir = resolve_paths(default_config()).observability.data_dir
    data_dir.mkdir(parents=True)
    shutil.copy(sample, data_dir / DATABASE)
    return data_dir / DATABASE


class Shell:
    """An interactive shell on a terminal."""

    def __init__(self, command: list[str], setup: str) -> None:
        leader, follower = pty.openpty()
        given = {**os.environ, "PS1": "", "TERM": "dumb", "HISTFILE": "", "INPUTRC": os.devnull}
        streams = {"stdin": follower, "stdout": follower, "stderr": follower}
        self.process = subprocess.Popen(command, **streams, env=given, start_new_session=True)
        os.close(follower)
        self.leader = leader
        self.said(f"{setup}; echo rea''dy", "ready")

    def said(self, typed: str, mark: str) -> str:
        """Types a line, and returns what the terminal got up to a mark."""
        os.write(self.leader, f"{typed}\n".encode())
        got = b""
        while mark.encode() not in got:
            assert select.select([self.leader], [], [], PATIENCE_S)[0], got
            got += os.read(self.leader, 65_536)
        return got.decode()

    def completed(self, typed: str) -> str:
        """Types a beginning and Tab, and returns the line, which is then echoed rather than run."""
        shown = self.said(f"{typed}\t\x01echo '{{\x05 }}'E''ND", "}END")
        return re.findall(r"\{([^{}]+?) *\}END", shown)[-1]

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self.leader)


SETUPS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(hearthnet completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -u -D; eval "$(hearthnet completion zsh)"'),
}


@pytest.mark.parametrize("shell", [pytest.param(name, marks=needs(name)) for name in SETUPS])
def test_shell_completes(shell, program, store):
    """Commands, options, and names from the store, without a node."""
    found = Shell(*SETUPS[shell])
    try:
        assert [(typed, found.completed(typed)) for typed, _ in LINES] == LINES
    finally:
        found.close()


@pytest.mark.skipif(not BASH_COMPLETION.exists(), reason="bash-completion is not here")
def test_bash_completion_finds_the_file(home, program):
    """In the folder that the help names, it is loaded at the first Tab."""
    folder = home / ".local" / "share" / "bash-completion" / "completions"
    folder.mkdir(parents=True)
    with (folder / "hearthnet").open("wb") as out:
        subprocess.run(["hearthnet", "completion", "bash"], stdout=out, check=True)
    found = Shell(["bash", "--norc", "--noprofile", "-i"], f". {BASH_COMPLETION}")
    try:
        assert found.completed("hearthnet telemetry snap") == "hearthnet telemetry snapshot"
        assert found.completed("hearthnet doctor --check=telemetry_s") == "hearthnet doctor --check=telemetry_store"
    finally:
        found.close()


@needs("fish")
def test_fish_completes(home, program, store):
    """As the others, with words about each."""
    script = home / "hearthnet.fish"
    script.write_bytes(subprocess.run(["hearthnet", "completion", "fish"], capture_output=True, check=True).stdout)
    asked = "; ".join(f"complete -C '{typed}'; echo END" for typed, _ in LINES)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {script}; {asked}"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    for (typed, line), shown in zip(LINES, done.stdout.split("END\n"), strict=False):
        assert line.rpartition(" ")[2] in shown.replace("\t", "\n").splitlines(), (typed, shown)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("trace bodies notes", "notes.search"),
        ("trace recent --program backup", "backup.py"),
        ("trace 01KSHR49", "01KSHR49ERN5AMGH2VGEVKQ67W"),
        ("autopsy --run 01", "01KSHMN2JG6YHYNTFB5N8MMB05"),
        ("log --component hearthnet.bus", "hearthnet.bus.bus"),
        ("telemetry purge --capability llm", "llm.chat"),
        ("call exp", "experimental.echo"),
        ("log level bus.bus=d", "bus.bus=debug"),
    ],
)
def test_names_come_from_the_store(store, monkeypatch, capsys, line, value):
    """Of the kind that the option or argument takes."""
    monkeypatch.setenv("COMP_WORDS", f"hearthnet {line}")

    assert completion.complete(cli, "bash_complete") == 0
    assert f"plain,{value}" in capsys.readouterr().out.splitlines()


def ask(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Completes a line as bash does."""
    given = {**os.environ, "COMP_WORDS": line, "_HEARTHNET_COMPLETE": "bash_complete", **environment}
    return forkserver.run([sys.executable, "-m", "hearthnet"], env=given)


@pytest.mark.parametrize(
    "settings",
    ["not = [toml", "[observability]\nlog_level = 'loud'", '[observability]\ndata_dir = "${UNSET_NAME}"', "[nonsense]"],
)
def test_broken_settings_complete_commands(home, settings):
    """Names from the store may be missing then, and nothing is printed about it."""
    path = home / ".config" / "hearthnet" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(settings)

    done = ask("hearthnet telem")
    assert (done.stdout.strip(), done.stderr) == ("plain,telemetry", "")
    assert ask("hearthnet trace show ").stderr == ""


@pytest.mark.parametrize("content", [b"", b"no database" * 1_000, None])
def test_unusable_store_completes_nothing(content):
    """An empty file, another file, a folder: no error in the prompt."""
    path = resolve_paths(default_config()).observability.data_dir / DATABASE
    path.parent.mkdir(parents=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    done = ask("hearthnet trace show ")

    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize("line", ["hearthnet nonsense --", "hearthnet 'unclosed", "hearthnet --check", "", "hearthnet"])
def test_odd_lines_are_no_error(line):
    """Nothing is printed but completions, if any."""
    done = ask(line)

    assert done.stderr == ""
    assert all(re.fullmatch(r"plain,[\w-]+|(dir|file),", shown) for shown in done.stdout.split())


@pytest.mark.parametrize("instruction", ["tcsh_complete", "", "bash_nonsense", "_"])
def test_unknown_instruction_is_silent(instruction):
    """A script of another version asks for something unknown: no error in the prompt."""
    assert ask("hearthnet t", _HEARTHNET_COMPLETE=instruction).stderr == ""


def test_config_on_the_line_is_used(tmp_path, sample):
    """The settings that the line names choose the store."""
    path = tmp_path / "other.toml"
    path.write_text(f'[observability]\ndata_dir = "{sample.parent}"\n')

    assert "01KSHR49ERN5AMGH2VGEVKQ67W" in ask(f"hearthnet trace show --config {path} 01").stdout
    assert ask("hearthnet trace show 01").stdout.strip() == ""


def test_completion_is_light(store):
    """No command's completion imports the settings' models, a framework, or the store's writer."""
    lines = ["hearthnet ", *(f"hearthnet {name} -" for name in COMMANDS), "hearthnet trace show 0"]
    program = (
        "import os, sys; from hearthnet.cli.main import cli; from hearthnet.cli.tools.completion import complete\n"
        "for line in sys.argv[1:]:\n"
        "    os.environ['COMP_WORDS'] = line\n"
        "    assert complete(cli, 'bash_complete') == 0; print('END')\n"
        "sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, *lines], capture_output=True, text=True, check=True)

    assert all("plain," in shown for shown in done.stdout.split("END\n")[:-1])
    assert HEAVY.isdisjoint(done.stderr.split())


def test_checks_are_those_of_the_doctor():
    """The list that is completed is the doctor's."""
    assert tuple(check.__name__ for check in checks.ALL) == names.CHECKS


def test_help_names_where_the_file_goes():
    """Each shell's script is printed whole, with nothing on standard error."""
    for shell in ("bash", "zsh", "fish"):
        done = forkserver.run([sys.executable, "-m", "hearthnet", "completion", shell])
        assert (done.returncode, done.stderr) == (0, "")
        assert "_HEARTHNET_COMPLETE" in done.stdout
    assert forkserver.run([sys.executable, "-m", "hearthnet", "completion", "tcsh"]).returncode == 2

"""What outsiders rely on: a licence that is shipped, an index of decisions, a public check of each Python."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
DECISIONS = ROOT / "docs" / "decisions"


def workflow_pythons() -> list[str]:
    """The Python versions that the public workflow runs."""
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    return re.findall(r'"(3\.\d+)"', re.search(r"python: (\[.*\])", text)[1])


def index() -> dict[str, tuple[str, str]]:
    """Each file of the index of decisions with its title and status."""
    rows = re.findall(
        r"^\| \[\d{4}\]\(([^)]+)\) (.+) \| (.+) \|$", (DECISIONS / "README.md").read_text("utf-8"), re.MULTILINE
    )
    return {file: (title, status) for file, title, status in rows}


def title_of(path: Path) -> str:
    """The heading of a decision, without the number that some have."""
    return re.sub(r"^# (\d+\. )?", "", path.read_text("utf-8").splitlines()[0])


@pytest.mark.parametrize("path", sorted(DECISIONS.glob("0*.md")), ids=lambda path: path.stem)
def test_decision_is_in_the_index(path):
    """Under the title that it has, with a status."""
    row = f"| [{path.stem[:4]}]({path.name}) {title_of(path)} | accepted |"
    assert index().get(path.name, ("",))[0] == title_of(path), f"docs/decisions/README.md lacks: {row}"


def test_index_has_nothing_else_and_each_status_is_one():
    """No row is left of a file that is gone; what supersedes a decision exists."""
    files = {path.name for path in DECISIONS.glob("0*.md")}
    numbers = {name[:4] for name in files}
    assert set(index()) == files
    for name, (_, status) in index().items():
        successor = status.removeprefix("superseded by ")
        assert status in {"accepted", "withdrawn"} or (successor in numbers and successor > name[:4]), name


def test_licence_is_whole_and_named():
    """The text is that of Apache 2.0, and the metadata name it as an SPDX expression."""
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "Copyright 2026 HearthNet contributors" in text
    assert {"LICENSE", "SECURITY.md"} <= set(PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])


def test_public_workflow_runs_what_is_claimed():
    """Every Python of the classifiers is checked, by the script that runs on any clean checkout."""
    claimed = {name.rpartition(" ")[2] for name in PROJECT["project"]["classifiers"] if ":: 3." in name}
    assert claimed <= set(workflow_pythons())
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")


def test_hooks_are_lines_of_the_check():
    """What pre-commit runs on a commit is what scripts/check runs."""
    hooks = re.findall(
        r"entry: \.venv/bin/(.+?) --force-exclude", (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    )
    check = (ROOT / "scripts" / "check").read_text("utf-8")
    assert len(hooks) == 2
    for hook in hooks:
        assert re.search(rf"^{hook}\b", check, re.MULTILINE)


def container_lines() -> list[tuple[str, str]]:
    """The instructions of the Containerfile with their arguments."""
    lines = (ROOT / "Containerfile").read_text("utf-8").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word and word != "#"]


def test_container_has_all_that_the_package_is_built_from():
    """What pyproject.toml names is copied, exists, and the node's extra is installed."""
    copies = [rest.split()[:-1] for word, rest in container_lines() if word == "COPY" and "--from" not in rest]
    copied = {name for names in copies for name in names}
    target = PROJECT["tool"]["hatch"]["build"]["targets"]
    needed = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], *target["wheel"]["packages"]}
    assert needed | {"migrations", "pyproject.toml"} <= copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    install = next(rest for word, rest in container_lines() if "pip install" in rest)
    assert re.search(r"\[node\b", install)


def test_container_runs_as_a_user_with_its_data_in_the_volume():
    """It ends with a signal that the node takes, because the shell gives way to it."""
    lines = dict(container_lines())
    assert lines["USER"] == "hearthnet"
    assert lines["VOLUME"] == "/data"
    assert lines["ENV"].startswith("HOME=/data ")
    assert lines["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(lines["CMD"])[2].endswith("&& exec hearthnet run")


def test_commands_of_the_container_are_ones_that_there_are():
    """Its health check asks the doctor, and fails when a check does."""
    from hearthnet.cli.main import _run

    lines = dict(container_lines())
    check = json.loads(lines["HEALTHCHECK"].partition("CMD ")[2])
    assert check[0] == "hearthnet"
    assert _run(["init", "--non-interactive"]) == 0
    assert _run([*check[1:], "--check", "keys_present"]) == 0
    (Path.home() / ".local/share/hearthnet/keys/device.ed25519").chmod(0o644)
    assert _run([*check[1:], "--check", "keys_present"]) == 1

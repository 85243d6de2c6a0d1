"""The documentation agrees with the code: each lists exactly the names of the other."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import get_args

import click
import pytest

from hearthnet import checks
from hearthnet.checks.support.bundle import CONTENTS
from hearthnet.cli.main import COMMANDS, cli
from hearthnet.config import Config, facts_of
from hearthnet.database import TELEMETRY, migrations_dir
from hearthnet.observability import metrics
from hearthnet.observability.middleware.request import duration_seconds  # noqa: F401  # its metrics are on the page
from hearthnet.tools.files import FILES
from hearthnet.transport.admission import refusals as refused
from hearthnet.transport.api import openapi
from hearthnet.transport.app import ROUTERS
from hearthnet.transport.auth import failed_signatures

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs" / "reference.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")


def section(title: str) -> str:
    """Returns a section of the reference without its subsections."""
    text = re.split(rf"\n###? {re.escape(title)}\n", REFERENCE, maxsplit=1)[1]
    return re.split(r"\n###? ", text, maxsplit=1)[0]


def first_cells(text: str) -> set[str]:
    """Returns the names in backticks in the first column of a table."""
    return {
        name
        for row in text.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`([^`]+)`", row.split("|")[1])
    }


def commands() -> set[str]:
    """Returns every command with its full name."""
    found = set()
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        below = command.commands if isinstance(command, click.Group) else {}
        found |= {f"hearthnet {name} {child}" for child in below}
        if not below or command.invoke_without_command:
            found.add(f"hearthnet {name}")
    return found


def schema_names() -> set[str]:
    """Returns the tables and views of telemetry.db."""
    with sqlite3.connect(":memory:") as connection:
        for file in sorted((migrations_dir() / TELEMETRY.name).glob("*.sql")):
            connection.executescript(file.read_text("utf-8"))
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")}
    connection.close()
    return names


def http_routes() -> set[str]:
    """Returns every route with its method."""
    return {f"{method} {route.path}" for router in ROUTERS for route in router.routes for method in route.methods}


def settings() -> set[str]:
    """Returns every setting with its section."""
    return {
        f"{section_name}.{name}"
        for section_name, field in Config.model_fields.items()
        for name in field.annotation.model_fields
    }


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Commands", commands()),
        ("Settings", settings()),
        (
            "Metrics",
            {made.name for made in metrics._instruments.values() if not made.name.startswith("hearthnet_test_")},
        ),
        ("HTTP", http_routes()),
        ("Refused requests", set(get_args(refused.Reason))),
        ("Signatures", set(get_args(failed_signatures.Reason))),
        ("Checks", {check.__name__ for check in checks.ALL}),
        ("The bundle", set(CONTENTS)),
        ("telemetry.db", schema_names()),
    ],
)
def test_reference_is_complete_and_true(title, names):
    """Each list in the reference has exactly the names in the code."""
    assert first_cells(section(title)) == names


def test_settings_are_explained_in_the_words_of_their_models():
    """The reference and config.toml have the same words, which are the models', links aside."""
    meanings = {}
    for row in section("Settings").splitlines():
        if row.startswith("| `"):
            name, _, meaning = (cell.strip() for cell in row.strip("|").split(" | ", 2))
            meanings[name.strip("`")] = re.sub(r"\[([^\]]+)\]\(#[^)]+\)", r"\1", meaning)
    told = {}
    for section_name, field in Config.model_fields.items():
        for key, setting in field.annotation.model_fields.items():
            facts = facts_of(key, setting)
            told[f"{section_name}.{key}"] = f"{setting.description} ({facts})" if facts else setting.description

    assert meanings == told


@pytest.mark.parametrize("owner", [refused, failed_signatures])
def test_every_reason_is_used(owner):
    """Each reason is used somewhere in the transport; mypy checks that no others are."""
    folder = ROOT / "hearthnet" / "transport"
    code = "".join(file.read_text("utf-8") for file in folder.rglob("*.py") if file != Path(owner.__file__))
    assert [reason for reason in get_args(owner.Reason) if f'"{reason}"' not in code] == []


def test_statuses_are_those_of_the_openapi_document():
    """The status table has the codes and the wording of the OpenAPI document."""
    rows = re.findall(r"^\| ([0-9]{3}) \| (.+?) \| (.+) \|$", section("HTTP"), re.MULTILINE)
    listed = {int(status): f"{codes.replace('`', '')}: {meaning}" for status, codes, meaning in rows}
    document = openapi.OPEN | openapi.CALL
    assert set(listed) == set(openapi.STATUSES)
    for status, text in listed.items():
        if ";" not in text.partition(":")[0]:  # otherwise each code has its own wording
            assert text.replace("`", "") == document[status]["description"].replace("`", "")


def test_short_help_is_each_commands_own():
    """The help line shown without importing a command is the first line of the command's own help."""
    context = click.Context(cli)
    for name, (_, text) in COMMANDS.items():
        own = cli.get_command(context, name).help.partition("\n\n")[0].replace("\n", " ").strip()
        assert own.startswith(text.rstrip(".")), name


def test_variables_of_opentelemetry():
    """The table has exactly those that the code reads."""
    text = (ROOT / "docs" / "opentelemetry.md").read_text("utf-8").partition("## Settings")[2].partition("\n## ")[0]
    code = (ROOT / "hearthnet" / "observability" / "otel" / "export" / "settings.py").read_text("utf-8")
    read = {f"OTEL_EXPORTER_OTLP_{name}" for name in re.findall(r'_get\(environment, "([A-Z_]+)"', code)}
    read |= {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_TRACES_EXPORTER", "OTEL_LOGS_EXPORTER"}
    read |= set(re.findall(r'"(OTEL_(?!EXPORTER)[A-Z_]+)"', code))
    proxies = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}

    assert first_cells(text) - proxies == read - {"OTEL_EXPORTER_OTLP_INSECURE"}


def test_tools_page_names_the_alerts_and_the_files():
    """Its table has exactly the alerts, and it has a command for each file."""
    text = (ROOT / "docs" / "tools.md").read_text("utf-8")

    assert first_cells(text) == set(re.findall(r"- alert: (\w+)", FILES["alerts"].text()))
    assert all(f"    hearthnet tools {name} --out" in text or f"&& hearthnet tools {name}" in text for name in FILES)


@pytest.mark.parametrize("page", ["tools.md", "operations.md", "queries.md"])
def test_commands_of_a_page_exist(page):
    """With each of their options."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    for words in re.findall(r"hearthnet ((?:[a-z]+ ?)+)((?: ?--[a-z-]+)*)", text):
        command, names = cli, words[0].split()
        while names and isinstance(command, click.Group) and names[0] in command.list_commands(click.Context(command)):
            command = command.get_command(click.Context(command), names.pop(0))
        if command is not cli:
            known = {option for parameter in command.params for option in parameter.opts}
            assert set(words[1].split()) <= known, words


def test_every_option_is_explained():
    """Every option of every command has a help text."""
    waiting = [cli.get_command(click.Context(cli), name) for name in COMMANDS]
    while waiting:
        command = waiting.pop()
        waiting += list(getattr(command, "commands", {}).values())
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, f"{command.name} {parameter.name}"


def test_help_fits_a_narrow_terminal():
    """The lines that click does not wrap, such as examples, have 80 columns at most."""
    waiting = [(name, cli.get_command(click.Context(cli), name)) for name in COMMANDS]
    while waiting:
        name, command = waiting.pop()
        waiting += [(f"{name} {own}", one) for own, one in getattr(command, "commands", {}).items()]
        text = command.get_help(click.Context(command, terminal_width=80, info_name=name))
        assert [line for line in text.splitlines() if len(line) > 80] == [], name


@pytest.mark.parametrize("text", [README, ARCHITECTURE], ids=["README", "ARCHITECTURE"])
def test_files_that_are_named_exist(text):
    """Every file named in the documents exists."""
    names = set(re.findall(r"`([a-z_/]+(?:\.py|/))`", text)) | set(re.findall(r"\]\(([^)]+)\)", text))
    ours = "".join(f"/{path.relative_to(ROOT).as_posix()}\n" for path in (ROOT / "hearthnet").rglob("*"))

    assert [name for name in sorted(names) if not (ROOT / name).exists() and f"/{name.rstrip('/')}\n" not in ours] == []


def test_names_in_the_architecture_exist():
    """Every method that is named with its class exists in the source."""
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "hearthnet").rglob("*.py"))
    for owner, name in re.findall(r"`([A-Z]\w+)\.(\w+)`", ARCHITECTURE):
        assert f"class {owner}" in source
        assert re.search(rf"(def {name}\(|self\.{name}\b)", source), f"{owner}.{name}"


def test_readme_is_short():
    """README and ARCHITECTURE stay short."""
    assert len(README.splitlines()) < 120
    assert len(ARCHITECTURE.splitlines()) < 200


def test_every_soak_is_named_in_the_documents():
    """What `scripts/soak` can run is in the documents, and they name nothing else."""
    usage = (ROOT / "scripts" / "soak").read_text("utf-8")
    texts = [path.read_text("utf-8") for path in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "operations.md")]

    assert set(re.findall(r"`scripts/soak (\w+)", "".join(texts))) == set(re.findall(r" scripts/soak (\w+)", usage))


def test_no_line_numbers_or_machine_paths():
    """Documents name files and functions, but no line numbers."""
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        assert not re.search(r"\.py:\d+", path.read_text("utf-8")), path

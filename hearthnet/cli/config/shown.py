"""The implementation of `hearthnet config`: prints settings, and changes one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import click

from hearthnet.cli.main import as_json_text, console, hanging, print_json, print_plain, printable, table
from hearthnet.config import default_path, facts_of, load, table_of
from hearthnet.errors import EXIT_ERROR, ConfigError, HearthNetError
from hearthnet.observability.redaction.rules import scrub
from hearthnet.settings.change import change as changed_in_file
from hearthnet.settings.change import check as problems_in_file
from hearthnet.settings.origins import VARIABLES, Setting, as_text, known, read

__all__ = ["change", "check", "explain", "get", "show"]


def show(path: Path | None, *, only_changed: bool, as_json: bool) -> None:
    """Prints all settings.

    Raises:
        ConfigError: raised when they cannot be used.
    """
    found = read(path)
    rows = [setting for setting in found.all if not only_changed or setting.origin != "default"]
    if as_json:
        print_json({"file": str(found.file), "exists": found.exists, "settings": list(map(_document, rows))})
        return
    click.echo(f"{printable(found.file)}{'' if found.exists else ': missing, the defaults apply'}")
    if not rows:
        click.echo("every setting has its default")
        return
    from rich.text import Text  # a value in brackets is no markup

    shown = table("setting", "value", "from")
    for setting in rows:
        shown.add_row(setting.key, Text(printable(as_text(setting.value))), Text(printable(setting.source())))
    print_plain(console(), shown)


def _document(setting: Setting) -> dict[str, Any]:
    return {
        "key": setting.key,
        "value": setting.value,
        "origin": setting.origin,
        "variables": list(setting.variables),
        "profile": setting.profile,
    }


def get(path: Path | None, name: str, *, as_json: bool) -> None:
    """Prints one setting's value.

    Raises:
        ConfigError: raised for an unknown setting, and when the settings cannot be used.
    """
    known(name)
    setting = _of(path, name)
    if as_json:
        print_json(_document(setting))
    elif setting.value is not None:
        value = setting.value
        click.echo(printable(value if isinstance(value, str) else as_json_text(value)))


def _of(path: Path | None, name: str) -> Setting:
    return next(setting for setting in read(path).all if setting.key == name)


def change(path: Path | None, name: str, text: str | None, *, as_json: bool) -> None:
    """Changes one setting in the file.

    Raises:
        ConfigError: raised for an unknown setting or a value that it cannot have.
        OSError: raised when the file cannot be written.
    """
    done = changed_in_file(path, name, text)
    # Read anew, so that nothing is printed that `show` would not print.
    after = None
    with suppress(HearthNetError):
        after = _of(path, name)
    if as_json:
        remaining = [_problem(error) for error in done.remaining]
        shown = None if after is None else _document(after)
        print_json(
            {"file": str(done.file), "changed": done.before != done.after, "setting": shown, "problems": remaining}
        )
        return
    what = "is now" if done.before != done.after else "is already"
    value = (
        "" if after is None else f" {what} {as_text(after.value)}{' (default)' if after.origin == 'default' else ''}"
    )
    click.echo(f"{printable(name)}{printable(value)} in {printable(done.file)}")
    for error in done.remaining:
        click.echo(f"note: {printable(scrub(error.message))}", err=True)
    if after is not None and after.origin == "environment":
        click.echo(f"note: {', '.join(after.variables)} in the environment wins", err=True)
    if not name.startswith("doctor."):
        click.echo("hint: a running node takes it at its next start", err=True)


def check(path: Path | None, *, as_json: bool) -> int:
    """Prints the problems of the file; returns the exit code."""
    try:
        source, problems = problems_in_file(path)
        problems = problems or _of_channels(path)
    except ConfigError as unreadable:
        source, problems = path or default_path(), [unreadable]
    if as_json:
        print_json({"file": str(source), "ok": not problems, "problems": [_problem(error) for error in problems]})
        return EXIT_ERROR if problems else 0
    for error in problems:
        click.secho(f"error: {printable(scrub(error.message))}", fg="red", err=True)
        if error.hint:
            click.echo(f"hint: {printable(error.hint)}", err=True)
    if not problems:
        click.echo(f"{printable(source)}: the settings can be used")
    return EXIT_ERROR if problems else 0


def _of_channels(path: Path | None) -> list[ConfigError]:
    """Returns an error for each channel of the doctor that could tell nothing in this environment."""
    from hearthnet.notify.deliver import problems_of_channels

    hint = "export it; for a service: hearthnet service install names its file of variables"
    return [
        ConfigError("invalid_field", field="doctor.webhook_token_env", message=f"[doctor] {problem}", hint=hint)
        for problem in problems_of_channels(load(path).doctor)
    ]


def _problem(error: ConfigError) -> dict[str, Any]:
    return {"code": error.code, "field": error.field, "message": scrub(error.message), "hint": error.hint}


def explain(path: Path | None, name: str, *, as_json: bool) -> None:
    """Prints what a setting means, in the words of its model.

    Raises:
        ConfigError: raised for an unknown setting.
    """
    field = known(name)
    default = field.get_default(call_default_factory=True)
    facts = facts_of(name.rpartition(".")[2], field)
    model = table_of(field)
    document: dict[str, Any] = {
        "key": name,
        "meaning": field.description,
        "type": _type_of(field.annotation),
        "facts": facts or None,
        "default": list(default) if isinstance(default, tuple) else default,
        "variable": VARIABLES.get(name),
        "example": field.examples[0] if field.examples else None,
        "keys": None if model is None else {key: part.description for key, part in model.model_fields.items()},
    }
    with suppress(HearthNetError):  # other settings may be wrong: this one can be explained all the same
        setting = _of(path, name)
        document |= {"value": setting.value, "from": setting.source()}
    if as_json:
        print_json(document)
    else:
        _print_explained(document)


def _print_explained(document: dict[str, Any]) -> None:
    click.secho(document["key"], bold=True)
    labels = {"meaning": "meaning", "facts": "may be", "default": "default", "value": "value", "example": "example"}
    for key, label in labels.items():
        value = document.get(key)
        if value is None and key != "default":
            continue
        text = str(value) if key in ("meaning", "facts") else ("none" if value is None else as_text(value))
        if key == "value":
            text += f"  ({document['from']})"
        click.echo(hanging(f"{label:<9}", printable(text)))
    for key, meaning in (document["keys"] or {}).items():
        click.echo(hanging(f"  {key:<13}", printable(meaning)))
    click.echo(f"{'variable':<9}{document['variable'] or 'none; ${NAME} in a text is replaced from the environment'}")


def _type_of(annotation: Any) -> str:
    """Returns the kind of a setting's values: that of its only type besides None."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)] if annotation is not None else []
    return str(getattr(annotation, "__name__", None) or getattr(kinds[0] if kinds else annotation, "__name__", "text"))

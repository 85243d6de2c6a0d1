"""`hearthnet config`."""

from __future__ import annotations

from pathlib import Path

import click

from hearthnet.cli.main import Group, json_option, settings_option


def _as_given(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    return path


@click.group("config", cls=Group)
def command() -> None:
    """Show, explain, check and change the settings.

    \b
    Example: hearthnet config show
             hearthnet config explain observability.eco
             hearthnet config set transport.port 7081
    """


@command.command("show")
@click.option("--changed", is_flag=True, help="Only settings that do not have their default.")
@settings_option("config", _as_given)
@json_option
def show(config: Path | None, changed: bool, as_json: bool) -> None:
    """Show every setting, its value and where that is from; secrets are replaced.

    \b
    Example: hearthnet config show --changed
    """
    from hearthnet.cli.config import shown

    shown.show(config, only_changed=changed, as_json=as_json)


@command.command("get")
@click.argument("key", metavar="KEY")
@settings_option("config", _as_given)
@json_option
def get(config: Path | None, key: str, as_json: bool) -> None:
    """Print the value of one setting; nothing if it has none.

    \b
    Example: hearthnet config get transport.port
    """
    from hearthnet.cli.config import shown

    shown.get(config, key, as_json=as_json)


@command.command("set")
@click.argument("key", metavar="KEY")
@click.argument("value", metavar="VALUE")
@settings_option("config", _as_given)
@json_option
def set_(config: Path | None, key: str, value: str, as_json: bool) -> None:
    """Set one setting in config.toml; comments and everything else stay.

    VALUE is TOML, or a text without quotes. It is checked before anything is written.

    \b
    Example: hearthnet config set observability.max_disk_mb 128
             hearthnet config set transport.hosts '["node.example.org"]'
    """
    from hearthnet.cli.config import shown

    shown.change(config, key, value, as_json=as_json)


@command.command("unset")
@click.argument("key", metavar="KEY")
@settings_option("config", _as_given)
@json_option
def unset(config: Path | None, key: str, as_json: bool) -> None:
    """Remove one setting from config.toml, so that its default applies.

    \b
    Example: hearthnet config unset observability.max_disk_mb
    """
    from hearthnet.cli.config import shown

    shown.change(config, key, None, as_json=as_json)


@command.command("check")
@settings_option("config", _as_given)
@json_option
@click.pass_context
def check(context: click.Context, config: Path | None, as_json: bool) -> None:
    """Check config.toml and show everything that is wrong with it.

    Exits with 0 if the settings can be used, with 1 if not.

    \b
    Example: hearthnet config check
    """
    from hearthnet.cli.config import shown

    context.exit(shown.check(config, as_json=as_json))


@command.command("explain")
@click.argument("key", metavar="KEY")
@settings_option("config", _as_given)
@json_option
def explain(config: Path | None, key: str, as_json: bool) -> None:
    """Explain one setting: meaning, unit, range, default, value, variable.

    \b
    Example: hearthnet config explain observability.eco
    """
    from hearthnet.cli.config import shown

    shown.explain(config, key, as_json=as_json)

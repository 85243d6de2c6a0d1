"""`hearthnet doctor --notify`: the channels of the settings and of the options, and what became of the messages."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import click
from pydantic import ValidationError

from hearthnet.cli.doctor.ask import NODE_CHECK, Findings, NoSettings
from hearthnet.cli.main import print_json, printable
from hearthnet.config import Config, DoctorConfig
from hearthnet.config_file import default_path, expand, read_tree, standard_paths
from hearthnet.display import counted
from hearthnet.errors import ConfigError
from hearthnet.files import is_of_root
from hearthnet.notify.channels import Channel
from hearthnet.notify.deliver import Delivery, channels_of, deliver, try_out
from hearthnet.notify.message import one_line
from hearthnet.observability.redaction.rules import scrub

__all__ = ["DOCTOR_CHECK", "Notice", "as_told", "why_not_run"]

DOCTOR_CHECK: Final = "doctor"  # as which it is reported that the doctor itself could not run

_NO_CHANNEL = "no channel is set: hearthnet config set doctor.webhook URL, doctor.mail or doctor.command"


@dataclass(frozen=True, slots=True)
class Notice:
    """Whom to tell.

    Attributes:
        directory: the data folder, where the state of the messages is kept; it may be missing.
        channels: those of the settings, and those of the options.
        level: from which result on.
    """

    directory: Path
    channels: list[Channel]
    level: str

    @classmethod
    def of_options(
        cls,
        config: Config | NoSettings,
        *,
        is_wanted: bool,
        webhook: str | None,
        command: str | None,
        mail: str | None,
    ) -> Self | None:
        """Returns whom to tell, or None if nothing of it is asked for.

        Raises:
            click.BadParameter: raised for a value that the setting of that name cannot have.
        """
        given = {"webhook": webhook, "command": None if command is None else _words(command), "mail": mail}
        options = {key: value for key, value in given.items() if value is not None}
        if not is_wanted and not options:
            return None
        if isinstance(config, NoSettings):
            path, settings, directory = config.path, _usable(config.path), standard_paths().data_dir
        else:
            assert config.observability.data_dir is not None
            path = config.source or default_path()
            settings, directory = config.doctor, config.observability.data_dir
        if settings.command and os.geteuid() == 0 and not is_of_root(path):
            _note(f"doctor.command is not run by root, because others can change {path}: run the doctor as its user")
            settings = settings.model_copy(update={"command": ()})
        channels = [*channels_of(settings), *channels_of(_checked(settings, options))]
        unique = {channel.key: channel for channel in channels}
        return cls(directory, list(unique.values()), settings.notify_level)

    def tell(self, results: Iterable[Mapping[str, Any]], *, quiet: bool, strict: bool) -> bool:
        """Tells what has changed; returns False if a channel did not take it, which is tried again next time."""
        if not self.channels and not quiet:
            _note(_NO_CHANNEL)
        if not self.channels:
            return True
        try:
            done = deliver(self.directory, results, self.channels, "warn" if strict else self.level)
        except TimeoutError as error:
            _note(f"nothing is sent, because {error.strerror}: {error.filename}")
            return False
        for delivery in done.deliveries:
            if delivery.error is not None:
                waiting = counted(delivery.changes, "change")
                _note(f"{delivery.channel}: {delivery.error}; {waiting} will be sent with the next run")
            elif not quiet:
                _note(f"{delivery.channel}: told of {counted(delivery.changes, 'change')}")
        if done.error is not None:
            kept = "they will be sent again" if done.folder is None else f"until the next boot it is in {done.folder}"
            _note(f"the state of the messages cannot be kept in {self.directory}: {done.error.strerror}; {kept}")
        return done.folder is not None and all(delivery.error is None for delivery in done.deliveries)

    def tell_of_doctor(self, detail: str) -> bool:
        """Tells that the doctor could not run; returns False if a channel did not take it."""
        result = {"name": DOCTOR_CHECK, "status": "fail", "detail": detail, "fix": "hearthnet doctor"}
        return self.tell([result], quiet=True, strict=False)

    def try_out(self, *, as_json: bool) -> bool:
        """Sends a test message to each channel and prints what became of it; returns whether all have taken it.

        Raises:
            click.UsageError: raised when there is no channel.
        """
        if not self.channels:
            raise click.UsageError(_NO_CHANNEL)
        done = try_out(self.channels)
        if as_json:
            print_json([_as_dict(delivery) for delivery in done])
        else:
            for delivery in done:
                text = "sent" if delivery.error is None else f"failed: {delivery.error}"
                click.echo(printable(scrub(f"{delivery.channel}: {text}")))
        return all(delivery.error is None for delivery in done)


def as_told(found: Findings) -> list[dict[str, Any]]:
    """Returns the results to tell of: also that the doctor has run, and that the node responds if it does."""
    names = [DOCTOR_CHECK, *([NODE_CHECK] if found.source == "node" else [])]
    well = [{"name": name, "status": "pass", "detail": "it is well again", "fix": None} for name in names]
    return [*found.results, *well]


def why_not_run(environment: Mapping[str, str]) -> str:
    """Returns why the doctor could not run, by the variables that systemd sets after the run of a unit."""
    result, status = environment.get("SERVICE_RESULT", ""), one_line(environment.get("EXIT_STATUS", ""))[:16]
    reasons = {
        "timeout": "it did not end in time",
        "exit-code": f"it ended with {status}",
        "signal": f"it was ended by {status}",
        "core-dump": f"it was ended by {status}",
        "oom-kill": "the machine had no memory for it",
    }
    return f"the doctor could not run: {reasons.get(result, 'it could not be started')}"


def _as_dict(delivery: Delivery) -> dict[str, Any]:
    return {"channel": delivery.channel, "ok": delivery.error is None, "error": delivery.error}


def _words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise click.BadParameter(f"{error}".lower(), param_hint="--notify-command") from None


def _usable(path: Path) -> DoctorConfig:
    """Returns the section `[doctor]` of a file with an error elsewhere, whose channels get a message about it."""
    with suppress(ConfigError, ValidationError):
        section = (read_tree(path) or {}).get("doctor", {})
        return DoctorConfig.model_validate(expand({"doctor": section})["doctor"])
    return DoctorConfig()


def _checked(settings: DoctorConfig, options: Mapping[str, Any]) -> DoctorConfig:
    """Returns settings with the channels of the options alone."""
    plain: dict[str, Any] = {"webhook_format": settings.webhook_format}
    if settings.webhook is None or _origin(settings.webhook) == _origin(str(options.get("webhook"))):
        plain["webhook_token_env"] = settings.webhook_token_env  # the token is for that server, and for no other
    try:
        return DoctorConfig.model_validate({**(plain if "webhook" in options else {}), **options})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        option = f"--notify-{problem['loc'][0]}"
        raise click.BadParameter(problem["msg"].lower(), param_hint=option) from None


def _origin(url: str) -> tuple[str, str]:
    """Returns the server of an address: scheme, host and port."""
    with suppress(ValueError):
        parts = urlsplit(url)
        return parts.scheme, parts.netloc.rpartition("@")[2].lower()
    return url, ""


def _note(text: str) -> None:
    click.echo(f"note: {printable(scrub(text))}", err=True)

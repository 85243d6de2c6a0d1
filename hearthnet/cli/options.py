"""Options that several commands share, and how a command waits that follows new records."""

from __future__ import annotations

import re
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from hearthnet import moments
from hearthnet.constants import DATABASE

__all__ = [
    "TIMES",
    "folder_of_store",
    "for_option",
    "moment",
    "seconds_of",
    "since_option",
    "until_option",
    "wait_or_leave",
]

F = TypeVar("F", bound=Callable[..., Any])

TIMES: Final = f"TIME is {moments.FORMS}; without a zone it is local."

_DURATION: Final = re.compile(r"(\d{1,6})([smh]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600}
_POLL_MS: Final = 200


def moment(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    """Returns the value of an option that takes a time, in UTC microseconds: a callback for click."""
    try:
        return None if text is None else moments.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def since_option(records: str) -> Callable[[F], F]:
    """Adds `--since TIME` as `since_us`; `records` names in its help the things that it selects."""
    text = f"Only {records} at TIME or later."
    return click.option("--since", "since_us", metavar="TIME", callback=moment, help=text)


def until_option(records: str) -> Callable[[F], F]:
    """Adds `--until TIME` as `until_us`; `records` names in its help the things that it selects."""
    return click.option("--until", "until_us", metavar="TIME", callback=moment, help=f"Only {records} before TIME.")


def folder_of_store(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Returns the value of an option that takes a folder; the telemetry.db in it will do: a callback for click."""
    if path is None or path.is_dir():
        return path
    if path.name != DATABASE:
        raise click.BadParameter(f"{path} is no folder with a {DATABASE}")
    return path.parent


def seconds_of(
    examples: str, max_s: int, bound: str
) -> Callable[[click.Context, click.Parameter, str | None], float | None]:
    """Returns a callback for an option that takes a duration (90, 30s, 10m, 2h), which makes seconds of it."""

    def seconds(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
        if text is None:
            return None
        match = _DURATION.fullmatch(text)
        found = int(match[1]) * _SECONDS[match[2]] if match else 0
        if not 0 < found <= max_s:
            raise click.BadParameter(f"{text!r} is not a duration like {examples}, at most {bound}")
        return float(found)

    return seconds


def for_option(examples: str, max_s: int, bound: str) -> Callable[[F], F]:
    """Adds `--for`, a duration (90, 30s, 10m, 2h), passed to the command in seconds as `for_s`; at most `max_s`."""
    text = f"How long: {examples.replace(' or', ',')}."
    callback = seconds_of(examples, max_s, bound)
    return click.option("--for", "for_s", callback=callback, default="10m", show_default=True, help=text)


def wait_or_leave() -> None:
    """Waits a moment.

    Raises:
        BrokenPipeError: raised once the reader has closed the pipe, even if nothing is written.
    """
    poller = select.poll()
    poller.register(sys.stdout, 0)  # only errors and hang-ups, which are always reported
    if poller.poll(_POLL_MS):
        raise BrokenPipeError

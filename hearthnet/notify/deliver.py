"""Tells each channel what has changed since the last run."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from hearthnet.config import DoctorConfig
from hearthnet.notify.channels import Channel, ChannelError, Command, Mail, Webhook
from hearthnet.notify.message import Message, about, trial
from hearthnet.notify.told import opened

__all__ = ["Delivered", "Delivery", "channels_of", "deliver", "problems_of_channels", "try_out"]

_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")  # as people name them


class Delivery(NamedTuple):
    """What became of the messages to a channel: how many changes it got; or why it did not."""

    channel: str
    changes: int
    error: str | None


class Delivered(NamedTuple):
    """What became of the messages of a run, and of the state.

    Attributes:
        deliveries: one for each channel that had something to be told.
        error: why the data folder does not have the state; None: it has.
        folder: the one that has it; None: none has, and all of it is sent again.
    """

    deliveries: list[Delivery]
    error: OSError | None
    folder: Path | None


def channels_of(settings: DoctorConfig) -> list[Channel]:
    """Returns the channels that the settings name."""
    channels: list[Channel] = []
    if settings.webhook is not None:
        token, problem = _token(settings.webhook_token_env)
        channels.append(Webhook(settings.webhook, settings.webhook_format, token, problem))
    if settings.command:
        channels.append(Command(settings.command))
    if settings.mail is not None:
        channels.append(Mail(settings.mail))
    return channels


def problems_of_channels(settings: DoctorConfig) -> list[str]:
    """Returns why channels of the settings cannot tell anything here, such as that a token is missing."""
    webhooks = (channel for channel in channels_of(settings) if isinstance(channel, Webhook))
    return [webhook.problem for webhook in webhooks if webhook.problem is not None]


def _token(variable: str | None) -> tuple[str | None, str | None]:
    """Returns the token that a variable holds, and why there is none although there should be."""
    if variable is None:
        return None, None
    token = os.environ.get(variable, "").strip()
    if token:
        return token, None
    # The name is not quoted if it could be the token itself.
    name = variable if _VARIABLE.fullmatch(variable) else "variable of that name"
    return None, f"webhook_token_env: the environment has no {name}"


def deliver(
    directory: Path, results: Iterable[Mapping[str, Any]], channels: Sequence[Channel], level: str
) -> Delivered:
    """Takes the results of a run of the doctor, and tells each channel what it has not been told.

    Raises:
        TimeoutError: raised when another doctor is at it; then nothing is sent, so that nothing is sent twice.
    """
    with opened(directory) as told:
        now_s = time.time()
        told.note(results, level, now_s, [channel.key for channel in channels])
        told.save()  # before anything is sent: a crash leaves it pending
        deliveries = []
        for channel in channels:
            waiting = told.pending[channel.key]
            if not waiting:
                continue
            error = _sent(channel, partial(about, waiting, now_s))
            deliveries.append(Delivery(channel.name, len(waiting), error))
            if error is None:
                told.sent(channel.key)
                told.save()
        return Delivered(deliveries, told.kept.error, told.kept.folder)


def _sent(channel: Channel, make: Callable[[], Message]) -> str | None:
    """Sends a message; returns why it was not taken."""
    try:
        channel.send(make())
    except ChannelError as error:
        return str(error)
    except Exception as error:  # one channel must not keep the others from theirs  # noqa: BLE001
        return f"{type(error).__name__} while it was sent"
    return None


def try_out(channels: Sequence[Channel]) -> list[Delivery]:
    """Sends each channel a message that says that it is a test."""
    return [Delivery(channel.name, 0, _sent(channel, partial(trial, time.time()))) for channel in channels]

"""Tells each channel what has changed since the last run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hearthnet.config import DoctorConfig
from hearthnet.notify.channels import Channel, ChannelError, Command, Mail, Webhook
from hearthnet.notify.message import about, trial
from hearthnet.notify.told import opened

__all__ = ["Delivery", "channels_of", "deliver", "try_out"]


class Delivery(NamedTuple):
    """What became of the messages to a channel: how many changes it got; or why it did not."""

    channel: str
    changes: int
    error: str | None


def channels_of(settings: DoctorConfig) -> list[Channel]:
    """Returns the channels that the settings name."""
    channels: list[Channel] = []
    if settings.webhook is not None:
        token = os.environ.get(settings.webhook_token_env) if settings.webhook_token_env else None
        channels.append(Webhook(settings.webhook, settings.webhook_format, token))
    if settings.command:
        channels.append(Command(settings.command))
    if settings.mail is not None:
        channels.append(Mail(settings.mail))
    return channels


def deliver(
    directory: Path, results: Iterable[Mapping[str, Any]], channels: Sequence[Channel], level: str
) -> list[Delivery]:
    """Takes the results of a run of the doctor, and tells each channel what it has not been told.

    Raises:
        OSError: raised when the state cannot be read or written; then nothing is sent, so that nothing is sent
            twice.
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
            try:
                channel.send(about(waiting, now_s))
            except ChannelError as error:
                deliveries.append(Delivery(channel.name, len(waiting), str(error)))
            else:
                told.sent(channel.key)
                told.save()
                deliveries.append(Delivery(channel.name, len(waiting), None))
    return deliveries


def try_out(channels: Sequence[Channel]) -> list[Delivery]:
    """Sends each channel a message that says that it is a test."""
    deliveries = []
    for channel in channels:
        error = None
        try:
            channel.send(trial(time.time()))
        except ChannelError as failed:
            error = str(failed)
        deliveries.append(Delivery(channel.name, 0, error))
    return deliveries

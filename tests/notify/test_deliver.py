"""Each channel is told what it has not been told, whatever becomes of the others."""

from __future__ import annotations

import orjson
import pytest

from hearthnet.config import DoctorConfig
from hearthnet.files import NotRegularError
from hearthnet.notify.channels import ChannelError
from hearthnet.notify.deliver import Delivery, channels_of, deliver, try_out
from hearthnet.notify.told import STATE_FILE

FAILED = [{"name": "keys_present", "status": "fail", "detail": "has mode 0644", "fix": None}]


class Fake:
    """A channel that takes messages, or does not."""

    def __init__(self, name, *, is_away=False):
        self.name, self.key, self.is_away, self.got = name, f"fake:{name}", is_away, []

    def send(self, message):
        """Keeps the title."""
        if self.is_away:
            raise ChannelError("away")
        self.got.append(message.title.partition(": ")[2])


def test_channel_that_is_away_delays_no_other_and_loses_nothing(tmp_path):
    """It is told with the next run; the others are not told again."""
    good, bad = Fake("good"), Fake("bad", is_away=True)
    first = deliver(tmp_path, FAILED, [bad, good], "fail")
    bad.is_away = False
    second = deliver(tmp_path, FAILED, [bad, good], "fail")

    assert first == [Delivery("bad", 1, "away"), Delivery("good", 1, None)]
    assert second == [Delivery("bad", 1, None)]
    assert good.got == bad.got == ["keys_present fails"]
    assert deliver(tmp_path, FAILED, [bad, good], "fail") == []


def test_what_is_to_be_sent_is_kept_before_it_is_sent(tmp_path):
    """A doctor that is killed while it sends does not lose it."""

    class Killed(Fake):
        def send(self, message):
            """Is killed."""
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deliver(tmp_path, FAILED, [Killed("one")], "fail")
    after = Fake("one")
    deliver(tmp_path, FAILED, [after], "fail")

    assert after.got == ["keys_present fails"]


def test_nothing_is_sent_that_cannot_be_kept(tmp_path):
    """Else it would be sent with every run."""
    (tmp_path / STATE_FILE).mkdir()
    channel = Fake("one")
    with pytest.raises(NotRegularError):
        deliver(tmp_path, FAILED, [channel], "fail")

    assert channel.got == []


def test_test_message_leaves_what_was_told_as_it_is(tmp_path):
    """It is about the channel alone."""
    good, bad = Fake("good"), Fake("bad", is_away=True)

    assert try_out([good, bad]) == [Delivery("good", 0, None), Delivery("bad", 0, "away")]
    assert good.got == ["a test"]
    assert not (tmp_path / STATE_FILE).exists()


def test_channels_are_those_of_the_settings(monkeypatch):
    """Each with its own; the token is from the environment."""
    monkeypatch.setenv("NTFY_TOKEN", "t0ken-of-ntfy")
    settings = DoctorConfig(
        webhook="https://ntfy.example.org/topic", webhook_token_env="NTFY_TOKEN", command=("tell",), mail="root"
    )
    webhook, command, mail = channels_of(settings)

    assert webhook.token == "t0ken-of-ntfy"
    assert (webhook.name, command.name, mail.name) == ("webhook at ntfy.example.org", "command tell", "mail")
    assert channels_of(DoctorConfig()) == []


def test_file_names_no_target(tmp_path):
    """A webhook's address may be its key."""
    webhook = channels_of(DoctorConfig(webhook="http://127.0.0.1:1/s3cret-topic"))
    deliver(tmp_path, FAILED, webhook, "fail")

    content = (tmp_path / STATE_FILE).read_bytes()
    assert b"s3cret" not in content
    assert len(orjson.loads(content)["pending"]) == 1

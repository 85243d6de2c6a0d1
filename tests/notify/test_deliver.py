"""Each channel is told what it has not been told, whatever becomes of the others."""

from __future__ import annotations

import orjson
import pytest

from hearthnet.config import DoctorConfig
from hearthnet.notify.channels import ChannelError
from hearthnet.notify.deliver import Delivery, channels_of, problems_of_channels, try_out
from hearthnet.notify.deliver import deliver as _deliver
from hearthnet.notify.kept import STATE_FILE

FAILED = [{"name": "keys_present", "status": "fail", "detail": "has mode 0644", "fix": None}]


def deliver(*arguments):
    """What became of each message; the state is kept in the data folder."""
    done = _deliver(*arguments)
    assert (done.error, done.folder) == (None, arguments[0])
    return done.deliveries


class Fake:
    """A channel that takes messages, or does not."""

    def __init__(self, name, *, is_away=False):
        self.name, self.key, self.is_away, self.got = name, f"fake:{name}", is_away, []

    def send(self, message):
        """Keeps the title."""
        if self.is_away:
            raise ChannelError("away")
        self.got.append(message.title.partition(": ")[2])


@pytest.mark.parametrize("is_bad_first", [True, False])
def test_channel_that_is_away_delays_no_other_and_loses_nothing(tmp_path, is_bad_first):
    """It is told with the next run; the others are not told again."""
    good, bad = Fake("good"), Fake("bad", is_away=True)
    channels = [bad, good] if is_bad_first else [good, bad]
    first = deliver(tmp_path, FAILED, channels, "fail")
    bad.is_away = False
    second = deliver(tmp_path, FAILED, channels, "fail")

    assert sorted(first) == [Delivery("bad", 1, "away"), Delivery("good", 1, None)]
    assert second == [Delivery("bad", 1, None)]
    assert good.got == bad.got == ["keys_present fails"]
    assert deliver(tmp_path, FAILED, channels, "fail") == []


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


def test_channel_of_another_run_gets_what_it_has_missed(tmp_path):
    """As when a person names one as an option beside the timer's: none is told twice, and none is left behind."""
    timer, person = Fake("timer"), Fake("person")
    well = [{**FAILED[0], "status": "pass"}]
    for results, channels in ((FAILED, [timer]), (FAILED, [timer, person]), *[(well, [timer])] * 2):
        deliver(tmp_path, results, channels, "fail")
    deliver(tmp_path, well, [timer, person], "fail")

    assert timer.got == person.got == ["keys_present fails", "keys_present is well again"]


@pytest.mark.parametrize("error", [OSError("x"), RuntimeError("s3cret"), UnicodeError("x")])
def test_error_of_a_channel_is_its_own(tmp_path, error):
    """The next ones get theirs, and it is tried again."""

    class Broken(Fake):
        def send(self, message):
            """Fails in a way that no channel should."""
            raise error

    good = Fake("good")
    (broken, _) = deliver(tmp_path, FAILED, [Broken("broken"), good], "fail")

    assert good.got == ["keys_present fails"]
    assert broken == Delivery("broken", 1, f"{type(error).__name__} while it was sent")
    assert deliver(tmp_path, FAILED, [Fake("broken"), good], "fail") == [Delivery("broken", 1, None)]


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


@pytest.mark.parametrize(
    ("variable", "value", "quoted"),
    [("NTFY_TOKEN", None, True), ("NTFY_TOKEN", " ", True), ("tk_3vja8rntnzrq5v4xb2d7h1k9", None, False)],
)
def test_webhook_without_its_token_sends_nothing(monkeypatch, variable, value, quoted):
    """A name that may be the token itself is not quoted."""
    monkeypatch.delenv(variable, raising=False)
    if value is not None:
        monkeypatch.setenv(variable, value)
    settings = DoctorConfig(webhook="http://127.0.0.1:1/topic", webhook_token_env=variable)
    (problem,) = problems_of_channels(settings)

    assert problem.startswith("webhook_token_env: the environment has no ")
    assert (variable in problem) is quoted
    assert try_out(channels_of(settings))[0].error == problem

"""Channels by which a message goes out: a webhook, a command, a mail by this machine's sendmail.

Each has a deadline, and says in a line why it failed, without the address: for a webhook that is often the key.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

import orjson

from hearthnet import __version__
from hearthnet.notify.message import Message, one_line
from hearthnet.notify.said import Said
from hearthnet.observability.redaction.rules import scrub

__all__ = ["Channel", "ChannelError", "Command", "Mail", "Webhook"]

_WEBHOOK_S: Final = 15.0
_COMMAND_S: Final = 30.0
_OPENED_S: Final = 10.0  # for each step of a connection
_PRIORITIES: Final = {"high": "4", "default": "3", "low": "2"}  # ntfy's, of 1 to 5
_TAGS: Final = {"high": "rotating_light", "default": "warning", "low": "white_check_mark"}
_SENDMAIL_FOLDERS: Final = ("/usr/sbin", "/usr/lib", "/usr/local/sbin")
_END_S: Final = 2.0  # for a killed program to be gone
_MAX_REASON_CHARS: Final = 200
_MAX_SAID_BYTES: Final = 4_096  # the first that a command prints on stderr, for its first line


class ChannelError(Exception):
    """Raised with a line that says why a message was not taken; it holds no secret."""


class Channel(Protocol):
    """A way for messages."""

    @property
    def name(self) -> str:
        """What it is called in a note, such as `webhook at ntfy.example.org`."""

    @property
    def key(self) -> str:
        """What it is called in the state file: a hash, for the target may be secret."""

    def send(self, message: Message) -> None:
        """Sends a message.

        Raises:
            ChannelError: raised when it was not taken, or not in time.
        """


def _key(kind: str, *parts: str) -> str:
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{kind}:{digest[:16]}"


@dataclass(frozen=True, slots=True)
class Webhook:
    """Posts to a URL: as text with the headers that ntfy reads, or as JSON.

    Attributes:
        url: with a name and a password, if there are any.
        style: `text` or `json`.
        token: a bearer token, or None.
        problem: why nothing may be sent, such as that its token is missing.
        timeout_s: of the whole request.
    """

    url: str
    style: str = "text"
    token: str | None = None
    problem: str | None = None
    timeout_s: float = _WEBHOOK_S

    @property
    def name(self) -> str:
        """The webhook's host."""
        try:
            return f"webhook at {one_line(urlsplit(self.url).hostname or '?')}"
        except ValueError:
            return "webhook"

    @property
    def key(self) -> str:
        """Its name in the state file."""
        return _key("webhook", self.url)

    def send(self, message: Message) -> None:
        """Posts a message; any response but 2xx is a failure."""
        if self.problem is not None:
            raise ChannelError(self.problem)
        outcomes: list[str | None] = []
        # In a thread: the library has a limit for each step, and a server that trickles takes many.
        sending = threading.Thread(target=lambda: outcomes.append(self._post(message)), daemon=True)
        sending.start()
        sending.join(self.timeout_s)
        if not outcomes:
            raise ChannelError(f"no response within {self.timeout_s:g} s")
        (problem,) = outcomes
        if problem is not None:
            raise ChannelError(problem)

    def _post(self, message: Message) -> str | None:
        """Posts a message; returns why it was not taken."""
        try:
            request = self._request(message)
            with self._opener().open(request, timeout=min(_OPENED_S, self.timeout_s)):
                return None
        except urllib.error.HTTPError as error:
            with error:  # it is the response
                return f"it responded with {error.code}"
        except urllib.error.URLError as error:
            return _reason(error.reason)
        except Exception as error:  # whatever it is, the message was not taken  # noqa: BLE001
            return _reason(error)

    def _opener(self) -> urllib.request.OpenerDirector:
        """Returns what opens http and https alone, by the proxy of the environment unless it is this machine.

        It follows no redirect: that could lead a token elsewhere, and turns a POST into a GET.
        """
        host = urlsplit(self.url).hostname or ""
        is_local = host in ("localhost", "::1") or host.startswith("127.")
        handlers = (
            urllib.request.ProxyHandler({} if is_local else None),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=ssl.create_default_context()),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        )
        opener = urllib.request.OpenerDirector()
        for handler in handlers:
            opener.add_handler(handler)
        return opener

    def _request(self, message: Message) -> urllib.request.Request:
        parts = urlsplit(self.url)
        headers = {"User-Agent": f"hearthnet/{__version__}"}
        if self.style == "json":
            body = orjson.dumps(message.document())
            headers["Content-Type"] = "application/json"
        else:
            body = message.text.encode()
            headers |= {
                "Content-Type": "text/plain; charset=utf-8",
                "Title": _header(message.title),
                "Priority": _PRIORITIES[message.urgency],
                "Tags": _TAGS[message.urgency],
            }
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        elif parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/", parts.query, ""))
        return urllib.request.Request(bare, body, headers, method="POST")  # noqa: S310  # http or https: the model says


def _header(text: str) -> str:
    """Returns a line for a header: as it is if it is ASCII, else encoded as RFC 2047 says."""
    return text if text.isascii() and "=?" not in text else f"=?UTF-8?B?{base64.b64encode(text.encode()).decode()}?="


def _reason(error: object) -> str:
    """Returns why a connection failed, by the kind of error alone where its text may quote the address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "no response in time" if isinstance(error, TimeoutError) else type(error).__name__


@dataclass(frozen=True, slots=True)
class Command:
    """Starts a program that gets the message as JSON on its standard input."""

    arguments: tuple[str, ...]
    timeout_s: float = _COMMAND_S

    @property
    def name(self) -> str:
        """The program's name, without its arguments."""
        return f"command {one_line(os.path.basename(self.arguments[0]))}"  # noqa: PTH119  # a name, not a file

    @property
    def key(self) -> str:
        """Its name in the state file."""
        return _key("command", *self.arguments)

    def send(self, message: Message) -> None:
        """Runs the program; an exit code other than 0 is a failure."""
        _run(self.arguments, orjson.dumps(message.document(), option=orjson.OPT_APPEND_NEWLINE), self.timeout_s)


@dataclass(frozen=True, slots=True)
class Mail:
    """Hands a mail to this machine's sendmail."""

    address: str
    timeout_s: float = _COMMAND_S

    @property
    def name(self) -> str:
        """That it is a mail."""
        return "mail"

    @property
    def key(self) -> str:
        """Its name in the state file."""
        return _key("mail", self.address)

    def send(self, message: Message) -> None:
        """Sends a mail; its recipient is read from its header, so that none can be an option."""
        program = shutil.which("sendmail") or shutil.which("sendmail", path=os.pathsep.join(_SENDMAIL_FOLDERS))
        if program is None:
            raise ChannelError("this machine has no sendmail: apt install msmtp-mta, or another")
        mail = EmailMessage()
        mail["To"] = one_line(self.address)
        mail["Subject"] = message.title
        mail["Date"] = formatdate(message.at.timestamp(), localtime=True)
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text + "\n")
        _run([program, "-i", "-t"], mail.as_bytes(), self.timeout_s)


def _run(command: Sequence[str], given: bytes, timeout_s: float) -> None:
    """Runs a program in a process group of its own, which ends with the deadline.

    Raises:
        ChannelError: raised when it cannot be started, fails, or takes too long.
    """
    with Said(_MAX_SAID_BYTES) as said:
        try:
            process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said.standard_error,
                pass_fds=(said.passed_on,), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ChannelError(f"it cannot be started: {(error.strerror or 'unknown').lower()}") from None
        except ValueError:  # a NUL in an argument
            raise ChannelError("it cannot be started: invalid argument") from None
        try:
            process.communicate(given, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            raise ChannelError(f"it did not end within {timeout_s:g} s") from None
        except OSError as error:
            _end(process)
            raise ChannelError(f"it does not take the message: {(error.strerror or 'unknown').lower()}") from None
        lines = said.end().decode("utf-8", "replace").strip().splitlines()
    if process.returncode:
        about = f": {one_line(scrub(lines[0]))[:_MAX_REASON_CHARS]}" if lines else ""
        raise ChannelError(f"it ended with {process.returncode}{about}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a program and its children. One that has become another user's cannot be ended, and is not waited for."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)

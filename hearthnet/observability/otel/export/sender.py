"""Sends one request of OTLP over HTTP, and judges the response.

Written here because the exporter of the SDK reports success for a redirect, a web page and a partial success alike, and
hides the status.

Guarantees: no redirect is followed; a proxy of the environment is used, but never for this machine itself; libraries
instrumented for OpenTelemetry make no span of a request; a request takes its timeout at the most, however slowly a
response comes. Never raises for what the network or the backend does.
"""

from __future__ import annotations

import gzip
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from hearthnet import __version__
from hearthnet.observability.otel.export.settings import LogsOrTraces, Target
from hearthnet.observability.otel.export.verdict import Verdict, judge, judge_failure

__all__ = ["Sender"]

_JSON, _PROTOBUF = "application/json", "application/x-protobuf"
_MAX_RESPONSE_BYTES: Final = 65_536  # more than any response of OTLP has
_LOOPBACK: Final = ("all://localhost", "all://127.0.0.1", "all://[::1]")
# The keys that instrumentations ask before they make a span: one of all, one of HTTP clients, and an older one.
_SUPPRESS: Final = ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY")
_SUPPRESS_PLAIN: Final = "suppress_instrumentation"


class Sender:
    """Sends the requests of one signal, one at a time; the connection is kept.

    Args:
        signal: `traces` or `logs`.
        target: where to.
        rest: called between the steps of a request.

    Raises:
        OSError: raised when a certificate cannot be read, also as ssl.SSLError.
    """

    def __init__(self, signal: LogsOrTraces, target: Target, rest: Callable[[], object] = lambda: None) -> None:
        self.signal = signal
        self.target = target
        self._rest = rest
        self._headers = {
            **target.headers,
            "content-type": _JSON if target.is_json else _PROTOBUF,
            "user-agent": f"hearthnet/{__version__}",
        }
        if target.is_gzip:
            self._headers["content-encoding"] = "gzip"
        url = urlsplit(target.url)
        host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        is_local = (url.hostname or "") in ("localhost", "::1") or (url.hostname or "").startswith("127.")
        self._client = httpx.Client(
            timeout=target.timeout_s,
            event_hooks={step: [lambda _: self._rest()] for step in ("request", "response")},
            verify=_verify(target, is_plain=url.scheme == "http" and (is_local or not getproxies())),
            follow_redirects=False,
            mounts=dict.fromkeys((*_LOOPBACK, f"all://{host}") if is_local else _LOOPBACK),
        )
        self._connection: Any = None  # the one that was made last
        self._is_late = False

    def send(self, body: bytes) -> Verdict:
        """Sends one body, uncompressed; returns what the backend makes of it."""
        content = gzip.compress(body, 6, mtime=0) if self.target.is_gzip else body
        try:
            with _suppressed(), self._limited():
                self._rest()
                status, headers, received = self._post(content)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            late = httpx.ReadTimeout(f"no response within {self.target.timeout_s:g} s")
            return judge_failure(late if self._is_late else error, self.target.port)
        return judge(self.signal, status, headers, received, _parse)

    def _post(self, content: bytes) -> tuple[int, dict[str, str], bytes]:
        noting = {"trace": self._note}
        with self._client.stream(
            "POST", self.target.url, content=content, headers=self._headers, extensions=noting
        ) as response:
            headers = {name.lower(): text for name, text in response.headers.items()}
            return response.status_code, headers, _received(response)

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """Hangs up once the time of the request is over: the client's own timeout is one of each read."""
        self._is_late = False
        timer = threading.Timer(self.target.timeout_s, self._hang_up)
        timer.name, timer.daemon = "hearthnet-export-timer", True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _note(self, _: str, info: Mapping[str, Any]) -> None:
        """Keeps the connection that the client has made, or encrypted; it calls this for each of its steps."""
        stream = info.get("return_value")
        if hasattr(stream, "get_extra_info"):
            self._connection = stream
        self._rest()

    def _hang_up(self) -> None:
        self._is_late = True
        connection = None if self._connection is None else self._connection.get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):  # it has ended by itself
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()


def _received(response: httpx.Response) -> bytes:
    """Returns the body of a response, or its beginning; nothing if it breaks off or cannot be decoded.

    The status is known: a request that was accepted must not be sent again because of it.
    """
    received = b""
    try:
        for part in response.iter_bytes():
            received += part
            if len(received) > _MAX_RESPONSE_BYTES:  # the rest is not read: the connection closes
                break
    except (httpx.HTTPError, OSError, ValueError):  # the latter of TLS, where `_hang_up` comes between
        return b""
    return received


def _verify(target: Target, *, is_plain: bool) -> ssl.SSLContext | bool:
    """Returns which certificates to trust: none where nothing is encrypted, for loading them takes 30 ms of CPU."""
    if target.certificate is None and target.client_certificate is None:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else True
    context = ssl.create_default_context(cafile=target.certificate)
    if target.client_certificate is not None:
        context.load_cert_chain(target.client_certificate, target.client_key)
    return context


def _parse(signal: str, body: bytes) -> tuple[int, str]:
    try:
        from hearthnet.observability.otel.export.protobuf import partial_success
    except ModuleNotFoundError as error:  # where requests are JSON, and the response is not
        raise ValueError("opentelemetry-proto is not installed") from error
    return partial_success(signal, body)


@contextmanager
def _suppressed() -> Iterator[None]:
    """Asks instrumentations of OpenTelemetry, where there are any in this process, to make no span."""
    api: Any = sys.modules.get("opentelemetry.context")
    if api is None:
        yield
        return
    context = api.set_value(_SUPPRESS_PLAIN, True)
    for name in _SUPPRESS:
        if (key := getattr(api, name, None)) is not None:
            context = api.set_value(key, True, context)
    token = api.attach(context)
    try:
        yield
    finally:
        api.detach(token)

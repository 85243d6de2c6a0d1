"""TLS of the bus port: its settings, what is wrong with a certificate, and a renewed one taken up while the node runs.

At a handshake, every `LOOK_EVERY_S` seconds at most, the two files are looked at. What changed is read into a context
of its own, and serves from then on if it is whole; else the old one stays, for a renewal writes one file after the
other. No signal is needed for this, and connections that are open stay as they are.
"""

from __future__ import annotations

import shlex
import ssl
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from hearthnet.config import TransportConfig
from hearthnet.errors import ConfigError
from hearthnet.observability import get_logger

__all__ = [
    "HANDSHAKE_TIMEOUT_S",
    "SHUTDOWN_TIMEOUT_S",
    "Certificate",
    "ServingPair",
    "loose_key",
    "now_utc",
    "read_certificate",
]

log = get_logger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 5.0  # three trips; asyncio's own minute lets strangers hold thousands of connections
SHUTDOWN_TIMEOUT_S: Final = 1.0  # for the peer's goodbye; asyncio's own half a minute would outlast a stop of the node
LOOK_EVERY_S: Final = 10.0  # two stats; who renews a certificate has days
EXPIRES_SOON: Final = timedelta(days=14)  # a certificate of 90 days is renewed 30 days ahead: half of that was missed
# Of TLS 1.2 only what has forward secrecy and is authenticated in one step; TLS 1.3 has nothing else.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_MAX_PEM_BYTES: Final = 1_000_000
_OTHERS_READ_OR_ANY_WRITE: Final = 0o026  # the group may read: Debian gives keys to a group of their own, ssl-cert
_MAX_NAMES_SHOWN: Final = 3
_SELF_SIGN: Final = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 "
    "-subj /CN=hearthnet -addext subjectAltName=DNS:$(hostname),DNS:$(hostname).local,IP:127.0.0.1 "
    "-keyout key.pem -out cert.pem"
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says of itself; times are UTC.

    Attributes:
        names: the names and addresses that it is for.
        not_before: from when.
        not_after: until when.
        is_self_signed: nobody else vouches for it, so it can be made anew right here.
    """

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    is_self_signed: bool

    def trouble(self, now: datetime) -> str | None:
        """Returns why clients refuse it at that time, or None."""
        if now > self.not_after:
            return f"the certificate expired on {self.not_after:%Y-%m-%d}"
        if now < self.not_before:
            return f"the certificate is not valid before {self.not_before:%Y-%m-%d %H:%M} UTC; or is the clock wrong?"
        return None

    def days_left(self, now: datetime) -> float:
        """Returns for how long it holds, in days; negative: since when it no longer does."""
        return (self.not_after - now) / timedelta(days=1)

    def expires_soon(self, now: datetime) -> bool:
        """Tells whether it should have been renewed by now."""
        return now + EXPIRES_SOON > self.not_after

    def shown(self) -> str:
        """Returns whom it is for and until when, for a line."""
        more = ", …" if len(self.names) > _MAX_NAMES_SHOWN else ""
        names = ", ".join(self.names[:_MAX_NAMES_SHOWN]) or "no name"
        return f"certificate for {names}{more} until {self.not_after:%Y-%m-%d}"


class ServingPair:
    """A certificate and its key in use, renewed when the files are.

    Args:
        cert: the certificate, with those in between where somebody else signed it; PEM.
        key: its private key, not encrypted; PEM.
        clock: monotonic seconds; tests hand in their own.

    Raises:
        ConfigError: raised as `invalid_field` when they cannot be served.
    """

    def __init__(self, cert: Path, key: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._cert, self._key = cert, key
        self._clock = clock
        self._looked_at = clock()
        self._state = self._file_state()  # before they are read: what is written meanwhile is seen the next time
        self.certificate = read_certificate(cert)
        self.context = self._current = _context(cert, key)
        self.context.sni_callback = self._choose

    @classmethod
    def of(cls, transport: TransportConfig) -> ServingPair | None:
        """Returns the pair of `[transport]`, or None where the port speaks plain HTTP.

        Raises:
            ConfigError: raised as `invalid_field` when it cannot be served.
        """
        if transport.tls_cert is None or transport.tls_key is None:
            return None
        return cls(transport.tls_cert, transport.tls_key)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Has a connection that begins be served with the files as they are now; called at each handshake."""
        if self._clock() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = self._clock()
            self._look()
        connection.context = self._current

    def _look(self) -> None:
        state = self._file_state()
        if state == self._state:
            return
        self._state = state  # of a pair that cannot be used as well: it is told once, and tried again when it changes
        try:
            certificate, self._current = read_certificate(self._cert), _context(self._cert, self._key)
        except ConfigError as error:
            log.warning("changed certificate cannot be used, the old one is", extra={"error": error.message})
            return
        self.certificate = certificate
        log.info("certificate taken up", extra={"names": certificate.names, "not_after": str(certificate.not_after)})

    def _file_state(self) -> list[tuple[int, ...] | None]:
        """Returns what tells that a file was replaced, written, or opened to us; None: it is gone."""
        found: list[tuple[int, ...] | None] = []
        for path in (self._cert, self._key):
            found.append(None)
            with suppress(OSError):
                status = path.stat()
                found[-1] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return found


def read_certificate(path: Path) -> Certificate:
    """Returns what the first certificate of a PEM file says.

    Raises:
        ConfigError: raised as `invalid_field` when there is none that can be read.
    """
    from cryptography import x509  # late: without TLS nobody needs it

    try:
        made = x509.load_pem_x509_certificate(_content("tls_cert", path))
        names = [
            name
            for extension in made.extensions
            if extension.oid == x509.SubjectAlternativeName.oid
            for name in extension.value
        ]
    except ValueError as error:
        raise _unusable("tls_cert", f"{path} holds no certificate in PEM", _SELF_SIGN) from error
    return Certificate(
        names=tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)),
        not_before=made.not_valid_before_utc,
        not_after=made.not_valid_after_utc,
        is_self_signed=made.issuer == made.subject,
    )


def loose_key(path: Path) -> str | None:
    """Returns the mode of a key that others than its owner and group may read, or than its owner write; else None."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return f"{mode:04o}" if mode & _OTHERS_READ_OR_ANY_WRITE else None


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    """Returns a context that serves this pair to clients of the last ten years, and to no older ones."""
    _content("tls_key", key)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    made.set_ciphers(_CIPHERS)
    made.set_alpn_protocols(["http/1.1"])
    asked: list[bool] = []

    def no_password() -> str:
        asked.append(True)  # without this OpenSSL would ask at the terminal
        return ""

    try:
        made.load_cert_chain(cert, key, no_password)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise _unusable_pair(cert, key, reason, is_encrypted=bool(asked)) from error
    return made


def _unusable_pair(cert: Path, key: Path, reason: str, *, is_encrypted: bool) -> ConfigError:
    if is_encrypted:
        hint = f"(umask 077; openssl pkey -in {shlex.quote(str(key))} -out plain.key), and name plain.key instead"
        return _unusable("tls_key", f"the key in {key} is encrypted, and nobody is there to type its password", hint)
    if reason == "KEY_VALUES_MISMATCH":
        hint = "set the two files that were made together"
        return _unusable("tls_key", f"the key in {key} is not that of the certificate in {cert}", hint)
    return _unusable("tls_key", f"{cert} and {key} cannot be served: {reason}", _SELF_SIGN)


def _content(field: str, path: Path) -> bytes:
    """Returns what a file has, as far as it is sensible."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_PEM_BYTES)
    except OSError as error:
        hint = "look at the path, and at who may read it; without tls_cert and tls_key the node speaks plain HTTP"
        raise _unusable(field, f"{path} cannot be read: {error.strerror}", hint) from error


def _unusable(field: str, message: str, hint: str) -> ConfigError:
    told = f"[transport] {field}: {message}"
    return ConfigError("invalid_field", field=f"transport.{field}", message=told, hint=hint)


def now_utc() -> datetime:
    """Returns the time by which certificates are judged."""
    return datetime.now(UTC)

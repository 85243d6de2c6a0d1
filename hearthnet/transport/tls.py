"""TLS of the bus port: loads certificate and key, and reloads them after a renewal while the node runs.

During a handshake, every `CHECK_EVERY_S` seconds at most, the two files are checked for changes. A changed pair is
loaded into a new context and serves from then on if it is valid; until then the old pair stays in use, because a
renewal writes one file after the other. No signal is needed, and open connections are not affected.
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
from hearthnet.files import open_file
from hearthnet.observability import get_logger

__all__ = [
    "HANDSHAKE_TIMEOUT_S",
    "SHUTDOWN_TIMEOUT_S",
    "Certificate",
    "ServingPair",
    "insecure_key_mode",
    "now_utc",
    "read_certificate",
]

log = get_logger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 5.0  # three round trips; asyncio's default of 60 s lets an attacker hold many
SHUTDOWN_TIMEOUT_S: Final = 10.0  # until the client has read the rest and has sent its close_notify
CHECK_EVERY_S: Final = 10.0  # two stat calls; a renewal has days
EXPIRES_SOON: Final = timedelta(days=14)  # a certificate of 90 days is renewed 30 days before: half of that is over
# TLS 1.2 with forward secrecy and AEAD ciphers only; TLS 1.3 has nothing else.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_MAX_PEM_BYTES: Final = 1_000_000
_OTHERS_READ_OR_ANY_WRITE: Final = 0o026  # the group may read: Debian has a group for keys, ssl-cert
_MAX_NAMES_SHOWN: Final = 3
_SELF_SIGN: Final = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 "
    "-subj /CN=hearthnet -addext subjectAltName=DNS:$(hostname),DNS:$(hostname).local,IP:127.0.0.1 "
    "-keyout key.pem -out cert.pem"
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The contents of a certificate; times are UTC.

    Attributes:
        names: its host names and addresses.
        not_before: start of its validity.
        not_after: end of its validity.
        is_self_signed: signed by its own key, so it can be recreated on this machine.
    """

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    is_self_signed: bool

    def trouble(self, now: datetime) -> str | None:
        """Returns why clients reject it at that time, or None."""
        if now > self.not_after:
            return f"the certificate expired on {self.not_after:%Y-%m-%d}"
        if now < self.not_before:
            return f"the certificate is not valid before {self.not_before:%Y-%m-%d %H:%M} UTC; is the clock wrong?"
        return None

    def days_left(self, now: datetime) -> float:
        """Returns the days until it expires; negative after that."""
        return (self.not_after - now) / timedelta(days=1)

    def expires_soon(self, now: datetime) -> bool:
        """Returns True if it should have been renewed by now."""
        return now + EXPIRES_SOON > self.not_after

    def shown(self) -> str:
        """Returns its names and expiry date as text."""
        more = ", …" if len(self.names) > _MAX_NAMES_SHOWN else ""
        names = ", ".join(self.names[:_MAX_NAMES_SHOWN]) or "no name"
        return f"certificate for {names}{more} until {self.not_after:%Y-%m-%d}"


class ServingPair:
    """A certificate and its key in use, reloaded when the files change.

    Args:
        cert: the certificate, with any intermediate ones; PEM.
        key: its private key, not encrypted; PEM.
        clock: monotonic seconds; for tests.

    Raises:
        ConfigError: raised as `invalid_field` when the pair is unusable.
    """

    def __init__(self, cert: Path, key: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._cert, self._key = cert, key
        self._clock = clock
        self._checked_at = clock()
        self._state = self._file_state()  # before reading them: a write meanwhile is seen at the next check
        self.certificate = read_certificate(cert)
        self.context = self._current = _context(cert, key)
        self.context.sni_callback = self._choose

    @classmethod
    def of(cls, transport: TransportConfig) -> ServingPair | None:
        """Returns the pair of `[transport]`, or None for plain HTTP.

        Raises:
            ConfigError: raised as `invalid_field` when the pair is unusable.
        """
        if transport.tls_cert is None or transport.tls_key is None:
            return None
        return cls(transport.tls_cert, transport.tls_key)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Selects the current context for a new connection; called at each handshake."""
        if self._clock() - self._checked_at >= CHECK_EVERY_S:
            self._checked_at = self._clock()
            self._reload_if_changed()
        connection.context = self._current

    def _reload_if_changed(self) -> None:
        state = self._file_state()
        if state == self._state:
            return
        self._state = state  # also of an unusable pair: it is logged once, and tried again after the next change
        try:
            certificate, self._current = read_certificate(self._cert), _context(self._cert, self._key)
        except ConfigError as error:
            log.warning("changed certificate is unusable, the old one stays", extra={"error": error.message})
            return
        self.certificate = certificate
        log.info("certificate reloaded", extra={"names": certificate.names, "not_after": str(certificate.not_after)})

    def _file_state(self) -> list[tuple[int, ...] | None]:
        """Returns values that change when a file is replaced, written, or made readable; None for a missing file."""
        found: list[tuple[int, ...] | None] = []
        for path in (self._cert, self._key):
            found.append(None)
            with suppress(OSError):
                status = path.stat()
                found[-1] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return found


def read_certificate(path: Path) -> Certificate:
    """Returns the contents of the first certificate of a PEM file.

    Raises:
        ConfigError: raised as `invalid_field` when it has no readable certificate.
    """
    from cryptography import x509  # late: needed only with TLS

    try:
        made = x509.load_pem_x509_certificate(_content("tls_cert", path))
        names = [
            name
            for extension in made.extensions
            if extension.oid == x509.SubjectAlternativeName.oid
            for name in extension.value
        ]
    except ValueError as error:
        raise _unusable("tls_cert", f"{path} has no certificate in PEM", _SELF_SIGN) from error
    return Certificate(
        names=tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)),
        not_before=made.not_valid_before_utc,
        not_after=made.not_valid_after_utc,
        is_self_signed=made.issuer == made.subject,
    )


def insecure_key_mode(path: Path) -> str | None:
    """Returns the mode of a key that others may read or that is writable beyond its owner; else None."""
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
        asked.append(True)  # without a callback OpenSSL would prompt on the terminal
        return ""

    try:
        made.load_cert_chain(cert, key, no_password)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise _unusable_pair(cert, key, reason, is_encrypted=bool(asked)) from error
    return made


def _unusable_pair(cert: Path, key: Path, reason: str, *, is_encrypted: bool) -> ConfigError:
    if is_encrypted:
        hint = f"(umask 077; openssl pkey -in {shlex.quote(str(key))} -out plain.key), and configure plain.key instead"
        return _unusable("tls_key", f"the key in {key} is encrypted, and a node cannot prompt for its password", hint)
    if reason == "KEY_VALUES_MISMATCH":
        hint = "set two files that belong together"
        return _unusable("tls_key", f"the key in {key} does not belong to the certificate in {cert}", hint)
    return _unusable("tls_key", f"{cert} and {key} are unusable: {reason}", _SELF_SIGN)


def _content(field: str, path: Path) -> bytes:
    """Returns the content of a file, up to a sensible size."""
    try:
        with open_file(path) as file:
            return file.read(_MAX_PEM_BYTES)
    except OSError as error:
        hint = "check the path and its permissions; without tls_cert and tls_key the node speaks plain HTTP"
        raise _unusable(field, f"{path} cannot be read: {error.strerror}", hint) from error


def _unusable(field: str, message: str, hint: str) -> ConfigError:
    text = f"[transport] {field}: {message}"
    return ConfigError("invalid_field", field=f"transport.{field}", message=text, hint=hint)


def now_utc() -> datetime:
    """Returns the time that certificates are checked against."""
    return datetime.now(UTC)

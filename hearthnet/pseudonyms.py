"""Replaces what tells of a person, a machine or a network by numbered words: the same value, the same word.

    peer-1  id-4  path-2/telemetry.db  host-1  address-3  user-1

What differs stays different, so a reader can still follow a peer or a call through several files. Nothing is looked up
backwards: the words of one bundle mean nothing in another.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

__all__ = ["Pseudonyms"]

# Longest and most telling first: a URL has a host in it, a key looks like hexadecimal digits.
_SHAPES: Final = (
    ("peer", r"ed25519:[A-Z2-7=]{4}(?:-[A-Z2-7=]{4}){3}(?![\w-])|ed25519:[A-Za-z0-9_-]{40,90}"),
    ("url", r"\b[a-z][a-z0-9+.-]{1,12}://[^\s\"'<>\\)\]]+"),
    ("mail", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    ("path", r"(?<=')~?/[^'\n]+(?=')|(?<=\")~?/[^\"\n]+(?=\")|(?<![\w.:/~-])~?(?:/[\w.@+~%,=-]+)+/?"),
    ("id", r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"),
    (
        "address",
        (
            r"\b(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}\b|\b(?:\d{1,3}\.){3}\d{1,3}\b"
            r"|(?<![\w:.])[0-9a-fA-F:]*::?[0-9a-fA-F:.]+(?![\w:])"
        ),
    ),
    ("id", r"\b[0-9A-HJKMNP-TV-Z]{26}\b|\b(?:[0-9a-f]{16}|[0-9a-f]{32}|[0-9a-f]{64})\b"),
    ("host", r"(?<![\w.@/-])(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,24}(?![\w(-]|\.\w)"),
)  # fmt: skip
_SHAPE: Final = re.compile("|".join(f"({shape})" for _, shape in _SHAPES))
_KINDS: Final = tuple(kind for kind, _ in _SHAPES)
# What tells nothing about anybody.
_PUBLIC_ADDRESSES: Final = ("0.0.0.0", "255.255.255.255", "224.0.0.251", "239.255.42.42")  # noqa: S104  # compared with
_PUBLIC_HOSTS: Final = frozenset({"localhost", "localhost.localdomain"})
_ROUTES: Final = ("/bus/v1", "/metrics", "/trace", "/health", "/ready", "/manifest", "/status", "/doctor", "/control")
_SYSTEM: Final = ("/usr/", "/lib/", "/lib64/", "/proc/", "/sys/", "/dev/", "/bin/", "/sbin/", "/etc/ssl")
_OWN_NAME: Final = re.compile(
    r"telemetry\.(?:db(?:-wal|-shm)?|lock)|config\.toml|doctor\.jsonl|events\.sqlite(?:-wal|-shm)?|manifest\.json"
    r"|device\.(?:ed25519|pub)|\d{4}-\d{2}-\d{2}(?:\.\d+)?\.log|keys|communities|blobs|hearthnet"
)
# The last part of a dotted name that is a file's, not a network's.
_ENDINGS: Final = frozenset({
    "box", "conf", "cfg", "crt", "csv", "db", "fault", "gz", "html", "ini", "js", "json", "jsonl", "key", "lock", "log",
    "md", "new", "old", "pem", "pid", "pub", "py", "pyc", "shm", "so", "sql", "sqlite", "tar", "toml", "tmp", "txt",
    "wal", "whl", "yaml", "yml", "zip",
})  # fmt: skip
_CODE_TAIL: Final = re.compile(
    r"/(?:site-packages|dist-packages)/.*|/hearthnet/(?:[\w-]+/)*[\w-]+\.py|/python3\.\d+/.*"
)
_MODULES: Final = frozenset(
    {*sys.stdlib_module_names, "hearthnet", "uvicorn", "httpx", "fastapi", "pydantic", "sqlite3"}
)


class Pseudonyms:
    """The words of one bundle.

    Args:
        plain: dotted names that are no hosts: capabilities, loggers, checks.
        short_of: returns the short form of a full node id, so that both get one word; None where it is none.
    """

    def __init__(self, plain: Iterable[str] = (), short_of: Callable[[str], str | None] = lambda _: None) -> None:
        self._plain = frozenset(plain)
        self._short_of = short_of
        self._words: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._known: re.Pattern[str] | None = None
        self._kinds: dict[str, str] = {}
        self.replaced: Counter[str] = Counter()

    def know(self, kind: str, value: str | None) -> None:
        """Has a value replaced wherever it stands by itself, though it has no shape: a user's or a machine's name."""
        if value and len(value) > 2 and value not in self._kinds:
            self._kinds[value] = kind
            known = sorted(self._kinds, key=len, reverse=True)
            names = "|".join(map(re.escape, known))
            self._known = re.compile(rf"(?<![A-Za-z0-9])({names})(?![A-Za-z0-9])((?:/[\w.@+~%,=-]+)*)")

    def text(self, value: str) -> str:
        """Returns a text with words in place of what they stand for."""
        whole = self._kinds.get(value)
        if whole is not None:
            return self._word(whole, value)
        named = value if self._known is None else self._known.sub(self._named, value)
        return _SHAPE.sub(self._shaped, named)

    def value(self, value: Any) -> Any:
        """Returns a JSON value with every text in it replaced, names of keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value

    def _named(self, match: re.Match[str]) -> str:
        value, behind = match.groups()
        kind = self._kinds[value]
        return self._own_path(value + behind) if kind == "path" else self._word(kind, value) + behind

    def _shaped(self, match: re.Match[str]) -> str:
        kind = _KINDS[(match.lastindex or 1) - 1]
        found = match[0]
        return getattr(self, f"_{kind}", self._plain_word)(found) if kind != "id" else self._word("id", found)

    def _plain_word(self, found: str) -> str:
        return found

    def _word(self, kind: str, value: str) -> str:
        word = self._words.get(value)
        if word is None:
            self._counts[kind] += 1
            word = self._words[value] = f"{kind}-{self._counts[kind]}"
        self.replaced[kind] += 1
        return word

    def _peer(self, found: str) -> str:
        if len(found) > 70:
            return self._word("signature", found)
        return self._word("peer", self._short_of(found) or found)

    def _mail(self, found: str) -> str:
        return self._word("user", found)

    def _url(self, found: str) -> str:
        """Returns scheme, host's word and port; what stands behind them may be a name or a key."""
        scheme, _, rest = found.partition("://")
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
        host, _, port = authority.rpartition(":") if re.search(r":\d+$", authority) else (authority, "", "")
        shown = self._host_or_address(host.strip("[]"))
        path = rest[len(re.split(r"[/?#]", rest, maxsplit=1)[0]) :]
        tail = path if path.startswith(_ROUTES) and "?" not in path else "/…" if len(path) > 1 else path
        return f"{scheme}://{shown}{f':{port}' if port else ''}{tail}"

    def _host_or_address(self, host: str) -> str:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host if host in _PUBLIC_HOSTS or not host else self._word("host", host)
        return self._address(host)

    def _address(self, found: str) -> str:
        try:
            address = ipaddress.ip_address(found)
        except ValueError:
            is_mac = re.fullmatch(r"(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}", found)
            return self._word("address", found.lower()) if is_mac else found
        if address.is_loopback or address.is_unspecified or found in _PUBLIC_ADDRESSES:
            return found
        return self._word("address", found)

    def _host(self, found: str) -> str:
        first, last = found.split(".", 1)[0], found.rpartition(".")[2]
        if found in self._plain or found in _PUBLIC_HOSTS or first in _MODULES or last in _ENDINGS:
            return found
        if _OWN_NAME.fullmatch(found):
            return found
        return self._word("host", found)

    def _path(self, found: str) -> str:
        """Returns a word for the folder; names of our own files and of installed code stay behind it."""
        if found.startswith((*_ROUTES, *_SYSTEM)) or found == "/":
            return found
        code = _CODE_TAIL.search(found)
        if code is not None:
            return f"{self._word('path', found[: code.start()])}{code[0]}" if code.start() else found
        return self._own_path(found)

    def _own_path(self, found: str) -> str:
        parts = found.rstrip("/").split("/")
        kept: list[str] = []
        while len(parts) > 1 and "/".join(parts) not in self._kinds and _OWN_NAME.fullmatch(parts[-1]):
            kept.insert(0, parts.pop())
        folder = "/".join(parts)
        return "/".join([self._word("path", folder), *kept]) if folder else found

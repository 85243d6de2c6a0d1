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
from typing import Any, Final, cast

__all__ = ["Pseudonyms"]

# Longest and most telling first: a URL has a host in it, a key looks like hexadecimal digits.
_PART: Final = r"[^\s/\"'<>|:;?*\\,()\[\]{}]+"
# A folder may have spaces in its name: what a slash follows, few words later, is of the path still.
_SPACED: Final = rf"(?:[ ,()&'\[\]]{{1,3}}(?![~.]){_PART}){{1,4}}(?=/)"
_SHAPES: Final = (
    (
        "peer",
        (
            r"(?i:ed25519:[A-Z2-7=]{4}(?:-[A-Z2-7=]{4}){3}(?![\w-])|ed25519:[A-Za-z0-9_-]{40,90})"
            r"|(?<![\w-])[A-Z2-7]{4}(?:-[A-Z2-7]{4}){2}-[A-Z2-7]===(?!\w)"
        ),
    ),
    ("url", r"(?i:\b[a-z][a-z0-9+.-]{1,12}://(?:[^\s\"'<>\\)\[\]]|\[[^\s\]]*\])+)"),
    ("mail", r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*"),
    (
        "path",
        (
            r"(?<=')~?/[^'\n]+(?=')|(?<=\")~?/[^\"\n]+(?=\")"
            rf"|(?<![\w./~-])(?:~[\w.-]*|\.{{1,2}})?(?:/+{_PART}(?:{_SPACED})?)+/?"
        ),
    ),
    ("drive", r"(?<!\w)(?:[A-Za-z]:[\\/]|\\\\)[^\n\"'<>|:*?]+"),
    ("id", r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"),
    (
        "address",
        (
            r"\b(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}\b|\b(?:enx|wlx)[0-9a-f]{12}\b|\b(?:[0-9a-fA-F]{4}\.){2}[0-9a-fA-F]{4}\b"
            r"|\b(?:\d{1,3}\.){3}\d{1,3}\b"
            r"|(?<![\w:.])[0-9a-fA-F:]*::?[0-9a-fA-F:.]+(?:%[\w.-]+)?(?![\w:])"
        ),
    ),
    ("id", r"\b[0-7](?i:[0-9A-HJKMNP-TV-Z]{25})\b|\b(?i:[0-9a-f]{16}|[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})\b"),
    # A key without its prefix, or what somebody has packed: nobody can tell what is in it.
    (
        "code",
        (
            r"(?<![\w+/-])[A-Za-z0-9+/_-]{12,}={1,2}(?![\w=])"
            r"|(?<![\w+/-])(?=[\w+/-]*\d)(?=[\w+/-]*[A-Z])(?=[\w+/-]*[a-z])[A-Za-z0-9+_-]{32,}(?![\w+/-])"
        ),
    ),
    ("host", r"(?<![\w.@/-])(?:[^\W_](?:[\w-]*[^\W_])?\.)+[^\W\d_]{2,24}(?![\w(-]|\.\w)"),
)  # fmt: skip
_SHAPE: Final = re.compile("|".join(f"({shape})" for _, shape in _SHAPES))
_KINDS: Final = tuple(kind for kind, _ in _SHAPES)
# What tells nothing about anybody.
_PUBLIC_ADDRESSES: Final = ("0.0.0.0", "255.255.255.255", "224.0.0.251", "239.255.42.42")  # noqa: S104  # compared with
_PUBLIC_HOSTS: Final = frozenset({"localhost", "localhost.localdomain"})
# Names that programs and systems give, not people; in most texts they are words of ours.
_NOBODY: Final = frozenset({"hearthnet", "root", "nobody", "localhost", "node", "user", "host", "path", "error"})
_IDENTIFIER: Final = re.compile(r"[a-z][a-z0-9_]{0,40}")
_ROUTE: Final = re.compile(
    r"/(?:bus/v1/call|metrics|trace(?:/recent)?|health|ready|manifest|status|doctor|control(?:/[a-z-]+)?|docs|openapi\.json)"
)
_PROCESS: Final = re.compile(r"(?<=\bpid[ =])\d+|(?<=\btelemetry\.)\d+(?=\.)")
_SYSTEM: Final = re.compile(
    r"/(?:usr/(?:local/)?(?:lib|lib64|bin|sbin|share)|lib|lib64|bin|sbin|proc|sys|etc/ssl/certs)/.*"
    r"|/dev/(?:null|zero|full|shm|stdin|stdout|stderr|random|urandom|tty|ptmx)"
    r"|/(?:usr|lib|bin|proc|sys|dev|tmp|etc|var|run)/?"
)
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
_OWN_STEMS: Final = frozenset({"telemetry", "events", "device", "config", "doctor", "manifest"})
_CODE_TAIL: Final = re.compile(
    r"/(?:site-packages|dist-packages)/.*|/hearthnet/(?:[a-z_]+/){0,3}[a-z_]+\.py|/python3\.\d+/(?:[\w]+/)*\w+\.py"
)
_MODULES: Final = frozenset(
    {*sys.stdlib_module_names, "hearthnet", "uvicorn", "httpx", "fastapi", "pydantic", "sqlite3"}
)
# A module's name may be a machine's as well; what ends so is in a network.
_NETWORKS: Final = frozenset({"arpa", "com", "de", "home", "internal", "lan", "local", "net", "org"})


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
        if not value or len(value) < 2 or value.lower() in _NOBODY:
            return
        self._kinds.setdefault(value if kind == "path" else value.lower(), kind)
        known = sorted(self._kinds, key=len, reverse=True)
        names = "|".join(map(re.escape, known))
        self._known = re.compile(rf"(?i)(?<![^\W_])({names})(?![^\W_])((?:/[\w.@+~%,=-]+)*)")

    def text(self, value: str) -> str:
        """Returns a text with words in place of what they stand for."""
        named = value if self._known is None else self._known.sub(self._named, value)
        named = _PROCESS.sub(lambda match: self._word("pid", match[0]), named)
        return _SHAPE.sub(self._shaped, named)

    def value(self, value: Any, clean: Callable[[str], str] = str) -> Any:
        """Returns a JSON value with every text in it replaced, names of keys too; each goes through `clean` before."""
        if isinstance(value, str):
            return self.text(clean(value))
        if isinstance(value, dict):
            return {self._key(clean(str(key))): self.value(item, clean) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item, clean) for item in value]
        return value

    def _key(self, name: str) -> str:
        """Returns the name of a key; the document's own stay, though a community may be called `data`."""
        is_own = _IDENTIFIER.fullmatch(name) is not None and name.lower() not in self._kinds
        return name if is_own and _SHAPE.fullmatch(name) is None else self.text(name)

    def _named(self, match: re.Match[str]) -> str:
        value, behind = match.groups()
        kind = self._kinds.get(value) or self._kinds.get(value.lower())
        if kind is None or kind == "path":
            return self._own_path(value + behind)
        is_within = match.string[match.start() - 1 : match.start()] == "/"  # of a path, which becomes one word
        return self._word(kind, value.lower()) + (behind if is_within or not behind else self.text(behind))

    def _shaped(self, match: re.Match[str]) -> str:
        kind = _KINDS[(match.lastindex or 1) - 1]
        return cast(str, getattr(self, f"_{kind}")(match[0]))

    def _word(self, kind: str, value: str) -> str:
        word = self._words.get(value)
        if word is None:
            self._counts[kind] += 1
            word = self._words[value] = f"{kind}-{self._counts[kind]}"
        self.replaced[kind] += 1
        return word

    def _peer(self, found: str) -> str:
        prefix, _, rest = found.rpartition(":")
        if len(rest) > 60:
            return self._word("signature", found)
        if len(rest) < 25:  # the short form, which has no small letters
            return self._word("peer", f"ed25519:{rest.upper()}")
        return self._word("peer", self._short_of(f"{prefix.lower()}:{rest}") or found)

    def _mail(self, found: str) -> str:
        return self._word("user", found.lower())

    def _id(self, found: str) -> str:
        return self._word("id", found.upper())

    def _code(self, found: str) -> str:
        return self._word("code", found)

    def _drive(self, found: str) -> str:
        return self._word("path", found)

    def _url(self, found: str) -> str:
        """Returns scheme, host's word and port; what stands behind them may be a name or a key."""
        scheme, _, rest = found.partition("://")
        whole = re.split(r"[/?#]", rest, maxsplit=1)[0]
        authority = whole.rpartition("@")[2]
        host, _, port = authority.rpartition(":") if re.search(r":\d+$", authority) else (authority, "", "")
        shown = self._host_or_address(host.strip("[]"))
        path = rest[len(whole) :]
        tail = path if _ROUTE.fullmatch(path) else "/…" if len(path) > 1 else path
        return f"{scheme}://{shown}{f':{port}' if port else ''}{tail}"

    def _host_or_address(self, host: str) -> str:
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            name = host.lower()
            return host if name in _PUBLIC_HOSTS or not host or self._is_word(host) else self._word("host", name)
        return self._address(host)

    def _address(self, found: str) -> str:
        bare = found.partition("%")[0]  # behind it the name of an interface, which may be its hardware's address
        core = bare.rstrip(".:") if bare[-2:] != "::" else bare
        try:
            address = ipaddress.ip_address(core)
        except ValueError:
            return self._no_address(found)
        if address.is_loopback or address.is_unspecified or core in _PUBLIC_ADDRESSES:
            return found
        return self._word("address", address.compressed) + bare[len(core) :]

    def _no_address(self, found: str) -> str:
        """Returns what only looks like an address; of hardware, or with a port behind it, it is one."""
        if re.fullmatch(r"\w+|(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}|[0-9a-fA-F]{4}(?:\.[0-9a-fA-F]{4}){2}", found):
            return self._word("address", found.lower())
        return self._word("address", found.lower()) if found.count(":") > 3 else found

    def _host(self, found: str) -> str:
        first, last = found.split(".", 1)[0], found.rpartition(".")[2]
        if found in self._plain or found.lower() in _PUBLIC_HOSTS or _OWN_NAME.fullmatch(found):
            return found
        if first in _MODULES and last.lower() not in _NETWORKS:
            return found
        if last in _ENDINGS:  # a file's name, which may be anybody's
            return found if first in _OWN_STEMS or last in ("py", "so") else self._word("file", found)
        return self._word("host", found.lower())

    def _is_word(self, text: str) -> bool:
        """Tells whether a text is a numbered word already."""
        return text.rpartition("-")[0] in self._counts and text.rpartition("-")[2].isdigit()

    def _path(self, found: str) -> str:
        """Returns a word for the folder; names of our own files and of installed code stay behind it."""
        head, space, tail = found.partition(" ")
        if _ROUTE.fullmatch(head) or _SYSTEM.fullmatch(head) or not head.strip("/."):
            return head + space + (self.text(tail) if tail else "")
        route = _ROUTE.match(head)
        if route is not None and head[route.end()] == "/":  # one trace's, say
            if head.endswith("/"):
                return head + space + (self.text(tail) if tail else "")
            return f"{route[0]}/{self._word('id', head[route.end() + 1 :])}{space}{self.text(tail) if tail else ''}"
        code = _CODE_TAIL.search(found)
        if code is not None:
            return f"{self._word('path', found[: code.start()])}{code[0]}" if code.start() else found
        return self._own_path(found)

    def _own_path(self, found: str) -> str:
        end = len(found.rstrip(".,"))  # of the sentence that it is in
        parts = found[:end].rstrip("/").split("/")
        kept: list[str] = []
        while len(parts) > 1 and "/".join(parts) not in self._kinds and _OWN_NAME.fullmatch(parts[-1]):
            kept.insert(0, parts.pop())
        folder = "/".join(parts)
        return ("/".join([self._word("path", folder), *kept]) if folder else found[:end]) + found[end:]

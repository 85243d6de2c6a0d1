"""Secrets among the arguments of commands: `--password …`, `curl -u user:…`, as a line or as a list.

Lists are those of Python, JSON and YAML. `'--password', 'x'` is the same option as `--password x`.
"""

from __future__ import annotations

import re
from typing import Final

from hearthnet.constants import REDACTED
from hearthnet.observability.redaction.expressions import NEXT_ITEM
from hearthnet.observability.redaction.values import Key, Span, value_of

__all__ = ["flag_value", "option_value", "piped_at"]

_TO_VALUE: Final = re.compile(rf"{NEXT_ITEM}(?![\"'\\]*-(?:-|(?![\w=-]{{16}})))")
_FLAG: Final = re.compile(r"[A-Za-z-]+")
_MAX_VALUE_CHARS: Final = 256
_MAX_COMMAND_CHARS: Final = 200  # between a command and its option
_PIPED: Final = re.compile(
    r"echo[ \t]+(?:-\w[ \t]+)?[\"']?(?:[\w.-]{1,64}:)?([^\s\"'|]{3,128})[\"']?"
    r"[ \t]*\|[ \t]*(?:sudo[ \t]+)?(?:ch)?passwd[^|\n]*$"
)
_IN_PARTS: Final = re.compile(r"[:%,]")  # of a user and a password

# Options that are secret with these commands only. `user`: the value has a user before the password. `glued`: the value
# follows at once, and the option by itself asks for the password.
_OPTIONS: Final = (
    ("user", r"curl", ("u", "U", "user", "proxy-user")),
    ("user", r"lftp", ("u", "user")),
    ("", r"user(?:add|mod)", ("p",)),
    ("user", r"https?", ("a",)),
    ("user", r"smbclient|rpcclient|smbget|net", ("U",)),
    ("user", r"(?:skopeo|podman|buildah|crane)", ("creds", "src-creds", "dest-creds")),
    ("glued", r"(?:mysql|mariadb)\w*(?:-\w+)?|7z\w*|u?n?rar", ("p", "hp")),
    ("", r"sshpass|mongo\w*|influx|(?i:psexec)|twine|cqlsh|ncftp\w*|nxc|netexec|crackmapexec|evil-winrm|hydra", ("p",)),
    ("", r"(?:docker|podman|nerdctl|helm|buildah|oras|az|registry|oc|cf)\b[^|;&]{0,100}\blogin", ("p",)),
    ("", r"redis-cli", ("a", "pass")),
    ("", r"ldap\w+", ("w",)),
    ("", r"sqlcmd|bcp|mosquitto_\w+|ipmitool|zip|unzip", ("P",)),
    ("", r"snmp\w+", ("A", "X", "c")),
    ("", r"plink|pscp|psftp", ("pw",)),
    ("", r"ssh-keygen", ("N",)),
    ("", r"openssl\b[^|;&]{0,100}\benc", ("k", "K")),
    ("user", r"ab", ("A",)),
)
_BY_OPTION: Final = {
    option: [
        (kind, re.compile(rf"(?<![\w-])(?:{command})(?![\w-])"))
        for kind, command, options in _OPTIONS
        if option in options
    ]
    for option in {option for _, _, options in _OPTIONS for option in options}
}


def option_value(text: str, name: str, end: int) -> Span | None:
    """Returns the span of the value of `--name value`; `end` is the end of the name."""
    before = _TO_VALUE.match(text, end)
    if before is None:
        return None
    is_item = not before[0].isspace()
    return value_of(text, Key(name, "-", is_item, ":", end), before.end())


def flag_value(text: str, start: int) -> Span | None:
    """Returns the span of the secret of an option that is one with some commands only; `start` is behind its dash."""
    match = _FLAG.match(text, start)
    if match is None:
        return None
    command = text[max(0, start - _MAX_COMMAND_CHARS) : start]
    for length in (len(match[0]), 2, 1):
        option = match[0][:length]
        for kind, expression in _BY_OPTION.get(option, ()):
            if expression.search(command) is not None:
                return _flagged(text, option, start, kind)
    return None


def piped_at(text: str, end: int) -> Span | None:
    """Returns the span of the password that `echo` passes to the command that ends here: `echo bob:pw | chpasswd`."""
    match = _PIPED.search(text, end - _MAX_COMMAND_CHARS, end)
    return None if match is None else match.span(1)


def _flagged(text: str, option: str, start: int, kind: str) -> Span | None:
    end = start + len(option)
    key = Key(option, text[start - 2 - (text[start - 2] == "-")], True, "=", end)
    if text.startswith("=", end) and kind != "glued":
        at = end + 1
    elif (before := _TO_VALUE.match(text, end)) is None:
        at = end
        if len(option) > 2:
            return None
    elif kind == "glued":
        return None
    else:
        key, at = key._replace(before="-", separator=":"), before.end()
    span = value_of(text, key._replace(limit=end + _MAX_VALUE_CHARS), at)
    if span is None:
        return None
    begin = span[0]
    if kind == "user":
        parts = _IN_PARTS.search(text, *span)
        if parts is None or text.startswith(REDACTED, parts.end()):
            return None
        begin = parts.end()
    whole = value_of(text, key, at)  # only of a secret, which is then searched no more: the time stays linear
    return None if whole is None else (begin, whole[1])

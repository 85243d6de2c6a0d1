"""Secrets behind words without a rare letter to stop at: in settings, among arguments, in tokens of a service.

`masterauth secret`, `net user bob secret`, a line of `.pgpass`. To search each text for each of these words would cost
as much as all other rules. So texts of up to 512 characters are: for settings those that have a separator, which the
quick check searches anyway, for some commands their beginnings. The rest are found in lists of arguments only.
"""

from __future__ import annotations

import re
from functools import cache

from hearthnet.observability.redaction.expressions import BEGINS, NEXT_ITEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from hearthnet.observability.redaction.values import Span

__all__ = ["FIRST_LETTERS", "FIRST_WORDS", "MAX_CHARS", "MIN_CHARS", "SEPARATORS", "directed", "in_arguments"]

MAX_CHARS: Final = 512
MIN_CHARS: Final = 18
SEPARATORS: Final = ":=\"'<"
_TO: Final = NEXT_ITEM
_ITEM: Final = r"[^\s\"',/][^\s\"',]{0,255}"
_ANY: Final = r"[\"']?([^\s\"'\\]{3,128})"
# Not a word of a sentence: with something else than small letters, or at the end of a line or a list.
_VALUE: Final = rf"(?=[\"']?(?:[a-z]*[^a-z\s\"'.,:;!?)]|[a-z]{{3,}}[\"']?(?:[ \t]*(?:$|[\r\n\\\])])|[ \t]+/))){_ANY}"
# By a word without which the expression finds nothing.
_SETTINGS: Final = {
    "masterauth": rf"\bmasterauth{_TO}{_VALUE}",  # Redis
    ":5432:": r"(?<![\w.*-])[\w.*-]+:5432:[\w.*-]+:[\w.*-]+:([^\s\"']{3,128})",  # of PostgreSQL, `.pgpass`
    ":*:": r"(?<![\w.*-])[\w.*-]+:(?:\d{1,5}|\*):[\w.*-]+:[\w.*-]+:([^\s\"']{3,128})",
}
_AT_THE_BEGINNING: Final = {
    "net user": rf"\bnet user{_TO}{_ITEM}{_TO}(?![/*]){_VALUE}",
    "net use ": (
        rf"\bnet use (?:(?:[A-Za-z]:|\*){_TO})?\\{{2,4}}{_ITEM}{_TO}(?:/user:\S{{1,64}}{_TO})?(?![/*]){_VALUE}"
    ),
    "alias set ": rf"\bmc alias set {_ITEM}{_TO}\S+?{_TO}{_ITEM}{_TO}{_VALUE}",  # MinIO
}
_TOKENS: Final = {
    "dapi": rf"{BEGINS}dapi([0-9a-fA-F]{{22,}}(?:-\d+)?)",  # Databricks
}
FIRST_WORDS: Final = ("masterauth ", "mc alias set ", "net use")
FIRST_LETTERS: Final = "".join(sorted({word[0] for word in FIRST_WORDS}))  # checked in half the time
_COMMANDS: Final = {
    "htpasswd": rf"htpasswd -(?:[A-Za-z]*n[A-Za-z]*b|[A-Za-z]*b[A-Za-z]*n)[A-Za-z]* {_ITEM} {_ANY}",
    "mysqladmin": rf"mysqladmin .{{0,200}}?\bpassword {_ANY}",
    "nmcli": rf"nmcli .{{0,200}}?\bpassword {_ANY}",
    "wpa_passphrase": rf"wpa_passphrase {_ITEM} {_ANY}",
    "redis-cli": rf"redis-cli .{{0,200}}?\b(?:AUTH|auth) (?:{_ITEM} (?=\S))?{_ANY}",
    "samba-tool": rf"samba-tool user (?:create|add) {_ITEM} {_ANY}",
    "http-basic": rf"http-basic\.\S{{1,128}} {_ITEM} {_ANY}",  # Poetry, Composer
    "vault login": rf"vault login (?:-[\w-]+=\S* )*(?!-){_ANY}",
    "secret set": rf"gh secret set .{{0,200}}?(?:--body|-b) {_ANY}",
    "openssl passwd": rf"openssl passwd (?:-\w+ )*(?!-){_ANY}",
    "cmdkey": rf"cmdkey .{{0,200}}?/pass:{_ANY}",
    "ldappasswd": rf"ldappasswd .{{0,200}}?-[sa] {_ANY}",
}


def directed(text: str) -> list[Span]:
    """Returns the spans of tokens, and of secrets in settings and commands that a text begins with."""
    if not MIN_CHARS <= len(text) <= MAX_CHARS:
        return []
    found = _in_table(text, _TOKENS)
    is_first = text.startswith(FIRST_WORDS)
    if is_first or any(char in text for char in SEPARATORS):
        found += _in_table(text, _SETTINGS)
    return found + _in_table(text, _AT_THE_BEGINNING) if is_first else found


def in_arguments(line: str) -> list[Span]:
    """Returns the spans of secrets among the arguments of commands, shown as one line."""
    return [span for table in (_SETTINGS, _AT_THE_BEGINNING, _COMMANDS) for span in _in_table(line, table)]


def _in_table(text: str, table: dict[str, str]) -> list[Span]:
    found = [expression for word, expression in table.items() if word in text]
    return [match.span(1) for expression in found for match in _compiled(expression).finditer(text)]


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.MULTILINE)

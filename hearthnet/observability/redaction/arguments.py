"""Lists of a command's arguments: searched as the line that they make, for each alone looks harmless.

`['htpasswd', '-b', 'users', 'bob', 'secret']` is `htpasswd -b users bob secret`. A secret of the line is one in
its argument, of a list in a record or of one that is shown in a text, as Python or JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from hearthnet.constants import REDACTED
from hearthnet.observability.redaction.names import LISTED

if TYPE_CHECKING:
    from hearthnet.observability.redaction.values import Span

__all__ = ["listed", "without_secrets"]

MAX_ITEMS: Final = 64
_MIN_ITEMS: Final = 3  # two are a pair of name and value
_MAX_ITEM_CHARS: Final = 512
_MAX_LIST_CHARS: Final = 4_096
_STARTS: Final = tuple((re.compile(rf"\{begin}(?={LISTED})\s{{0,40}}"), end) for begin, end in ("()", "[]"))
# Commands that take a secret without an option, and without its name.
_COMMAND: Final = re.compile(
    r"b?\\{0,7}[\"'](?:[\w./-]*/)?(?:net|mc|rabbitmqctl|xfreerdp\d?|sqlplus|vault|samba-tool|poetry|composer|cmdkey|sudo"
    r"|sh|bash)(?:\.exe)?\\{0,7}[\"']"
)
_ITEM: Final = re.compile(
    rf"(?:b?(\\{{0,7}}[\"'])(.{{0,{_MAX_ITEM_CHARS}}}?)(?<!\\)\1|[\w.+-]{{1,64}}+)\s{{0,40}}+(?:,\s{{0,40}}+)?"
)
_LONG_CHARS: Final = 100
# Before a value that is all of its item, or the rest of it: an option, a variable of the environment.
_NAMED: Final = re.compile(r"-[\w-]*|[A-Z][A-Z0-9_]*=")
_BLANK: Final = re.compile(r"\s")
_OTHER: Final = "_"  # in place of an item that is no text


def without_secrets(items: Sequence[object], spans_of: Callable[[str], Sequence[Span]]) -> list[object]:
    """Returns the items with the secrets that their line shows replaced.

    Args:
        items: of a list; those that are neither text nor bytes stay.
        spans_of: finds secrets in a line.
    """
    texts = [_text_of(item)[:_MAX_ITEM_CHARS] for item in items[:MAX_ITEMS]]
    kept = list(items)
    for at, start, end in _found(texts, spans_of):
        is_part = end < len(texts[at]) or (start > 0 and _NAMED.fullmatch(texts[at][:start]) is None)
        if is_part and _BLANK.search(texts[at]) is not None:
            continue  # a text of its own, whose secret may go on behind a blank: it is searched by itself
        # Behind a long one, rules end at their bounds.
        rest = _text_of(kept[at])[end:] if end - start < _LONG_CHARS else ""
        kept[at] = f"{texts[at][:start]}{REDACTED}{rest}"
    return kept


def listed(text: str, spans_of: Callable[[str], Sequence[Span]], has_name: Callable[[str], object]) -> Iterator[Span]:
    """Yields the spans of secrets in lists that the text shows.

    Args:
        text: the whole.
        spans_of: finds secrets in a line.
        has_name: finds the name of a secret in a text in lower case. Only lists with one are searched, those with an
            option, and those of a few commands: most are none of a command.
    """
    for start, close in _STARTS:
        covered = 0
        for match in start.finditer(text):
            at = match.end()
            if match.start() < covered:  # a list is searched once: the time stays linear
                continue
            shown = text[at : at + _MAX_LIST_CHARS].partition(close)[0]
            if "'-" in shown or '"-' in shown or _COMMAND.match(shown) is not None or has_name(shown.lower()):
                items, covered = _items_at(text, at)
                offsets = [offset for offset, _ in items]
                for index, begin, end in _found([item for _, item in items], spans_of):
                    yield offsets[index] + begin, offsets[index] + end


def _items_at(text: str, start: int) -> tuple[list[tuple[int, str]], int]:
    """Returns the items of the list that begins here, each with its offset, and the end of the last."""
    items: list[tuple[int, str]] = []
    while len(items) < MAX_ITEMS and (match := _ITEM.match(text, start)) is not None:
        items.append((match.start(2), match[2]) if match[1] else (start, _OTHER))
        start = match.end()
    return items, start


def _found(items: Sequence[str], spans_of: Callable[[str], Sequence[Span]]) -> Iterator[tuple[int, int, int]]:
    """Yields each item that has a secret, and where in it; one that goes on in the next ends with it."""
    if len(items) < _MIN_ITEMS:
        return
    found = _places(items, spans_of)
    if not all(items):  # an empty one has a place of its own, or none: both are searched for
        found = _places([item or _OTHER for item in items], spans_of) | found
    yield from ((at, begin, end) for at, (begin, end) in sorted(found.items()) if items[at])


def _places(items: Sequence[str], spans_of: Callable[[str], Sequence[Span]]) -> dict[int, tuple[int, int]]:
    """Returns where the secret of each item is that has one."""
    starts = [0, *accumulate(len(item) + 1 for item in items)]
    # One word each: what has blanks in it is searched by itself as well.
    spans = spans_of(" ".join(_BLANK.sub("_", item) for item in items))
    places = {}
    for at, length in enumerate(map(len, items)):
        inside = [
            (start - starts[at], end - starts[at]) for start, end in spans if starts[at] <= start < starts[at] + length
        ]
        if inside:
            begin = min(start for start, _ in inside)
            before = items[at][:begin] or (items[at - 1] if at > 0 else "")
            is_all = _NAMED.fullmatch(before) is not None
            places[at] = begin, length if is_all else min(length, max(end for _, end in inside))
    return places


def _text_of(item: object) -> str:
    return item if isinstance(item, str) else item.decode("latin-1") if isinstance(item, bytes) else _OTHER

"""The two records of telemetry, and how any value becomes bounded, redacted UTF-8 JSON.

A record is a tuple, its text is valid UTF-8 and within the bounds of `constants.py`, and its fields are the columns of
its table in the order of its table; `stored.py` has them by name. So no code behind this file checks, cleans or cuts
again, and no row can poison a batch.

`encode` takes the fast way (orjson straight from the caller's dictionary) when every value is a short scalar, which is
nearly always; anything else is rebuilt value by value.

What orjson returns takes 4 KiB of memory however short it is; a copy of it is kept, which takes its length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf, isfinite

import orjson

from hearthnet.constants import MAX_KEYS, MAX_NESTING, MAX_STRING_BYTES, MIN_SECRET_CHARS
from hearthnet.forensics.frames import FRAME
from hearthnet.forensics.tables import FRAMES, PAYLOAD_VERSION
from hearthnet.observability.redaction.rules import (
    REDACTED,
    active,
    is_secret,
    is_told,
    kind_of,
    needs_scrub,
    on_change,
    scrub,
    without_arguments,
)
from hearthnet.observability.redaction.told import known, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, TypeGuard, TypeVar

    T = TypeVar("T")

__all__ = [
    "LOG_COLUMNS",
    "SCALARS",
    "SHORT_CHARS",
    "TRACE_COLUMNS",
    "WHOLE_ITEMS",
    "KeptTrace",
    "WholeColumns",
    "WholeTrace",
    "fields_of",
    "json_texts_of",
    "spans_in",
    "LogFields",
    "LogValues",
    "TraceFields",
    "TraceValues",
    "bounded",
    "clean_text",
    "encode",
    "encode_plain",
    "encode_value",
    "error_text",
    "fit",
    "harmless",
    "is_a",
    "is_harmless",
    "is_plain",
    "one_line",
    "safe_text",
]


# A record as the instruments make it: without its number and its run, which the recorder gives it.
TraceValues = tuple[str, str | None, str, str | None, int, int, float, str, str | None, int, bytes, bytes]
LogValues = tuple[int, str, str, str, str | None, str | None, int, int, bytes, str | None]
# A record as the buffers hold it: its fields as a plain tuple, which the garbage collector soon leaves alone (a named
# one it would visit again and again, thousands of them) and which is made in a third of the time.
TraceFields = tuple[int, str, int, *TraceValues]
LogFields = tuple[int, str, int, *LogValues]
# A trace waits in the buffer as its fields, or with its frame, of which the writer takes spans and extras.
# Encoded in one go: the columns of its row from its number to `notable`, and what waits: seq, run, columns, frame.
WholeColumns = tuple[int, str, str | None, str, str | None, int, int, float, str, str | None, int]
WholeTrace = tuple[int, str, *WholeColumns, bytes]
KeptTrace = TraceFields | WholeTrace
# What the fields are called, in their order: as those of `stored.TraceRecord` and `LogRecord`.
TRACE_COLUMNS: Final = ("seq", "run_id", *FRAMES[PAYLOAD_VERSION]["traces"])
LOG_COLUMNS: Final = ("seq", "run_id", *FRAMES[PAYLOAD_VERSION]["logs"])

WHOLE_ITEMS: Final = 14  # one less than fields
_PAYLOAD_AT: Final = FRAME.size
_EXTRAS_AT: Final = 10  # in the frame: their length, in two bytes
_FIRST_SPAN: Final = ',[{"id":"'  # no value has these characters: a quote within one is escaped


def fields_of(kept: KeptTrace) -> TraceFields:
    """Returns the fields of a trace in the buffer."""
    if len(kept) != WHOLE_ITEMS:
        return kept  # type: ignore[return-value]  # mypy does not tell them by their length
    frame = kept[-1]
    spans_at, extras_at = _parts(frame)
    return (*kept[:-1], frame[spans_at : extras_at - 1], frame[extras_at:-1])


def json_texts_of(frame: bytes) -> tuple[str, str]:
    """Returns the spans and the extras in the frame of a trace, as JSON. 0.4 us."""
    text = frame[_PAYLOAD_AT:].decode()
    head_chars = text.find(_FIRST_SPAN)
    if head_chars > 0 and text.isascii():  # else its parts are not as many characters as bytes
        extras_at = -1 - (frame[_EXTRAS_AT] | frame[_EXTRAS_AT + 1] << 8)
        return text[head_chars + 1 : extras_at - 1], text[extras_at:-1]
    spans_at, at = _parts(frame)
    return frame[spans_at : at - 1].decode(), frame[at:-1].decode()


def spans_in(frame: bytes) -> bytes:
    """Returns the spans in the frame of a trace, as JSON."""
    spans_at, extras_at = _parts(frame)
    return frame[spans_at : extras_at - 1]


def _parts(frame: bytes) -> tuple[int, int]:
    """Returns where spans and extras begin."""
    extras_at = len(frame) - 1 - int.from_bytes(frame[_EXTRAS_AT : _EXTRAS_AT + 2], "little")
    if frame[extras_at - 3 : extras_at - 1] == b"[]":
        return extras_at - 3, extras_at
    return frame.index(_FIRST_SPAN.encode(), _PAYLOAD_AT) + 1, extras_at


def is_a(value: object, kind: type[T]) -> TypeGuard[T]:
    """Returns whether the type of `value` is `kind` or one below it. Never raises.

    `isinstance` also asks the value, whose own code may raise: a proxy that is not bound does.
    """
    return issubclass(type(value), kind)


CUT: Final = "…[cut]"
_MARK_BYTES: Final = len(orjson.dumps(CUT))
SCALARS: Final = frozenset({int, bool, type(None)})  # besides text, and floats that are numbers
_EMPTY: Final = b"{}"
_LINE_ENDS: Final = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in "\u0085\u2028\u2029")
# Half of the byte limit in characters needs no encoding to be known to fit unless it is far from ASCII.
SHORT_CHARS: Final = MAX_STRING_BYTES // 4
_MAX_CONTAINERS: Final = 100  # visited in one record: with 64 values each, far more than a row can hold
_MAX_KEY_CHARS: Final = 128
_JSON_OPTIONS: Final = orjson.OPT_NON_STR_KEYS
_MAX_REMEMBERED: Final = 4_096
# Of an item that has a value beside it, as `values` has them in a text.
_NAMES: Final = ("name", "key", "field", "header", "variable", "Name", "Key", "Field", "Header", "Variable")
_VALUES: Final = frozenset({"value", "Value", "VALUE", "val"})
harmless: Final[set[str]] = set()  # keys that are known to name no secret
on_change(harmless.clear)


def is_plain(extras: object) -> bool:
    """Returns whether extras can be encoded as they are: few short scalars, no secrets. About 0.2 us for two keys.

    Does not check for values that make orjson raise: integers over 64 bits, lone surrogates.
    """
    if type(extras) is not dict or len(extras) > MAX_KEYS or known:
        return False
    clean = active.clean
    for key in extras:
        if key not in harmless and not is_harmless(key, extras):
            return False
        value = extras[key]
        kind = type(value)
        if kind is str:
            if len(value) < MIN_SECRET_CHARS or value in clean:
                continue
            if len(value) > SHORT_CHARS or needs_scrub(value):
                return False
        elif kind is not int and kind not in SCALARS and (kind is not float or value - value):
            return False  # also NaN and infinity, which orjson would make null
    return True


def encode_plain(extras: object) -> bytes | None:
    """Returns the JSON of extras that can be encoded as they are; None for others, which are for `encode`."""
    if not is_plain(extras):
        return None
    try:
        return b"%b" % orjson.dumps(extras)
    except TypeError:  # an integer over 64 bits, a lone surrogate
        return None


def is_harmless(key: object, extras: dict[Any, Any]) -> bool:
    """Returns whether a key names no secret, as far as its value in `extras` goes; remembers one that never does."""
    if type(key) is not str or len(key) > _MAX_KEY_CHARS or needs_scrub(key):
        return False
    if key in _VALUES:
        return _name_in(extras) is None
    if kind_of(key):
        return not is_told(key, extras[key])  # not remembered: another value may be one
    if len(harmless) >= _MAX_REMEMBERED:
        harmless.clear()
    harmless.add(key)
    return True


def _name_in(mapping: Mapping[Any, Any]) -> str | None:
    """Returns the secret's name in `{"name": "X_TOKEN", "value": …}`, if this is such a pair."""
    for key in _NAMES:
        name = mapping.get(key)
        if type(name) is str and len(name) <= _MAX_KEY_CHARS and kind_of(name):
            return name
    return None


def encode(extras: Mapping[Any, Any] | None) -> bytes:
    """Returns `extras` as one JSON object: secrets replaced, everything within the bounds. Never raises."""
    encoded = _EMPTY if extras is None else encode_plain(extras)
    if encoded is not None:
        return encoded
    try:
        return b"%b" % orjson.dumps(bounded(extras), option=_JSON_OPTIONS) if extras else _EMPTY
    except Exception as error:  # any value that a caller may pass  # noqa: BLE001
        return _encode_hostile(extras, error)


def _encode_hostile(extras: object, error: Exception) -> bytes:
    """Returns what can be kept of extras that broke the usual way (integers over 64 bits, lone surrogates …)."""
    try:
        return b"%b" % orjson.dumps(bounded(extras, strict=True), option=_JSON_OPTIONS)
    except Exception:  # a mapping that raises while it is read  # noqa: BLE001
        return orjson.dumps({"unencodable": f"{type(extras).__name__}: {type(error).__name__}"})


def encode_value(value: object) -> bytes:
    """Returns one value (a message, a name) as JSON. Never raises."""
    try:
        return orjson.dumps(value)
    except Exception:  # a lone surrogate in a string, mostly  # noqa: BLE001
        return orjson.dumps(safe_text(value))


def bounded(
    value: object, *, strict: bool = False, depth: int = 0, name: str = "", budget: list[int] | None = None
) -> Any:
    """Returns a copy of `value` made of JSON types, within the bounds, secrets replaced.

    Args:
        value: anything.
        strict: also do the costly checks: characters that are no UTF-8 in short strings.
        depth: nesting so far; beyond `MAX_NESTING` a marker replaces the rest.
        name: the key of the value.
        budget: how many more containers may be visited, as its only item. Keys and nesting multiply: without it a list
            that holds itself 64 times over would be walked 64^6 times.
    """
    if name and is_told(name, value):
        _tell_all(value)
        return REDACTED
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return _bounded_scalar(value, strict)
    budget = [_MAX_CONTAINERS] if budget is None else budget
    budget[0] -= 1
    if budget[0] < 0:
        return CUT
    if depth >= MAX_NESTING:
        return f"[{type(value).__name__} nested too deep]"
    if isinstance(value, Mapping):
        return _bounded_mapping(value, strict, depth, budget)
    return _bounded_items(value, strict, depth, budget)


def _tell_all(value: object) -> None:
    """Notes each text in a secret value, in as many containers as are visited of any value."""
    found, containers = [value], 0
    for item in found:
        if isinstance(item, str):
            tell(item[:SHORT_CHARS])
        elif isinstance(item, bytes | bytearray):
            tell(bytes(item[:SHORT_CHARS]).decode(errors="replace"))
        elif isinstance(item, dict | list | tuple) and containers < _MAX_CONTAINERS:
            containers += 1
            found += list(item.values() if isinstance(item, dict) else item)[:MAX_KEYS]


def _bounded_items(value: Iterable[Any], strict: bool, depth: int, budget: list[int]) -> list[Any]:
    items = list(value)
    if len(items) == 2 and isinstance(value, list | tuple) and _is_secrets_name(items[0]) and items[1] is not None:
        _tell_all(items[1])
        return [clean_text(items[0], _MAX_KEY_CHARS), REDACTED]
    items = _without_keys(items) if any(_begins_key(item) for item in items[:MAX_KEYS]) else items
    if len(items) > 2 and isinstance(value, list | tuple):
        items = without_arguments(items)
    kept = [bounded(item, strict=strict, depth=depth + 1, budget=budget) for item in items[:MAX_KEYS]]
    return [*kept, f"[{len(items) - MAX_KEYS} more]"] if len(items) > MAX_KEYS else kept


def _begins_key(item: object) -> bool:
    return isinstance(item, str) and "PRIVATE KEY" in item and "-----BEGIN" in item


def _without_keys(lines: list[Any]) -> list[Any]:
    """Returns the lines of a text, a traceback's say, without those of a private key: each by itself looks harmless."""
    kept: list[Any] = []
    is_inside = False
    for line in lines:
        is_inside = is_inside and not (isinstance(line, str) and "-----END" in line)
        kept.append(REDACTED if is_inside else line)
        if _begins_key(line):
            is_inside = "-----END" not in line[line.rindex("-----BEGIN") :]
    return kept


def _is_secrets_name(first: object) -> bool:
    """Returns whether the first of two items names a secret, as in lists of headers: `(b"cookie", b"…")`."""
    # Two names beside each other, `["token", "cookie"]` say, are recorded as little: there is no telling them apart.
    name = first.decode("latin-1") if isinstance(first, bytes) else first
    return isinstance(name, str) and len(name) <= _MAX_KEY_CHARS and is_secret(name)


def _bounded_scalar(value: object, strict: bool) -> Any:
    if type(value) is str and not strict and len(value) <= SHORT_CHARS:
        return scrub(value)
    if not isinstance(value, _OWN):
        value = _own_value(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        # A subclass is none of the encoder's types; NaN and infinity are none of JSON's numbers.
        return float(value) if isfinite(value) else _NO_NUMBERS.get(float(value), "NaN")
    if isinstance(value, int):
        # Hexadecimal: Python itself refuses decimal digits beyond 4,300.
        return int(value) if -(2**63) <= value < 2**63 else safe_text(hex(value))
    return clean_text(value)


_OWN: Final = (int, float, str, type(None))
_NO_NUMBERS: Final = {inf: "Infinity", -inf: "-Infinity"}


def _own_value(value: object) -> object:
    """Returns an error as text with its type, and a number of another library, numpy's say, as Python's own.

    Whatever raises on the way stays as it is. Exact numbers (Decimal, Fraction) do too: their text loses nothing.
    """
    try:
        if is_a(value, BaseException):
            return error_text(value)
        from numbers import Integral, Rational, Real  # late: few records have other numbers than Python's own

        # By the type: an object that makes up its attributes has every one.
        if hasattr(type(value), "dtype") and hasattr(type(value), "item"):
            item = value.item() if getattr(value, "shape", None) == () else None  # type: ignore[attr-defined]
            if isinstance(item, bool | int | float):
                return item
            return float(item) if isinstance(item, Real) else value  # numpy's long double has no other type
        if isinstance(value, Integral):
            return int(value)
        return float(value) if isinstance(value, Real) and not isinstance(value, Rational) else value
    except Exception:  # another library's code  # noqa: BLE001
        return value


def error_text(error: BaseException, depth: int = 0) -> str:
    """Returns an error with its type, `TimeoutError` or `KeyError: 'k'`; a group with its members, within bounds."""
    text = safe_text(error, 2 * MAX_STRING_BYTES)  # as much as is searched for secrets
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if not is_a(error, BaseExceptionGroup):
        return text
    shown = error.exceptions[:_MAX_MEMBERS] if depth < MAX_NESTING else ()
    members = [error_text(member, depth + 1) for member in shown]
    missing = len(error.exceptions) - len(shown)
    return f"{text}: [{'; '.join([*members, f'{missing} more'] if missing else members)}]"


_MAX_MEMBERS: Final = 8  # of a group that are shown


def _bounded_mapping(value: Mapping[Any, Any], strict: bool, depth: int, budget: list[int]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    told = _name_in(value) if not _VALUES.isdisjoint(value) else None
    for key, item in value.items():
        if len(kept) >= MAX_KEYS:
            kept[_free("truncated_keys", kept)] = len(value) - MAX_KEYS
            break
        name = clean_text(error_text(key) if is_a(key, BaseException) else key)
        shown = _free(name[:_MAX_KEY_CHARS], kept)
        says = told if told is not None and key in _VALUES else name
        try:
            kept[shown] = bounded(item, strict=strict, depth=depth + 1, name=says, budget=budget)
        except Exception as error:  # one value that raises must not cost its neighbours  # noqa: BLE001
            kept[shown] = f"[{type(item).__name__}: {type(error).__name__}]"
    return kept


def _free(name: str, taken: Mapping[str, object]) -> str:
    """Returns the name, numbered if it is taken: keys that differ, `1` and `"1"` say, may have one text."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free


def safe_text(value: object, limit: int = MAX_STRING_BYTES) -> str:
    """Returns `str(value)` as valid UTF-8 of at most `limit` bytes, cut text marked. Never raises."""
    if type(value) is str:
        text = value
    else:
        try:
            text = str(value)
        except KeyboardInterrupt:  # of a person
            raise
        except BaseException as error:  # `__str__` is the caller's code and may do anything  # noqa: BLE001
            text = f"[{type(value).__name__}: str() raised {type(error).__name__}]"
    if len(text) <= limit and text.isascii():
        return text
    # More characters than `limit` are more bytes, so nothing that would be kept is lost by cutting first.
    raw = text[: limit + 1].encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode()
    return raw[: max(0, limit - len(CUT.encode()))].decode("utf-8", "ignore") + CUT


def clean_text(value: object, limit: int = MAX_STRING_BYTES) -> str:
    """Returns `safe_text(value, limit)` with the secrets in it replaced. Never raises."""
    # Twice as much, then cut: no half of a secret is left at the edge.
    if is_a(value, bytes) or is_a(value, bytearray):
        value = _clean_bytes(bytes(value[: 2 * limit]))
    return safe_text(scrub(safe_text(value, 2 * limit)), limit)


def _clean_bytes(raw: bytes) -> bytes:
    """Returns bytes without the secrets in the text that they are: shown, they are full of backslashes."""
    text = raw.decode("utf-8", "surrogateescape")
    return scrub(text).encode("utf-8", "surrogateescape")


def one_line(encoded: bytes) -> bytes:
    r"""Returns JSON with the line ends of Unicode escaped: `str.splitlines` would cut it at U+0085 or U+2028."""
    if encoded.isascii():
        return encoded
    for raw, escaped in _LINE_ENDS:
        encoded = encoded.replace(raw, escaped)
    return encoded


def fit(encoded: bytes, limit: int) -> bytes:
    """Returns an encoded object within `limit` bytes: the largest values keep their beginning, marked `…[cut]`."""
    if len(encoded) <= limit:
        return encoded
    kept: dict[str, Any] = orjson.loads(encoded)
    parts = {name: orjson.dumps(value) for name, value in kept.items()}
    room = limit - sum(len(orjson.dumps(name)) + len(":,") for name in kept) - len("{}")
    by_size = sorted(kept, key=lambda name: len(parts[name]))
    for left, name in enumerate(by_size):
        share = room // (len(by_size) - left)  # the small ones leave the rest to the large ones
        if len(parts[name]) > max(share, _MARK_BYTES):
            kept[name] = _beginning(kept[name], parts[name], share)
        room -= len(orjson.dumps(kept[name]))
    shorter = orjson.dumps(kept)
    return shorter if len(shorter) <= limit else _first_keys(kept, limit)


def _beginning(value: object, encoded: bytes, room: int) -> str:
    """Returns the beginning of a value as text of at most `room` bytes of JSON; the mark alone if that is longer."""
    text = value if isinstance(value, str) else encoded.decode(errors="ignore")
    room = max(room - _MARK_BYTES, 0)
    text = text[:room]
    while (size := len(orjson.dumps(text)) - len('""')) > room:
        text = text[: len(text) * room // size]
    return text + CUT


def _first_keys(values: dict[str, Any], limit: int) -> bytes:
    """Returns the first keys that fit, each with the mark, and the number of the others."""
    room = limit - len(b'{"truncated_keys":100}')
    kept: dict[str, Any] = {}
    for name in values:
        room -= len(orjson.dumps(name)) + _MARK_BYTES + len(":,")
        if room < 0:
            break
        kept[name] = CUT
    return orjson.dumps({**kept, "truncated_keys": len(values) - len(kept)})

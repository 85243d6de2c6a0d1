"""What the name of a value says: that it is a secret, that it may be one, or nothing.

Names are split into words: `apiKey`, `API-KEY` and `api_key` are the same two. Counts of tokens are no secrets:
`tokens_in` and `max_tokens` are everyday words of a node that serves language models, and neither are measures of a
secret, such as `password_length`. Some names are open: `STRIPE_KEY` is the name of a secret, `sort_key` is not, and a
signature is one in a link only. Of these the value decides: by whether it looks random, or, behind a `…_key`, by
whether it could be a secret at all: not by digits alone, or behind a word, as tables and queues have their keys.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from itertools import pairwise

from hearthnet.constants import MIN_SECRET_CHARS
from hearthnet.observability.redaction.expressions import Expression

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "LIKELY",
    "LISTED",
    "OPEN",
    "PLAIN",
    "SECRET",
    "TELLING",
    "VARIABLE",
    "could_be_secret",
    "is_made",
    "is_meant",
    "judge",
    "last_word_is_secret",
    "looks_random",
    "makes_words",
    "quick_look",
    "words_of",
]

PLAIN: Final = 0
SECRET: Final = 1
OPEN: Final = 2  # secret if the value looks random
LIKELY: Final = 3  # secret if the value could be one
VARIABLE: Final = 4  # the same, of the environment: no key of a row, so a long number could be one, too

# Each name of a secret has one of these in it, whatever the case.
TELLING: Final = (
    "key", "pass", "token", "secret", "auth", "cookie", "cred", "bearer", "jwt", "mnemonic", "otp", "pin", "pwd", "psk",
    "sess", "sig", "srf", "connect.sid",
)  # fmt: skip
_SECRET_WORDS: Final = frozenset({
    "auth", "authorization", "bearer", "cookie", "cookies", "credential", "credentials", "csrf", "jwt", "mnemonic",
    "otp", "pass", "passcode", "passphrase", "passwd", "password", "passwords", "pin", "privkey", "psk", "pwd",
    "secret", "secrets", "sessid", "token", "totp", "xsrf",
})  # fmt: skip
_SECRET_PAIRS: Final = frozenset({
    (owner, key)
    for owner in (
        "access", "api", "auth", "encryption", "master", "preshared", "private", "root", "secret", "session", "shared",
        "signing", "ssh", "unseal", "webhook",
    )
    for key in ("key", "keys")
} | {(owner, "tokens") for owner in ("access", "api", "auth", "bearer", "id", "refresh", "session")}
  | {("connect", "sid")})  # fmt: skip
_SECRET_ENDINGS: Final = (
    "accesskey", "accesstoken", "apikey", "apikeys", "apitoken", "authheader", "authtoken", "clientkeydata",
    "csrftoken", "identitytoken", "idtoken", "keypass", "passwd", "password", "passwords", "presharedkey",
    "privatekey", "privkey", "refreshtoken", "secret", "secretkey", "sessid", "sessionid", "sessiontoken",
    "storepass",
)  # fmt: skip
# Last words of names that are secret only if their value looks random; unless the word before says what the key opens.
_OPEN_ENDINGS: Final = ("key", "keys", "sig", "signature", "session")
_LIKELY_ENDINGS: Final = ("key", "keys")
_OPEN_OWNERS: Final = frozenset({
    "blob", "bucket", "cache", "config", "date", "dedup", "deduplication", "dict", "entity", "event", "file", "foreign",
    "group", "header", "host", "idempotency", "index", "item", "json", "kafka", "label", "lock", "lookup", "map",
    "memcache", "message", "node", "object", "order", "param", "partition", "peer", "primary", "pub", "pubkey",
    "public", "query", "rate", "record", "redis", "registry", "routing", "row", "s3", "setting", "shard", "sort",
    "span", "task", "trace", "translation", "unique", "verification", "verify",
})  # fmt: skip
# What follows the name of a secret in the name of one of its measures.
_MEASURES: Final = frozenset({
    "age", "bits", "count", "expires", "expiry", "len", "length", "method", "mode", "policy", "scheme", "size",
    "status", "ttl",
})  # fmt: skip
# Names of measures of a language model's tokens, in full; any other name with `token` in it is secret.
_TOKEN_MEASURES: Final = Expression(
    r"(?:max_|first_)?token_(?:budget|count|id|index|limit|ms|rate|total|type|usage)|(?:per|next|last|first)_token(?:_ms)?"
    r"|(?:ms|time|seconds)_(?:per|to_first)_token"
)

_WORD: Final = Expression(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_MIN_NUMBER_CHARS: Final = 15
_TIME: Final = Expression(r"1[5-9](?:\d{14}|\d{17})|20\d\d[01]\d[0-3]\d+")  # in micro- or nanoseconds, or with a date
_MAX_DIGITS: Final = 20  # of a number of 64 bits, and of a time with its microseconds
# On average, in the shortest `camelCase` that a person would write: in eight letters, and in more.
_LETTERS_OF_A_WORD: Final = (2.5, 3.5)
_MIN_RANDOM_CHARS: Final = 12
_MANY_CHARS: Final = 20  # for a value that is none a person would write, if it has both letters and digits
_MIN_CHANGES: Final = 3  # in a shorter one, between letters and digits
_MAX_RANDOM_CHARS: Final = 256
_RANDOM: Final = Expression(r"(?=\D*\d)(?=[^A-Za-z]*[A-Za-z])[\w+/=.~%:-]+")
_CHANGE: Final = Expression(r"\d(?=[A-Za-z])|[A-Za-z](?=\d)")
_RUN_OF_BOTH: Final = Expression(r"(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[0-9A-Za-z]{8,}")
_BASE64: Final = Expression(r"(?=[^+]*\+|.*=)(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])[0-9A-Za-z+/]{12,}={0,3}")
_SHORT_RUN_OF_BOTH: Final = Expression(r"(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[0-9A-Za-z]{3,}")
_MANY_RUNS: Final = 3  # of those, as in `ab12-cd34-ef56`
_PADDED: Final = Expression(
    r"(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])(?:[0-9A-Za-z+/]{4})+[0-9A-Za-z+/]{2}(?:==|[0-9A-Za-z+/]=)"
)
_PARTED: Final = Expression(r"[\w./:@,|+-]+")
_PART: Final = Expression(r"[^\W_]+")
_OPENERS: Final = "([{:"  # of a program's code
_STAMP: Final = Expression(r"\d{4}-\d\d-\d\d")
_NUMBERED: Final = Expression(r"[a-z]+\d+")  # what programs call a thing: `customer1234567`
_ULID: Final = Expression(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
# Letters that often follow a letter in words, of any language that programs are written in.
_AFTER: Final = (
    "abcdgiklmnprstuvxy baeilorsu cacdehiklorstu dadefilorsu eabcdefgilmnopqrstvwxy faefilorstu gaehilnorsu haeiot"
    " iabcdefglmnoprstvxz keis ladeilostuy mabeimopsu nacdefgiklnostuv oabcdfgiklmnoprstuvw paehiloprstuy qu"
    " racdegiklmnoprstuy sacehilmopstuy tacdefhilmoprstuy uabceilmnprst vaei waeio xept yps ze"
)
_USUAL: Final = frozenset(letters[0] + after for letters in _AFTER.split() for after in letters[1:])
_MIN_PAIRS: Final = 7
# Usual pairs for each unusual one, in eight letters and in more: in random letters there are fewer.
_USUAL_FOR_ONE: Final = (2, 3)
_ONE_NAME: Final = Expression(r"[\w+/=~%-]+")
_CLASSES: Final = str.maketrans(
    {code: "0" if chr(code).isdigit() else "aA"[chr(code).isupper()] for code in range(128) if chr(code).isalnum()}
    | {code: "#" for code in range(33, 127) if not chr(code).isalnum()}
)
_CASES: Final = frozenset("aA")
_ALL_CLASSES: Final = frozenset("aA0")
_JOINS: Final = Expression(r"[:/.,]")  # between the parts of a name in a program
_MIN_SYMBOLS: Final = 3
_CALL: Final = Expression(r"[A-Za-z_][\w.]*[(\[{][^!#$^*?;~|]*")
_GROUPS: Final = Expression(r"(?=\D*\d)[0-9A-Z]{3,6}(?:-[0-9A-Z]{3,6}){3,}")  # of a license
_SYMBOL: Final = Expression(r"[!#$^*?;~\[\]{}|<]")  # in passwords that programs make, not in what they call a thing
# A path, a URL, a host, the name of a resource or of a file.
_FILE: Final = Expression(
    r"([./~][\w./@+~:-]*(?<!=))|\w+://.*|arn:aws.*|(?:[\w-]+\.)+(?:com|net|org|io|co)(?::\d{1,5})?(?:/.*)?"
    r"|.*\.(?:pem|key|crt|cer|der|pub|json|ya?ml|toml|txt|p12|pfx|jks)"
)


# Behind a bracket: an item in quotes, however they are written, a comma, and the next.
LISTED: Final = (
    r"(?:[\"'\\]|b[\"'\\]|\s{1,40}+[\"'\\])(?:\\{0,7}[\"'])?[^\"'\\\n]{1,256}+\\{0,7}[\"']\s{0,40}+,"
    r"\s{0,40}+b?\\{0,7}[\"']"
)
# Between a name and its value: a sign, the end of a quotation or a tag, or another word where that is a type, the word
# "value", or an attribute.
_FOLLOWS: Final = (
    r"[\w.-]{0,64}+\s{0,64}+(?:[^\w\s;()]|val|[\w:.-]{1,64}+="
    r"|(?:str|string|text|varchar|nsstring|bytes?|any|char)\b)"
)
# Letters in the order of choice: first few and rare ones that all telling words have, then the rest, rare ones first.
_CHOICE: Final = "jkbhpcsqzxvwygfumdlinorate"


# By the same letters, parts of the lines and tokens that `directives` finds.
_SETTINGS: Final = {
    "h": r"\s(?<=masterauth\s)", "p": r"i[0-9a-f]{22}(?<=dapi.{22})",
}  # fmt: skip


@cache
def quick_look(more: tuple[str, ...]) -> re.Pattern[str]:
    """Returns what finds, in a short text in lower case, all that the search for names may find anything in.

    Each branch begins with a rare letter of its word, and looks back for those before it. What counts is how often the
    engine stops, so one letter serves several words.
    """
    branches: dict[str, list[str]] = defaultdict(list)
    for word in (*TELLING, *more):
        at = min(range(len(word)), key=lambda at: _CHOICE.find(word[at]) % len(_CHOICE))
        behind = f"(?<={re.escape(word[: at + 1])})" if at else ""
        branches[word[at]].append(f"{behind}{re.escape(word[at + 1 :])}")
    rest = {char: f"(?:{'|'.join(ends)}){_FOLLOWS}" for char, ends in branches.items()}
    rest |= {char: f"(?:{rest[char]}|{setting})" for char, setting in _SETTINGS.items()}
    lists = (rf"\{bracket}{LISTED}" for bracket in "([")
    return re.compile("|".join((*(re.escape(char) + expression for char, expression in rest.items()), *lists)))


def words_of(name: str) -> list[str]:
    """Returns the words of a name in lower case."""
    return [word.lower() for word in _WORD.findall(name)]


def last_word_is_secret(name: str) -> bool:
    """Returns whether the last word of a name is one of a secret by itself."""
    return any(word in _SECRET_WORDS or word in _OPEN_ENDINGS for word in words_of(name)[-1:])


def judge(name: str, more: tuple[str, ...], own: tuple[str, ...]) -> int:
    """Returns what a name says of its value: `PLAIN`, `SECRET`, `OPEN` or `LIKELY`.

    Args:
        name: however it is spelled; also two words, `stripe key`.
        more: words that names have which are plain without them, besides `TELLING`.
        own: further names that are secret, as `_word_word_`.
    """
    lower = name.lower()
    if not any(word in lower for word in (*TELLING, *more)):
        return PLAIN  # the quick check of a text does not see it, so it must not be secret here
    words = words_of(name)
    if own and any(extra in f"_{'_'.join(words)}_" for extra in own):
        return SECRET
    if words and words[-1] in _MEASURES:
        return PLAIN
    if "".join(words).endswith(_SECRET_ENDINGS) and words != ["session", "id"]:
        return SECRET
    if not _SECRET_PAIRS.isdisjoint(pairwise(words)):
        return SECRET
    found = _SECRET_WORDS.intersection(words)
    if found == {"token"} and _TOKEN_MEASURES.fullmatch("_".join(words)) is not None:
        return PLAIN
    return SECRET if found else _judge_ending(name, words)


def _judge_ending(name: str, words: list[str]) -> int:
    if len(words) > 1 and words[-1].isdigit():  # `STRIPE_KEY_2`
        words = words[:-1]
    if not words or words in (["key"], ["keys"], ["session"]) or not words[-1].endswith(_OPEN_ENDINGS):
        return PLAIN
    if words[-2:-1] and not _OPEN_OWNERS.isdisjoint((words[-2], "".join(words[-3:-1]))):  # `s3` is two words
        return PLAIN
    if not words[-1].endswith(_LIKELY_ENDINGS):
        return OPEN
    return VARIABLE if name.isupper() else LIKELY


def is_meant(kind: int, value: str | bytes) -> bool:
    """Returns whether this value is a secret, by what its name says."""
    if kind == VARIABLE and isinstance(value, str):
        is_number = value.isdigit() and len(value) >= _MIN_NUMBER_CHARS and _TIME.fullmatch(value) is None
        return is_number or could_be_secret(value) or _mixes_cases(value)
    if kind in (LIKELY, VARIABLE):
        return could_be_secret(value)
    return kind == SECRET or (kind == OPEN and looks_random(value))


def could_be_secret(value: str | bytes) -> bool:
    """Returns whether a value is more than words, a path, a number, or a word with a number behind it."""
    if isinstance(value, bytes) or looks_random(value):
        return looks_random(value)
    value = value[:_MAX_RANDOM_CHARS].strip("\"'`")
    if value.isdigit() or _NUMBERED.fullmatch(value) is not None:
        return value.isdigit() and len(value) > _MAX_DIGITS
    if value.isalpha():
        return len(value) >= MIN_SECRET_CHARS and not makes_words(value)
    if re.search(r"\s", value) is not None or _ULID.fullmatch(value) is not None or _is_file(value):
        return False
    return (
        is_made(value)
        or (len(value) >= _MIN_RANDOM_CHARS and _ONE_NAME.fullmatch(value) is not None and _is_unusual(value))
        or _GROUPS.fullmatch(value) is not None
        or _BASE64.fullmatch(value) is not None
        or _PADDED.fullmatch(value) is not None
        or _RUN_OF_BOTH.search(value) is not None
        or len(_SHORT_RUN_OF_BOTH.findall(value)) >= _MANY_RUNS
        or (len(value) >= MIN_SECRET_CHARS and not _makes_parts(value))
    )


def _makes_parts(value: str) -> bool:
    """Returns whether a value is of words and numbers, with signs between them: none has letters that make no words."""
    if value[0] in _OPENERS or _CALL.fullmatch(value) is not None or _STAMP.match(value) is not None:
        return True  # of a program, or a time
    if _PARTED.fullmatch(value) is None:
        return False
    return all(map(_is_part, _PART.findall(value)))


def _mixes_cases(value: str) -> bool:
    """Returns whether some parts of a value are in small letters and others in capitals."""
    parts = [part for part in _PART.findall(value) if part.isalpha()]
    is_mixed = any(map(str.isupper, parts)) and any(map(str.islower, parts)) and value[0] not in _OPENERS
    return is_mixed and len(value) >= MIN_SECRET_CHARS and not _is_file(value) and _CALL.fullmatch(value) is None


def _is_part(part: str) -> bool:
    """Returns whether this is a number, a word, or a word and a number: `30`, `v2`, `64bit`, `createUser1`."""
    letters = part.strip("0123456789")
    return letters == "" or (letters.isalpha() and (letters.isupper() or letters.islower() or makes_words(letters)))


def is_made(value: str) -> bool:
    """Returns whether a value mixes symbols, digits and both cases, as only passwords do that programs make."""
    if _CALL.fullmatch(value) is not None:
        return False
    if len(value) >= _MIN_RANDOM_CHARS and _SYMBOL.search(value) is not None and _CHANGE.search(value) is not None:
        return True
    classes = value.translate(_CLASSES)
    if 2 * sum(one != other for one, other in pairwise(classes)) < len(value):
        return False
    if len(value) >= _MIN_RANDOM_CHARS and classes.count("#") >= _MIN_SYMBOLS and _CASES.issubset(classes):
        return True
    return len(value) >= MIN_SECRET_CHARS and _ALL_CLASSES.issubset(classes) and _JOINS.search(value) is None


def makes_words(letters: str) -> bool:
    """Returns whether letters are a word, or several as in `camelCase`, by where the capitals are, and by pairs."""
    expected = len(words_of(letters)) * _LETTERS_OF_A_WORD[len(letters) >= _MIN_RANDOM_CHARS]
    return expected <= len(letters) and not _is_unusual(letters)


def _is_unusual(value: str) -> bool:
    """Returns whether many letters in a value follow others that they seldom follow in words."""
    pairs = [one + other for one, other in pairwise(value.lower()) if one.isalpha() and other.isalpha()]
    usual = sum(pair in _USUAL for pair in pairs)
    most = _USUAL_FOR_ONE[len(value) >= _MIN_RANDOM_CHARS]
    return len(pairs) >= _MIN_PAIRS and usual <= most * (len(pairs) - usual)


def _is_file(value: str) -> bool:
    """Returns whether a value is a path or the name of a file."""
    match = _FILE.fullmatch(value)
    return match is not None and (match[1] is None or not _is_unusual(value))


def looks_random(value: str | bytes) -> bool:
    """Returns whether a value is none that a person would write: long, letters and digits mixed, no path, no ULID."""
    if isinstance(value, bytes):
        return len(value) >= MIN_SECRET_CHARS
    value = value[:_MAX_RANDOM_CHARS]  # bounds the search
    if len(value) < _MIN_RANDOM_CHARS or _RANDOM.fullmatch(value) is None or _RUN_OF_BOTH.search(value) is None:
        return False
    if len(value) < _MANY_CHARS and len(_CHANGE.findall(value)) < _MIN_CHANGES:
        return False
    return _ULID.fullmatch(value) is None and not _is_file(value)

"""Secrets known by their shape: the branches of one regular expression, which registered values join.

Its first characters decide its speed. Each branch begins with a literal character that is rare in logs, the pivot, and
looks back for the characters before it: `J(?<=eyJ)…` instead of `eyJ…`. The engine then passes most of a text with one
lookup per character; branches that begin with letters of everyday words cost ten times as much, and one set of
characters at the beginning of a branch slows down all of them. For registered values the pivots are chosen so that few
characters serve them all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from hearthnet.observability.redaction.expressions import BEGINS, NEXT_ITEM
from hearthnet.observability.redaction.vendors import MARKS, VENDORS

__all__ = ["BRANCHES", "DOTTED", "Shapes"]

_MAX_WORD_CHARS: Final = 4  # of a prefix that might be the end of a longer word

_PEM: Final = r"----\s{0,16}BEGIN[A-Z0-9 _-]{0,100}PRIVATE KEY(?: BLOCK)?\s{0,16}-----([\s\S]*?)(?=----\s{0,16}END|\Z)"
_CREDENTIALS: Final = r"(?=[^\s]{0,256}?(?:\d|[a-z][A-Z])|[\w.~+/-]{20})([\w.~+/-]{5,}={0,2})(?!\w)"
# In SQL and in build files; with something else than letters, for a sentence may quote a word.
_QUOTED: Final = r"[ \t]+\\{0,7}[\"'](?=[A-Za-z]*[^A-Za-z\s\"'\\])([^\s\"'\\]{6,128})(?=\\{0,7}[\"'])"
_CRYPT: Final = r"(?:(?<=\$[15678y]\$)|(?<=\$gy\$)|(?<=\$apr1\$))"
# Behind the name of a secret, where a value may follow that has a digit: `spoken_at` checks both.
_SPOKEN: Final = r"(?:[ \t]+is)?[ \t]{1,4}[\"'`]?(?=[\w+/=.~%:-]{8})(?=[A-Za-z_+/=.~%:-]{0,64}+\d)"
# Behind the name of a variable; one in small letters alone must be longer.
_NAMED: Final = r"(?:[ \t]+is)?[ \t]{1,4}[\"'`]?(?=[^\s\"'`]{8})(?=[a-z]{0,11}+[^\s\"'`])"
_ENDINGS: Final = (
    r"[kK](?:ey|EY)",
    r"[tT](?:oken|OKEN)",
    r"[sS](?:ecret|ECRET)",
    r"[pP](?:sk|SK|ass(?:w(?:or)?d)?|ASS(?:W(?:OR)?D)?|wd|WD)",
)
# By pivot. Unnamed groups are secrets; what the named ones match, and what matches without a group, must be checked
# closely.
_BRANCHES: Final = {
    "-": [
        (
            r"[A-Za-z](?<=htpasswd -.)(?:(?<=b)|[A-Za-z]{0,8}b)[A-Za-z]{0,8}"
            r"[ \t]+\S{1,256}[ \t]+\S{1,64}[ \t]+[\"']?([^\s\"']{3,128})"
        ),
        _PEM,
        r"--- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----([\s\S]*?)(?=---- END|\Z)",
        r"Lines:(?<=Private-Lines:)[ ]\d{1,3}([\s\S]*?)(?=Private-MAC|\Z)",  # PuTTY
        (
            rf"[A-Za-z](?<!\w-.)(?<![\w-]--.)(?:(?P<option>[\w-]{{1,63}}+)(?={NEXT_ITEM}[^\s-])"
            rf"|(?P<flag>)(?:(?<=[achkpuwAKNPUX])|(?<=p)w|(?<=h)p)(?=[^\s-]|{NEXT_ITEM}[^\s-]))"
        ),
        rf"[pP](?:sk|SK){_SPOKEN}",
        r"us\d{1,2}(?<=([0-9a-fA-F]{32})-us\d)",  # Mailchimp
        r"(?<=sq0[a-z]{3}-)([\w-]{22,})",  # Square: of applications, access, in the sandbox
    ],
    "_": [
        # Stripe; Chec, ClickUp, Courier, IEX Cloud, Klaviyo, Photoroom, Ticket Tailor; but keys of tables are
        # `pk_words_like_this`.
        (
            rf"(?<=[prs]k_)(?<={BEGINS}.{{3}})(?:(?<!p..)(?:live|prod|test)_([0-9A-Za-z-]{{10,}})"
            r"|(?=[A-Za-z_]{0,64}+\d)((?:(?:live|test)_[0-9A-Za-z]{20}|(?:[0-9A-Za-z]{1,36}_){0,2}[0-9A-Za-z]{28})[\w-]*))"
        ),
        r"TEST-(?<=FLW...K_TEST-)([0-9A-Za-z]{12,})",  # Flutterwave
        *(rf"{mode}_(?<=rzp_{mode}_)(?<={BEGINS}.{{9}})([0-9A-Za-z]{{14,}})" for mode in ("live", "test")),  # Razorpay
        *(ending + _NAMED for ending in _ENDINGS),
    ],
    "k": [
        rf"e(?:n(?<=[tT]oken)|y(?<=[\s-]key)){_SPOKEN}",
        # Hooks: the host, or the beginning of the path, is before the pivot.
        r"\.com/(?<=hooks\.slack\.com/)(?:services|workflows|triggers)/([\w/+]{20,}|T\w+/B\w+/\w+)",
        r"s/catch/(?<=zapier\.com/hooks/catch/)([\w/]{10,})",
        r"s/(?<=com/api/webhooks/)\d{16,20}/([\w-]{50,})",  # Discord
        r"b2/(?<=office\.com/webhookb2/)([\w@/-]{40,})",  # Teams
        r"/(?:(?<=office\.com/webhook/)([\w@/-]{40,})|(?<=tines\.com/webhook/)([\w/]{40,}))",
    ],
    "w": [
        rf"ord(?:(?<=[\w.-]password)|(?<=Password)|(?<=\bpassword))(?:{_QUOTED}|{_SPOKEN}|(?:\s|\\n){{1,8}}(?=[^\s\\]))",
        r"[ \t]+(?:(?<=bindpw[ \t])|(?<=rootpw[ \t])(?:--\w+[ \t]+){0,2})[\"']?([^\s\"']{3,128})",  # of LDAP
    ],
    "K": [rf"(?:(?<=TOK)EN|ey|EY){_SPOKEN}"],
    "J": [
        rf"(?<={BEGINS}eyJ)([\w-]{{5,1000}}+(?:\.[\w-]+)+)",  # JWT
        # A private key in PEM, in base64: of RSA, EC, DSA, OpenSSH, PKCS#8, an encrypted one, PGP; not a certificate.
        r"TiB(?<=LS0tLS1CRUdJTiB)(?=SU0E|FQyBQ|EU0Eg|PUEVO|QUklW|FTkNS|QR1Ag)([\w+/=-]{40,})",
    ],
    # Hashes of passwords: bcrypt, those of crypt(3) and of Apache, of web frameworks, Kerberos.
    "$": [
        r"(?<=\$2[abxy]\$)\d\d\$([./0-9A-Za-z]{53})",
        rf"{_CRYPT}(?:rounds=\d{{1,9}}\$)?(?:[./\w]{{1,60}}\$){{1,2}}([./0-9A-Za-z]{{20,}})",
        r"v=\d{1,3}\$m=\d{1,9},t=\d{1,4},p=\d{1,4}\$[\w+/]{1,128}\$([\w+/]{16,})",  # Argon2
        r"\d{3,8}\$[\w+/]{1,64}\$([\w+/=]{24,})",  # Django, PBKDF2
        r"[0-9A-Za-z]{8,16}\$([0-9a-f]{64,})",  # Werkzeug
        r"(?:1[78]|23)\$(?:(?<=\$krb5asrep\$..\$)|(?<=\$krb5tgs\$..\$)|(?<=\$krb5pa\$..\$))([\w:$*.@/~-]{64,})",
    ],
    "!": [r"(?<=00[0-9A-Za-z]{13}!)([\w.]{80,})"],  # Salesforce
    "B": [
        rf"(?:earer|EARER)[ \t]+{_CREDENTIALS}",
        # Bitbucket Data Center: with an `@` in it, unless that is before the host of a URL.
        (
            rf"BDC-(?<={BEGINS}BBDC-)(?=[\w+/=@-]{{16}})(?=[a-z_-]{{0,64}}+[0-9A-Z+/=@])"
            r"([\w+/=-]*+(?:@(?!localhost|[a-z0-9-]+[.:])[\w+/=-]*+)*)"
        ),
        r"Y(?<=DENTIFIED BY)" + _QUOTED,
        r"(?:asic|ASIC)[ \t]+(?=(?P<basic>[A-Za-z0-9+/_-]{6,}={0,2})(?!\w))",  # lookahead only: it may be a word
    ],
    "q": [
        r"uirepass(?<=\brequirepass)[ \t]+[\"']?([^\s\"']{3,128})",  # Redis
        (
            r"ctl(?<=\brabbitmqctl)[ \t][^\n]{0,60}?(?:add_user|(?:change|authenticate)_\w+)[ \t]+\S{1,64}[ \t]+"
            r"[\"']?([^\s\"']{3,128})"
        ),
        r"lplus(?<=\bsqlplus)[ \t][^\n]{0,100}?\b\w{1,64}/([^\s@/\"']{3,128})@",
    ],
    "b": [
        r"le secret(?<=\benable secret)[ \t]+(?:\d[ \t]+)?(?=[^\s\d]{0,64}+\d)(\S{4,128})",  # routers
        rf"earer(?<!\wbearer)[ \t]+{_CREDENTIALS}",
        r"y(?<=dentified by)" + _QUOTED,
    ],
    "x": [
        r"freerdp\d?[ \t][^\n]{0,200}?[ \t\"']/p:([^\s\"']{3,128})",
        r"ox[a-z]-(?![a-z-]{0,64}+(?!\w))([\w%+/=-]{6,})",  # Slack
    ],
    "~": [r"(?<=[\w.~-]{3}\dQ~)([\w.~-]{31,})"],  # Entra ID
    "|": [
        r" [scp](?:(?<=s)udo [cp])?(?:(?<=c)hpasswd\b|(?<=p)asswd\b[^|\n]{0,40}--stdin)",  # `piped_at` finds it
        r"[\w-](?<=\d{15}\|.)([\w-]{26,})",  # Facebook, an app's
    ],
    "V": [r"1 (?<=FlyV1 )(f[mo][0-9a-z]{1,12}_[\w+/=,-]{16,})"],  # Fly.io, several at once
    "%": [r"(?<=\d{15}%)(?:7C)?([\w-]{27,})"],
    "A": [
        r"(?:(?<=\d{6}:A)|(?<=\d{5}:A)(?<!d25519:A))([\w-]{32,})",  # Telegram; ids of nodes are `ed25519:A…`
        r"SSWORD(?<=PASSWORD)" + _QUOTED,
        r"\}(?:(?<=\{SHA\})|(?<=\{SSHA\}))([\w+/]{20,}={0,2})",
        r"A{9}(?<=[0-9A-Za-z]{11}A{10})([\w=-]{43})",  # Dropbox
    ],
}
# Dots are frequent, and no short text has a token with one: these have an expression of their own. Behind the dot, the
# first begin with a letter that the engine checks before it tries one; the rest have a long run there.
_DOTTED: Final = (
    r"st\.(?<=dp\.st\.)(?:[\w-]{2,35}\.)?([0-9A-Za-z]{16,})",  # Doppler
    r"acc[_-](?<=\.acc.)([0-9A-Za-z-]{10,32}\.[\w+/=-]{30,})",  # Authress
)
_BEHIND_DIGIT: Final = (
    r"(?<=dt0[A-Za-z]\d\d\.)([0-9A-Za-z]{16,}(?:\.[0-9A-Za-z]+)?)",  # Dynatrace
    rf"(?<={BEGINS}1000\.)([0-9a-f]{{32}}\.[0-9a-f]{{32}})",  # Zoho
    rf"(?<={BEGINS}[01]\.)(A[\w-]{{50,}}(?:\.\d)?\.Ag[\w-]{{40,}}(?:\.[\w-]+)?)",  # Entra ID, refresh tokens
    r"(?<=[0-9A-Za-z]{8}\.v1\.)([\w-]{16,}\.[0-9a-f]{20,})",  # Airtable, OAuth
)
_BEFORE_RUN: Final = (
    rf"(?<=\d\.)(?:{'|'.join(_BEHIND_DIGIT)})",
    r"(?:ey|ewo)(?:(?<=[\w=-]{14}\.ey)|(?<=[\w=-]{14}\.ewo))(?=[a-z_]{0,64}+[0-9A-Z])([\w/-]{9,}={0,2}\.[\w/=-]*)",
    r"(?=[\w-]{27})(?:(?<=[MNO][\w-]{23}\.[\w-]{6}\.)|(?<=[MNO][\w-]{25}\.[\w-]{6}\.))([\w-]+)",  # Discord
    r"[0-9a-f]{64}(?<=pat[A-Za-z0-9]{14}\.([0-9a-f]{64}))",  # Airtable
)
_PIVOTS: Final = "+_-~JKQZYVBAG.b"  # of prefixes and marks: those that cost least first


class Shapes(NamedTuple):
    """The expression as a whole, for searching, and its parts: a match of one must not hide one of the other.

    `dotted` is no part of `all`: it is for longer texts.
    """

    all: re.Pattern[str]
    dotted: re.Pattern[str]
    known: re.Pattern[str]
    registered: re.Pattern[str] | None


def _vendor_branches() -> dict[str, list[str]]:
    """Returns, by pivot, what follows it in the tokens of the tables, without a group: each group costs every search.

    Roughly: enough characters behind the prefix, not all of them small letters; `vendors.token_at` checks the rest. A
    match ends where the token begins, or one character behind that.
    """
    prefixes: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for vendor in VENDORS:
        _, pivot, tail = _split(vendor.prefix)
        prefixes[pivot, tail][vendor.prefix] = None
    branches: dict[str, list[str]] = defaultdict(list)
    for (pivot, tail), same in prefixes.items():
        branches[pivot].append(_after(pivot, tail, same))
    for mark in MARKS:
        _, pivot, tail = _split(mark.mark)
        first = "" if tail else f"(?<={re.escape(mark.mark)})"  # costs less than to begin with a set, far back
        branches[pivot].append(
            rf"{re.escape(tail)}{first}(?<=[{mark.alphabet}]{{{mark.length}}}{re.escape(mark.mark)})"
        )
    return branches


def _split(prefix: str) -> tuple[str, str, str]:
    pivot = next(char for char in _PIVOTS if char in prefix)
    at = prefix.index(pivot) if pivot.isalpha() else prefix.rindex(pivot)
    return prefix[:at], pivot, prefix[at + 1 :]


def _after(pivot: str, tail: str, prefixes: Iterable[str]) -> str:
    if tail:
        return rf"{re.escape(tail)}(?=[0-9A-Za-z_+/=.:%-]{{16}}){_behind(prefixes, '')}"
    # The engine checks a set before it tries a branch, a lookahead only within it.
    dot = "." if pivot == "_" else ""
    has_others = r"(?<![a-z_](?=[a-z_.:-]{0,40}+[^0-9A-Z+/=]))"  # than small letters
    return rf"[0-9A-Za-z_+/={dot}-](?=[0-9A-Za-z_+/=:{dot}-]{{15}}){has_others}{_behind(prefixes, '.')}"


def _behind(prefixes: Iterable[str], more: str) -> str:
    """Returns an expression that looks back for one of these, all of one width at once, and `more` behind it."""
    widths: dict[tuple[bool, int], list[str]] = defaultdict(list)
    for prefix in prefixes:
        is_bounded = len(prefix) <= _MAX_WORD_CHARS
        widths[is_bounded, len(prefix)].append(re.escape(prefix))
    return "(?:{})".format(
        "|".join(
            f"(?<={BEGINS if is_bounded else ''}(?:{'|'.join(same)}){more})" for (is_bounded, _), same in widths.items()
        )
    )


def _known_branches() -> tuple[list[str], str]:
    """Returns the branches, and the expression of those that begin with a dot."""
    tokens = _vendor_branches()
    before_run = "(?=[0-9A-Za-z_+/=-]{16})" + _joined("", (*_BEFORE_RUN, *tokens.pop(".")))
    dotted = _joined(".", (*_DOTTED, before_run))
    pivots = dict.fromkeys((*_BRANCHES, *tokens))
    return [_joined(pivot, (*_BRANCHES.get(pivot, ()), *tokens[pivot])) for pivot in pivots], dotted


def _joined(pivot: str, expressions: Iterable[str]) -> str:
    return f"{re.escape(pivot)}(?:{'|'.join(expressions)})"


BRANCHES, DOTTED = _known_branches()

"""The quick check of longer texts for names."""

from __future__ import annotations

import pytest

from hearthnet.observability.redaction import quick, values
from hearthnet.observability.redaction.names import judge
from hearthnet.observability.redaction.quick import Look
from hearthnet.observability.redaction.values import ELEMENTS, IN_URL, KEYED, PAIRED

FILLER = "a line about nothing: x = 1, at 12:30:45\n" * 14


def kind_of(name: str) -> int:
    """As without further names."""
    return judge(name, (), ())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("nothing here", 0), ("password=abcd1234", KEYED), ("token : abcd1234", KEYED), (r"a\ntoken=abcd1234", KEYED),
        (r"a\nb=1", 0), ("x_token2=abcd1234", KEYED), ("key: abcd1234", KEYED), ("value=abcd1234", KEYED),
        ("password" + " " * 30 + "= abcd1234", KEYED), ("x" * 60 + "token=abcd1234", KEYED), ("10.0.0.1:80=x", 0),
        ("token_count=7", 0), ("token_count_2=7", KEYED), ('set("API_TOKEN", "x")', PAIRED), ("['a', 'b']", PAIRED),
        ('["a", 1]', 0), ('f("a", b)', 0), ('[\n  "a",\n  "b"]', PAIRED), (r'[\"a\", \"b\"]', PAIRED),
        ("[b'a', b'b']", PAIRED), (r'token\": abcd1234', KEYED), ("token" + "\\" * 21 + ": abcd1234", KEYED),
        ("<a>b</a>", ELEMENTS), ("a < b", 0), ("http://u:p@h", IN_URL), ("oracle:thin:a/b@h", IN_URL), ("bob@h", 0),
    ],
)  # fmt: skip
def test_parts_that_may_find_something(text, parts):
    """Names of secrets, and those that others beside them may make one; nothing else. A second time, the same."""
    look = Look(kind_of)

    assert look.parts_of(f"{FILLER}{text}") == parts
    assert look.parts_of(f"{FILLER}{text}") == parts


@pytest.mark.parametrize(
    ("text", "parts", "names"),
    [
        ("x" * 39 + "=1", 0, ["x" * 39]), ("x" * 40 + "=1", KEYED, []), ("token" + " " * 20 + "=1", KEYED, ["token"]),
        ("token" + " " * 21 + "=1", KEYED, []), ("x" + " " * 20 + "=1", 0, ["x"]), ("x" + " " * 21 + "=1", KEYED, []),
        ("a.b=1", 0, ["a.b"]), ("123=1", 0, []), ("12x=1", 0, ["12x"]), ("-1=2", 0, []), ("1.5:x", 0, []),
        (r"\nname=1", 0, ["nname", "name"]), (r"\xame=1", 0, ["xame"]), (r"\name=1", 0, ["name", "ame"]),
        (r"\n=1", 0, ["n", ""]), (r"\ntoken=1", KEYED, ["ntoken", "token"]), (r"\xtoken=1", 0, ["xtoken"]),
        (r"\n" + "x" * 37 + "=1", 0, ["n" + "x" * 37, "x" * 37]), (r"\n" + "x" * 39 + "=1", KEYED, []),
        ("TOKEN=1", KEYED, ["TOKEN"]), ("NAME=1", 0, ["NAME"]), ("]=1", 0, []),
        ('"]=1', 0, []), ("a]=1", 0, ["a"]), ("=1", 0, []), ("==1", 0, []), (" =1", 0, []),
        ("_=1", 0, ["_"]), ("str=1", KEYED, []), ("key=1", KEYED, []), ("x.=1", 0, ["x"]), ('x\\"=1', 0, ["x"]),
        ("a=1, b: 2", 0, ["b", "a"]), ("a: 1, token=2", KEYED, ["a", "token"]), ("token: 1, a=2", KEYED, ["token"]),
        ("</a", ELEMENTS, []), ("<a", 0, []), ("a</", ELEMENTS, []), ("http://u@h", IN_URL, ["http"]),
        ("http://h", 0, ["http"]),
        ("oracle:u@h", IN_URL, ["oracle"]), ("oracle:u", 0, ["oracle"]), ("('a' 'b')", 0, []), ("[a, b]", 0, []),
        ("('a', 'b'", PAIRED, []), ('["a", "b"', PAIRED, []), ("['a', 'b'] </ x=1", PAIRED | ELEMENTS, ["x"]),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_names_before_a_separator_are_judged(text, parts, names):
    """Bare, as a close search would take them; what is too long, or too far away, is for that search."""
    judged: list[str] = []
    look = Look(lambda name: judged.append(name) or kind_of(name))

    assert look.parts_of(text) == parts
    assert judged == names


def test_names_are_judged_once():
    """A name that is plain is remembered; one of a secret is not, for its text is searched anyway."""
    judged = []

    def counted(name: str) -> int:
        judged.append(name)
        return kind_of(name)

    look = Look(counted)
    look.parts_of(f"{FILLER}other=1")
    first = len(judged)
    look.parts_of(f"{FILLER}other=1")

    assert "other" in judged
    assert len(judged) == first
    assert look.parts_of(f"{FILLER}other=1, another=2") == 0
    assert judged[first:] == ["another"]


def test_what_is_remembered_is_bounded(monkeypatch):
    """Texts with ever other names fill nothing."""
    monkeypatch.setattr(quick, "MAX_PLAIN", 8)
    look = Look(kind_of)
    sizes = set()
    for number in range(100):
        look.parts_of(f"name{number}x=1")
        sizes.add(len(look._plain))

    assert sizes == set(range(2, 9))


def test_search_needs_the_parts_that_it_was_told():
    """Each part finds its own secrets, and no other."""
    text = 'password=abcd1234 ("x_token", "abcd1234") <password>abcd1234</password> http://u:abcd1234@h'
    found = {part: list(values.named(text, kind_of, part)) for part in (KEYED, PAIRED, ELEMENTS, IN_URL)}

    assert all(len(spans) == 1 for spans in found.values())
    assert len({span for spans in found.values() for span in spans}) == 4

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


def test_what_is_remembered_is_bounded(monkeypatch):
    """Texts with ever other names fill nothing."""
    monkeypatch.setattr(quick, "MAX_PLAIN", 8)
    look = Look(kind_of)
    for number in range(100):
        look.parts_of(f"{FILLER}name{number}x=1")

    assert len(look._plain) <= 8


def test_search_needs_the_parts_that_it_was_told():
    """Each part finds its own secrets, and no other."""
    text = 'password=abcd1234 ("x_token", "abcd1234") <password>abcd1234</password> http://u:abcd1234@h'
    found = {part: list(values.named(text, kind_of, part)) for part in (KEYED, PAIRED, ELEMENTS, IN_URL)}

    assert all(len(spans) == 1 for spans in found.values())
    assert len({span for spans in found.values() for span in spans}) == 4

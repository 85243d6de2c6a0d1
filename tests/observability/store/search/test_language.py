"""The query language: what it reads, what it refuses and where, and that it reads back whatever is written."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hearthnet.observability.store.search.language import is_clean, parse, term

HOSTILE = [
    'C:\\t "x":-1',
    "",
    "-",
    "--x",
    "a,b",
    "*",
    "a*",
    ">5",
    '"',
    "\\",
    "a\nb\tc\x00",
    "OR",
    "a:b",
    "é ",
    "\u2028",
]


def read(text):
    """The terms of a query as (field, operator, texts, negated)."""
    parsed = parse(text)
    assert parsed.problems == []
    return [
        (one.field, one.op, [value.text + "*" * value.is_prefix for value in one.values], one.negated)
        for one in parsed.terms
    ]


def test_example_is_read():
    """Words, fields, comparisons, lists and quotes."""
    assert read('result:timeout,ok -cap:llm.* duration:>=2s "no route" tiny -"a \\"b\\"" "odd name":"\\u00e9"') == [
        ("result", ":", ["timeout", "ok"], False),
        ("cap", ":", ["llm.*"], True),
        ("duration", ">=", ["2s"], False),
        (None, ":", ["no route"], False),
        (None, ":", ["tiny"], False),
        (None, ":", ['a "b"'], True),
        ("odd name", ":", ["é"], False),
    ]


@pytest.mark.parametrize("text", ["16:30", "http://host/x", "::1", "10.0.0.1:80", "a,b", "it's", "(a|b)", "<script>"])
def test_what_has_no_name_is_a_word(text):
    """A name begins with a letter, and what follows it is no URL."""
    assert read(text) == [(None, ":", [text], False)]


@pytest.mark.parametrize("text", ["since:16:30", "model:tiny:1b", "url:a/b?c=d", "größe:3"])
def test_value_may_have_colons(text):
    """The first one ends the name."""
    name, _, value = text.partition(":")
    assert read(text) == [(name, ":", [value], False)]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("ok -", "-", "nothing follows the -"),
        ("result: ok", "result:", "nothing follows result:"),
        ("result:a,,b", "result:a,", "nothing follows result:a,"),
        ("duration:>", "duration:>", "nothing follows duration:>"),
        ('x "open', '"open', "the quote is not closed"),
        ('x "a\\q" y', "\\q", "this escape is unknown"),
        ('a"b"', '"', "a space is missing here"),
        ('"a"b', "b", "a space is missing here"),
        ("a OR b", "OR", "OR is no operator"),
        ("a && b", "&&", "&& is no operator"),
        ("cap:l*m", "l*m", "a * is only possible at the end"),
    ],
)
def test_problem_has_its_place_and_a_hint(text, place, words):
    """The characters that are wrong, and in most cases what to write."""
    (problem,) = parse(text).problems
    assert (problem.message, text[problem.start : problem.end]) == (words, place)
    assert problem.hint or "space" in words


def test_all_problems_are_found():
    """The rest of the query is read, too."""
    parsed = parse("a* x: OR ok l*m -")
    assert [problem.start for problem in parsed.problems] == [3, 6, 12, 16]
    assert [one.text for one in parsed.terms] == ["a*", "ok"]


def test_query_is_bounded():
    """In characters and in values."""
    assert [problem.message for problem in parse("x" * 4_001).problems] == ["the query is longer than 4,000 characters"]
    many = parse("a:" + ",".join("x" * 65))
    assert [problem.message for problem in many.problems] == ["there are more than 64 values"]
    assert [len(one.values) for one in parse("a:" + ",".join("x" * 64)).terms] == [64]


@given(st.text(max_size=60) | st.text('"\\:-,*<>= a\n', max_size=30))
def test_any_text_is_read_or_refused_at_a_place(text):
    """Never raises; terms and problems lie within the text, and a term is what is there."""
    parsed = parse(text)
    for part in [*parsed.terms, *parsed.problems]:
        assert 0 <= part.start < part.end <= len(text)
    for one in parsed.terms:
        assert one.text == text[one.start : one.end]
        assert all(one.start <= value.start <= value.end <= one.end for value in one.values)
    assert bool(text.strip()) == bool(parsed.terms or parsed.problems)


NAMES = st.none() | st.sampled_from(["result", "model", "odd name", "größe", 'a"b', "x:y", "-a", "16"]) | st.text()


def each(test):
    """Adds each hostile text as an example."""
    for text in HOSTILE:
        test = example(name=None, value=text, negated=False, is_attribute=False)(test)
        test = example(name=text, value=text, negated=True, is_attribute=True)(test)
    return test


@each
@given(NAMES, st.text(st.characters()), st.booleans(), st.booleans())
def test_what_is_written_is_read(name, value, negated, is_attribute):
    """Whatever is in the name and in the value."""
    text = term(name, value, negated=negated, is_attribute=is_attribute)
    parsed = parse(text)
    assert parsed.problems == []
    (one,) = parsed.terms
    assert (one.field, one.op, one.negated) == (name, ":", negated)
    assert [(item.text, item.is_prefix) for item in one.values] == [(value, False)]
    assert one.is_attribute or name is None or not is_attribute


def test_terms_are_written_as_short_as_they_can_be():
    """Quotes only where they are needed; a name that is a field, too, has them to be an attribute."""
    assert term("cap", "llm.chat") == "cap:llm.chat"
    assert term("error", "no route") == 'error:"no route"'
    assert term("result", "x", is_attribute=True, negated=True) == '-"result":x'
    assert term(None, "OR") == '"OR"'


def test_term_is_json():
    """With its place; several values are a list."""
    (one,) = parse("  -cap:llm.*,rag").terms
    assert one.as_dict() == {
        "text": "-cap:llm.*,rag", "field": "cap", "op": ":", "value": ["llm.*", "rag"], "negated": True,
        "start": 2, "end": 16,
    }  # fmt: skip
    assert parse("ok").terms[0].as_dict()["value"] == "ok"


def test_bytes_that_are_no_text_are_noticed():
    """As the command line passes them on."""
    assert is_clean("é")
    assert not is_clean(b"\xff".decode(errors="surrogateescape"))

"""A backend's answers, piece by piece, and the times of a call."""

from __future__ import annotations

import pytest

from hearthnet.services.llm_errors import BackendError
from hearthnet.services.llm_frames import Piece, Tally, Usage, piece_of


@pytest.mark.parametrize(
    "document",
    [
        None,
        "text",
        {},
        {"choices": None},
        {"choices": "text"},
        {"choices": []},
        {"choices": ["text"]},
        {"choices": [{}]},
        {"choices": [{"message": "text"}]},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": {"content": "x", "reasoning": ["y"]}}]},
    ],
)
def test_document_that_is_no_answer_is_malformed(document):
    """Unexpected values from a backend are not passed on."""
    with pytest.raises(BackendError) as caught:
        piece_of(document, "message")

    assert caught.value.kind == "malformed"


@pytest.mark.parametrize("count", [-1, True, 1.5, "9", 10**9, None])
def test_counts_that_cannot_be_are_not_believed(count):
    """An absurd token count must not ruin a counter."""
    document = {
        "choices": [{"message": {"content": "x"}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": count},
    }

    assert piece_of(document, "message") == Piece("x")


def test_times_are_measured_from_the_right_moments():
    """Queue time ends with the request to the backend; first token and speed are measured from there."""
    moments = iter([10.0, 12.0, 12.5, 13.5, 14.5, 15.0])
    tally = Tally("ollama", "tiny", is_stream=True, clock=lambda: next(moments))
    tally.begin()
    for text in ("a", "b", "c"):
        tally.add(Piece(text))
    tally.add(Piece(usage=Usage(7, 21), finish_reason="length"))
    tally.end("ok")

    assert tally.fields() == {
        "queue_ms": 2_000.0,
        "ttft_ms": 500.0,
        "backend_ms": 3_000.0,
        "tokens_per_s": 10.0,  # twenty in the two seconds after the first
        "tokens_in": 7,
        "tokens_out": 21,
        "tokens_counted": False,
        "finish_reason": "length",
        "outcome": "ok",
    }


@pytest.mark.parametrize("pieces", [[], [Piece("a")], [Piece("a", usage=Usage(1, 0))]])
def test_speed_of_next_to_nothing_is_unknown(pieces):
    """Without tokens or elapsed time there is no speed."""
    tally = Tally("ollama", "tiny", is_stream=True, clock=lambda: 5.0)
    for piece in pieces:
        tally.add(piece)
    tally.end("ok")

    assert tally.tokens_per_s is None

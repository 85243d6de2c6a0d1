"""A real node with good, bad and hostile callers at once; and the judgement of the soak that sends them for an hour."""

from __future__ import annotations

import mixed
import pytest

LIMIT_MB = 256.0
IN_ORDER = {"rss_mb": 80.0, "open_files": 30, "disk_mb": 40.0, "log_mb": 0.1}


async def test_everything_at_once(node, monkeypatch):
    """Good calls are answered rightly, none of the bad is served, and the node stops in good order."""
    monkeypatch.setattr(mixed, "HOLD_S", 1.0)
    tally = await mixed.mixed(node, seconds=3.0, every_s=0.5)
    figures = mixed.measured(tally)

    assert tally.wrong == []
    assert tally.calls["good 200"] == len(tally.served_ms) > 20
    assert tally.calls["bad 401"] > 0
    assert any(kind.startswith("hostile ") for kind in tally.calls)
    assert figures["disk_mb_max"] <= LIMIT_MB
    refused = mixed.refused_by_reason(node)
    assert refused["refused not_member"] > 0
    assert refused["refused wrong"] > 0
    assert node.stop() == 0
    assert [line["msg"] for line in node.log_lines() if line["level"] in ("error", "critical")] == []


def judged(sample=None, figures=None, refused=0, wrong=()) -> list[str]:
    """The bounds that are broken where all is in order but this."""
    tally = mixed.Tally(
        served_ms=[5.0] * 100, wrong=list(wrong), samples=[dict(IN_ORDER), {**IN_ORDER, **(sample or {})}]
    )
    tally.calls.update({"good 200": 100, "good 429": refused, "bad 401": 50})
    found = {**mixed.measured(tally), "doctor_new": [], "exit_code": 0, **(figures or {})}
    return mixed.broken_bounds(tally, found, LIMIT_MB, minutes=2.0)


def test_node_in_order_breaks_no_bound():
    """Where everything is within its bounds, the soak has nothing to tell."""
    assert judged() == []
    assert judged(sample={"log_mb": 3.9}, refused=1) == []


@pytest.mark.parametrize(
    ("changed", "bound"),
    [
        ({"wrong": ["stranger: 200"]}, "an answer was wrong"),
        ({"refused": 2}, "good calls were refused"),
        ({"figures": {"good_p99_ms": 2_001.0}}, "good calls were slow"),
        ({"sample": {"rss_mb": 145.0}}, "memory grew"),
        ({"sample": {"open_files": 401}}, "too many files"),
        ({"sample": {"disk_mb": 256.1}}, "outgrew max_disk_mb"),
        ({"sample": {"log_mb": 4.2}}, "log grew"),
        ({"figures": {"doctor_new": ["log_directory"]}}, "log_directory"),
        ({"figures": {"exit_code": -9}}, "good order"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_bound_is_told(changed, bound):
    """One thing out of order is one broken bound."""
    (broken,) = judged(**changed)

    assert bound in broken

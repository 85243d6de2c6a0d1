"""Traces that are recorded by this process, many at a time."""

from __future__ import annotations

from hearthnet.observability import trace


def record(count: int, capability: str = "a.b", fail: str | None = None) -> None:
    """Records `count` traces."""
    for _ in range(count):
        started = trace.new_trace(capability)
        if fail:
            started.fail(fail)
        trace.detach()


def record_large(count: int, n: int = 0) -> None:
    """Records traces whose rows are nearly of the largest size."""
    for _ in range(count):
        with trace.new_trace("large.one") as started:
            started.extras["n"] = n
            for _ in range(4):
                with trace.span("part", text="x" * 1_100):
                    pass

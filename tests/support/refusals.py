"""Counts of calls refused by a server of this process."""

from __future__ import annotations

from hearthnet.observability import metrics


def refusals() -> dict[str, float]:
    """Returns refused calls by reason; series of other tests are 0."""
    name = 'hearthnet_refused_total{reason="'
    lines = [line for line in metrics.exposition()[0].decode().splitlines() if line.startswith(name)]
    counts = {line[len(name) :].partition('"')[0]: float(line.split()[-1]) for line in lines}
    return {reason: count for reason, count in counts.items() if count}

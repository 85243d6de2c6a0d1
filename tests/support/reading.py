"""What tests read of what was recorded, each from outside: the database, the JSON log, the metrics."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families

from hearthnet.observability import metrics
from hearthnet.observability.logs.daily_file import log_paths


def rows(database: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Returns what another process would read with `sqlite3`."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as connection:
        return connection.execute(sql, values).fetchall()


def log_lines(directory: Path) -> list[dict[str, Any]]:
    """Returns every line of the JSON log, parsed, in the order of the files."""
    return [orjson.loads(line) for path in log_paths(directory) for line in path.read_bytes().splitlines()]


def log_messages(directory: Path) -> list[str]:
    """Returns the messages of the JSON log without those of traces."""
    return [line["msg"] for line in log_lines(directory) if line["msg"] != "done"]


def metric(name: str) -> float:
    """Returns the value of a metric of this process, 0 if there is none; the name includes the labels."""
    for line in metrics.exposition()[0].decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def sample(name: str, **labels: str) -> float | None:
    """Returns the value of one series of the metrics of this process; None if there is none."""
    families = text_string_to_metric_families(metrics.exposition()[0].decode())
    found = [item.value for family in families for item in family.samples if (item.name, item.labels) == (name, labels)]
    return found[0] if found else None


def series(name: str) -> dict[tuple[str, ...], float]:
    """Returns the samples of a metric of this process, by their label values."""
    families = text_string_to_metric_families(metrics.exposition()[0].decode("utf-8"))
    return {
        tuple(sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }

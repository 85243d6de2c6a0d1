"""Another process holds the database under load: a soak, run by itself; its twin is in test_store_faults.py."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

from hearthnet.config import ObservabilityConfig
from hearthnet.observability import metrics, telemetry, trace

PACE_S = 0.1  # between batches of twenty
SLOWEST_S = 1.0  # of a batch; one that waited for the lock would take SQLite's busy timeout
FAILURES_A_SECOND = 2


def failures() -> float:
    """Returns how often a commit found the database locked."""
    name = 'hearthnet_telemetry_flush_failures_total{reason="locked"} '
    for line in metrics.exposition()[0].decode().splitlines():
        if line.startswith(name):
            return float(line.removeprefix(name))
    return 0.0


def hold(folder: Path, seconds: float) -> dict[str, float]:
    """Records while the lock is held; returns the figures."""
    config = ObservabilityConfig(data_dir=folder / "data", log_dir=folder / "logs")
    recorded, slowest_s = 0, 0.0
    with telemetry.open(config) as t, closing(sqlite3.connect(config.data_dir / telemetry.DATABASE)) as other:
        other.execute("BEGIN IMMEDIATE")
        pause = threading.Event()
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            started = time.perf_counter()
            for _ in range(20):
                with trace.new_trace("soak.lock"):
                    pass
            slowest_s = max(slowest_s, time.perf_counter() - started)
            recorded += 20
            pause.wait(PACE_S)
        failed, error = failures(), t.error
        other.rollback()
        assert error == "locked", error
        assert t.flush(20)
        ((stored,),) = other.execute("SELECT count(DISTINCT seq) FROM traces")
    return {"recorded": recorded, "stored": stored, "slowest_batch_s": slowest_s, "failed_commits": failed}


def main() -> None:
    """Holds the database's lock under load; exits with 1 if a caller waited, or a trace was dropped or stored twice."""
    parser = argparse.ArgumentParser(prog="scripts/soak lock", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    with tempfile.TemporaryDirectory() as folder:
        figures = hold(Path(folder), chosen.seconds)
    if chosen.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<16} {value:,.3f}" if isinstance(value, float) else f"{name:<16} {value:,}")
    sys.exit(
        figures["stored"] != figures["recorded"]
        or figures["slowest_batch_s"] > SLOWEST_S
        or figures["failed_commits"] > 5 + FAILURES_A_SECOND * chosen.seconds
    )


if __name__ == "__main__":
    main()

"""`info` reports what is on disk, whether or not a process is running."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime

import pytest
from support import forkserver
from support.strange import STRANGE, plant

from hearthnet.cli.telemetry.text import info_lines, remarks
from hearthnet.errors import StoreError, UnusableStoreError
from hearthnet.forensics import box as layout
from hearthnet.forensics.tables import NEWEST_VERSION
from hearthnet.locations import disk_use, locate
from hearthnet.moments import iso
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability.store.budget import Budget
from hearthnet.observability.store.purge.purge import Places, purge
from hearthnet.observability.store.purge.purge import count as planned
from hearthnet.observability.store.purge.selection import Selection
from hearthnet.observability.store.query.info import info
from hearthnet.observability.telemetry import DATABASE


@pytest.fixture
def store(observability):
    """The database of a process that has ended: 12 traces, 2 of them failed, 5 log records, one a warning."""
    with telemetry.open(observability):
        for number in range(12):
            with trace.new_trace("a.b") as started:
                if number < 2:
                    started.fail("timeout")
        for _ in range(4):
            get_logger("hearthnet.test").info("working")
        get_logger("hearthnet.test").warning("look")
    return observability.data_dir / DATABASE


RUN = "run_id, node_id, version, pid, boot_id, started_us, ended_us, end_reason, commits, written_bytes"


def change(store, sql):
    """Changes the database as another program would."""
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.executescript(sql)


def test_rings_and_their_times(store, observability):
    """Rows are counted by class, with the oldest and newest time in ISO UTC."""
    found = info(store, observability)

    traces, logs = found["rings"]["traces"], found["rings"]["logs"]
    assert (traces["rows"], traces["ordinary"], traces["notable"], traces["size"]) == (12, 10, 2, 10_000)
    assert (logs["rows"], logs["ordinary"], logs["notable"]) == (5, 4, 1)
    assert traces["oldest"] <= traces["newest"]
    assert traces["newest"].endswith("Z")
    assert datetime.fromisoformat(traces["newest"]).utcoffset().total_seconds() == 0
    assert found["schema"] == NEWEST_VERSION


def test_bytes_and_budget(store, observability):
    """Bytes by part add up to the total, and the bounds follow from max_disk_mb."""
    store.with_name(f"{DATABASE}.corrupt-20260101T000000Z").write_bytes(bytes(1_000))
    disk = (found := info(store, observability))["disk"]

    assert disk["bytes"]["database"] >= store.stat().st_size
    assert disk["bytes"]["logs"] == sum(path.stat().st_size for path in observability.log_dir.iterdir())
    assert disk["bytes"]["quarantine"] == 1_000
    assert disk["total"] == sum(disk["bytes"].values())
    assert disk["budget"]["total"] == 256_000_000
    assert disk["budget"]["database"] == 128_000_000
    assert disk["free"] > 0
    assert 0 < disk["floor"] <= 128_000_000
    assert [item["bytes"] for item in found["quarantined"]] == [1_000]


def test_losses_by_reason(store, observability):
    """Gaps are summed by reason and kind."""
    gaps = ((90, "trace", "buffer_full", 5), (91, "trace", "buffer_full", 7), (92, "log", "killed", 1))
    for seq, kind, reason, count in gaps:
        change(store, f"INSERT INTO gaps VALUES ({seq}, {seq}000000, '{kind}', '{reason}', {count}, NULL)")

    drops = info(store, observability)["drops"]
    assert [(item["reason"], item["kind"], item["count"]) for item in drops] == [
        ("buffer_full", "trace", 12),
        ("killed", "log", 1),
    ]
    assert drops[0]["last"] == iso(91_000_000) == "1970-01-01T00:01:31.000Z"


def test_wear_counts_measured_runs_alone(store, observability):
    """A run that was not measured, or whose end is unknown, does not lower the rate."""
    day = 86_400_000_000
    change(
        store,
        f"""DELETE FROM runs;
        INSERT INTO runs ({RUN}) VALUES ('a', NULL, '1', 1, NULL, 0, {day}, 'clean', 1000, 5000000);
        INSERT INTO runs ({RUN}) VALUES ('b', NULL, '1', 1, NULL, 0, {day}, 'unclean', 500, 4000000);
        INSERT INTO runs ({RUN}) VALUES ('c', NULL, '1', 1, NULL, 0, {9 * day}, 'clean', NULL, NULL);
        INSERT INTO runs ({RUN}) VALUES ('d', NULL, '1', 1, NULL, 0, NULL, NULL, 7, 7);""",
    )
    found = info(store, observability)

    assert found["wear"]["measured_runs"] == 2
    assert (found["wear"]["written_bytes_per_day"], found["wear"]["commits_per_day"]) == (4_500_000, 750)
    # The last run has no end and no process: it was killed.
    assert found["runs"] == {"count": 4, "running": 0, "unclean": 2, "of_other_programs": 0}


def test_running_process_and_its_box(store, observability):
    """While a process writes, its run counts as running and its box as alive; after a kill neither does."""
    script = f"""
import sys
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry
telemetry.open(ObservabilityConfig.model_validate({observability.model_dump(mode="json")!r})).start()
print("ready", flush=True)
sys.stdin.read()
"""
    with forkserver.spawn([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        found = info(store, observability)
        process.kill()
    assert found["runs"] == {"count": 2, "running": 1, "unclean": 0, "of_other_programs": 0}
    assert [(box["pid"], box["alive"]) for box in found["boxes"]] == [(process.pid, True)]

    after = info(store, observability)
    assert after["runs"] == {"count": 2, "running": 0, "unclean": 1, "of_other_programs": 0}
    assert [box["alive"] for box in after["boxes"]] == [False]
    told = f"process {process.pid}, dead; "
    assert dict(info_lines(after))["black boxes"] == f"{told}the next start recovers it"
    change(store, "CREATE TRIGGER audit BEFORE INSERT ON traces BEGIN SELECT RAISE(ABORT, 'no'); END")
    behind = dict(info_lines(info(store, observability)))["black boxes"]
    assert behind == f"{told}it keeps the records that the trigger audit refuses"


def test_runs_without_a_box_may_be_running(store, observability):
    """As the seventeenth program beside others: it has not ended uncleanly. One whose process is gone has."""
    boot = layout.this_boot()
    for run_id, pid, where in (("a", 1, boot), ("b", os.getpid(), boot), ("c", 2**22 + 1, boot), ("d", 1, "another")):
        values = f"('{run_id}', '1', {pid}, '{where}', 0)"
        change(store, f"INSERT INTO runs (run_id, version, pid, boot_id, started_us) VALUES {values}")
    found = info(store, observability)

    assert found["runs"] == {"count": 5, "running": 2, "unclean": 2, "of_other_programs": 0}
    assert dict(info_lines(found))["runs"] == "5, 2 ended uncleanly, 2 are running"


def test_time_that_has_no_date_is_shown_as_one(store, observability):
    """A damaged row, or one of a machine whose clock was out of its mind."""
    change(store, "UPDATE logs SET ts_us = -70000000000000000; UPDATE traces SET started_us = 900000000000000000")

    lines = [text for name, text in info_lines(info(store, observability)) if not name]
    assert any("a time beyond all years" in line for line in lines)


def test_process_in_another_container_is_alive(observability, monkeypatch):
    """Its pid says nothing here, where another process may have it or none: the lock of its box counts."""
    with telemetry.open(observability):
        monkeypatch.setattr(layout, "is_alive", lambda _: False)
        found = info(observability.data_dir / DATABASE, observability)
    assert found["runs"] == {"count": 1, "running": 1, "unclean": 0, "of_other_programs": 0}
    assert [box["alive"] for box in found["boxes"]] == [True]


def test_what_cannot_be_read_is_an_error(tmp_path, observability):
    """A missing database and a damaged one give different errors."""
    with pytest.raises(StoreError, match="does not exist") as raised:
        info(tmp_path / DATABASE, observability)
    assert raised.value.hint
    (tmp_path / DATABASE).write_bytes(b"garbage" * 1_000)
    with pytest.raises(UnusableStoreError, match="not a database"):
        info(tmp_path / DATABASE, observability)


def test_garbage_beside_the_database_is_shown_not_trusted(store, observability):
    """A file that is named like a box but is none has no process, and is not alive."""
    store.with_name("telemetry.7.box").write_bytes(b"garbage")

    (box,) = info(store, observability)["boxes"]
    assert (box["pid"], box["alive"], box["bytes"]) == (None, False, 7)
    assert box["trouble"] == "it is no black box; the next start removes it"


def test_status_counts_what_info_counts(store, observability):
    """Database, WAL, boxes and quarantine; the logs are apart."""
    store.with_name("telemetry.7.box").write_bytes(b"x" * 5_000)
    store.with_name("telemetry.db.corrupt-x").write_bytes(b"x" * 700)
    used = info(store, observability)["disk"]["bytes"]

    where = locate()._replace(data_dir=store.parent, log_dir=observability.log_dir)
    assert disk_use(where)["telemetry_bytes"] == sum(used.values()) - used["logs"]
    assert disk_use(where)["log_bytes"] == used["logs"]


@pytest.mark.parametrize("name", ["telemetry.{}.box", "telemetry.x{}.box2", "telemetry.db.corrupt-20260101T00000{}Z"])
def test_what_is_no_file_is_named(store, observability, name):
    """Whatever it is: info says what, and a purge that it was skipped, in the plan and in the result."""
    kinds = [*STRANGE, "link to nothing"]
    paths = [plant(store.with_name(name.format(number)), kind) for number, kind in enumerate(kinds)]

    found = info(store, observability)
    items = found["quarantined" if "corrupt" in name else "boxes"]
    assert sorted(item["path"] for item in items) == [str(path) for path in paths]
    assert [item for item in items if not item["trouble"].endswith(", not a file")] == []
    said = {f"{item['path']}: {item['trouble']}" for item in items}
    assert said <= {text for _, text in info_lines(found)}
    places = Places(store, observability.log_dir, Budget(observability.max_disk_mb))
    everything = Selection(everything=True)
    assert said <= set(planned(places, everything).skipped)
    assert {f"skipped {text}" for text in said} <= set(remarks(purge(places, everything, agree=lambda _: None)))


def test_pipe_among_the_logs_is_named_by_a_purge(store, observability):
    """One that keeps the logs does not look at it."""
    path = plant(observability.log_dir / "2026-01-01.log", "pipe")
    places = Places(store, observability.log_dir, Budget(observability.max_disk_mb))

    assert planned(places, Selection(before_us=1)).skipped == [f"{path}: it is a pipe, not a file"]
    assert planned(places, Selection(capability="x")).skipped == []


def test_box_of_a_newer_version_is_named(store, observability):
    """By its name, or by its first bytes."""
    store.with_name("telemetry.7.box3").write_bytes(b"later")

    assert [box["trouble"] for box in info(store, observability)["boxes"]] == [
        "it is of a newer version, which recovers it"
    ]


def test_empty_store(observability):
    """A store without records has no times, and no rate."""
    with telemetry.open(observability):
        pass
    store = observability.data_dir / DATABASE
    change(store, "DELETE FROM runs")

    found = info(store, observability)
    assert found["rings"]["traces"]["oldest"] is None
    assert found["wear"]["written_bytes_per_day"] is None

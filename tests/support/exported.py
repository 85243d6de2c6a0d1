"""A store as another program left it, and how far its export has come."""

from __future__ import annotations

from contextlib import closing

from support.reading import rows
from support.records import a_trace
from support.stores import put as insert

from hearthnet.database import TELEMETRY, open_database

__all__ = ["cursors", "put", "traces"]

ID = "01M8PB3HQC7D4KZXGR0H1X3E{:02X}"


def put(settings, traces=(), logs=(), **state):
    """Makes a store with rows, whose seq is their number, and with these names in `state`."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    path = settings.data_dir / "telemetry.db"
    insert(path, traces, logs)
    with closing(open_database(path, TELEMETRY)) as connection:
        last = max([one.number for one in (*traces, *logs)])
        connection.execute("UPDATE state SET value = ? WHERE name = 'seq'", (last,))
        for name, value in state.items():
            connection.execute("INSERT INTO state VALUES (?, ?)", (name.replace("_", "."), value))
    return path


def traces(count, **changes):
    """So many traces, each named by its number."""
    return [a_trace(n, trace_id=ID.format(n % 256), capability=f"t.{n}", **changes) for n in range(1, count + 1)]


def cursors(settings):
    """The cursors in the database, and what was lost."""
    found = rows(settings.data_dir / "telemetry.db", "SELECT name, value FROM state WHERE name GLOB 'otlp.*'")
    return dict(found)

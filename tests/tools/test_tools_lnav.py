"""lnav takes the format, and by it knows the level, time, text, trace and fields of each line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from datetime import datetime

import pytest

from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, logging, tracing
from hearthnet.tools.files import FILES

needs_lnav = pytest.mark.skipif(shutil.which("lnav") is None, reason="lnav is not here (apt-get install lnav)")


def lnav(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs lnav without a terminal; its settings are in this test's home."""
    given = {**os.environ, "TERM": "dumb", "TZ": "America/New_York"}
    return subprocess.run(["lnav", *arguments], capture_output=True, text=True, env=given, timeout=60)


@pytest.fixture
def installed(tmp_path):
    """The format, installed as docs/tools.md says."""
    path = tmp_path / "hearthnet.json"
    path.write_text(FILES["lnav"].text())
    done = lnav("-i", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def log_dir(tmp_path):
    """A log with every level, a trace that failed, an exception, and hostile text."""
    settings = ObservabilityConfig(log_dir=tmp_path / "log", data_dir=tmp_path, log_level="debug")
    logging.configure(settings)
    log = get_logger("hearthnet.work")
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)("at %s", level, extra={"step": 1, "ratio": 0.5, "deep": {"a": [1, "x"]}})
    with suppress(ValueError), tracing.new_trace("experimental.work"):
        log.info("within")
        raise ValueError("broken")
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        log.exception("caught")
    log.info('tab\there, \x1b[31mred, \u202e and a quote " and a backslash \\', extra={"level_x": None})
    return tmp_path / "log"


@needs_lnav
def test_lnav_takes_the_format(installed):
    """`lnav -C` finds nothing wrong."""
    done = lnav("-C")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_lnav
def test_broken_format_is_noticed(home, installed):
    """The check above does find mistakes."""
    (path,) = [*home.rglob("installed/hearthnet_log.json"), *home.rglob("installed/hearthnet.json")]
    path.write_text(FILES["lnav"].text().replace('"kind": "float"', '"kind": "flaot"'))

    assert lnav("-C").returncode != 0


@needs_lnav
def test_lines_are_read_by_their_fields(installed, log_dir):
    """Every line of ours is recognised, with level, UTC time, body, trace and numbers as SQL columns."""
    lines = [json.loads(line) for path in log_dir.glob("*.log") for line in path.read_text("utf-8").splitlines()]
    asked = "SELECT log_level, log_time_msecs, log_body, logger, trace_id, result, ms, exc_type FROM hearthnet_log"
    done = lnav("-n", "-c", f";{asked}", "-c", ":write-json-to -", str(log_dir))
    rows = json.loads(done.stdout)

    assert len(lines) >= 8
    for column, key in [("log_level", "level"), ("log_body", "msg"), *((key, key) for key in ("logger", "trace_id"))]:
        assert [row[column] for row in rows] == [line.get(key) for line in lines]
    assert [row["log_time_msecs"] for row in rows] == [
        round(datetime.fromisoformat(line["ts"]).timestamp() * 1_000) for line in lines
    ]
    assert [row["exc_type"] for row in rows] == [line.get("exc_type") for line in lines]
    (ended,) = [row for row in rows if row["log_body"] == "done"]
    assert (ended["result"], float(ended["ms"]) > 0) == ("internal_error", True)

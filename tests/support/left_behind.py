"""Helpers of forensics tests: a program that records and dies, and fingerprints of evidence."""

from __future__ import annotations

import hashlib
from pathlib import Path

# Records into the given folder, and dies in the given way.
PROGRAM = """
import os, sys
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, telemetry, trace

base, calls, last = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
log = get_logger("app.work")
with telemetry.open(ObservabilityConfig(data_dir=base / "data", log_dir=base / "log", max_disk_mb=64)) as t:
    for number in range(calls):
        with trace.new_trace("llm.chat") as made:
            with trace.span("fetch", n=number):
                pass
            if number % 10 == 0:
                made.fail("timeout", f"no answer after {number} s")
        if number == calls // 2:
            t.flush()
    log.error("disk is slow", extra={"path": "/dev/x", "hostile": "\\x1b[31m</script>\\u202e"})
    trace.new_trace("rag.query")
    trace.span("embed").__enter__()
    log.warning("last words")
    if last == "kill":
        os.kill(os.getpid(), 9)
"""


def fingerprints(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Returns name, content, time and mode of everything below a folder, which must not change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (content, status.st_mtime_ns, status.st_mode)
    return found

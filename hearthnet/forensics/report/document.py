"""The JSON document of a case and its verdict, as printed by `--json` and described by the schema.

It is strict JSON whatever was recorded: no NaN or infinity, no lone surrogates.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from hearthnet.constants import LIBRARY_ROLE, NODE_ROLE
from hearthnet.files import open_file
from hearthnet.forensics.evidence.safe_stat import is_file
from hearthnet.forensics.model import CAUSES, Case, Entry, InFlight, Run, Verdict, Vitals
from hearthnet.moments import iso

__all__ = ["VERSION", "document", "sha256_of"]

VERSION: Final = 1
_CHUNK_BYTES: Final = 1 << 20


def document(case: Case, verdict: Verdict) -> dict[str, Any]:
    """Returns the document. Times are ISO 8601 in UTC, durations milliseconds."""
    programs = case.programs()
    found: dict[str, Any] = {
        "version": VERSION,
        "directory": str(case.directory),
        "verdict": verdict.cause,
        "summary": CAUSES[verdict.cause],
        "confidence": verdict.confidence,
        "evidence": list(verdict.evidence),
        "alternatives": list(verdict.alternatives),
        "missing": list(verdict.missing),
        "run": None if case.run is None else _run(case.run),
        "in_flight": [{**_in_flight(trace), "program": programs.get(trace.run_id)} for trace in case.in_flight],
        "timeline": [_entry(entry) for entry in case.entries],
        "errors": [
            {**_without_times(asdict(group)), "first": iso(group.first_us), "last": iso(group.last_us)}
            for group in case.errors
        ],
        "slowest": [_entry(entry) for entry in case.slowest],
        "minutes": [
            {"start": iso(minute.start_us), "traces": minute.traces, "failed": minute.failed} for minute in case.minutes
        ],
        "vitals": [_vitals(vitals) for vitals in (case.run.vitals if case.run else ())],
        "findings": list(case.findings),
        "findings_at": case.findings_at,
        "runs": [_run(run) for run in case.runs],
        "sources": [
            {**asdict(source), "path": str(source.path), "sha256": sha256_of(source.path)} for source in case.sources
        ],
    }
    return _strict_document(found)


def sha256_of(path: Path) -> str | None:
    """Returns the SHA-256 of a file, so that a later change can be detected; None if it cannot be read."""
    digest = hashlib.sha256()
    if not is_file(path):
        return None
    try:
        with open_file(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


def _without_times(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.endswith("_us")}


def _run(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "version": run.version,
        "pid": run.pid,
        "boot_id": run.boot_id,
        "node_id": run.node_id,
        "program": run.program or None,
        "role": NODE_ROLE if run.is_node else LIBRARY_ROLE,
        "started": iso(run.started_us),
        "ended": iso(run.ended_us),
        "last_seen": iso(run.last_seen_us),
        "end_reason": run.end_reason,
        "is_alive": run.is_alive,
        "has_box": run.has_box,
        "fault": run.fault,
    }


def _in_flight(trace: InFlight) -> dict[str, Any]:
    return {**_without_times(asdict(trace)), "started": iso(trace.started_us)}


def _vitals(vitals: Vitals) -> dict[str, Any]:
    return {"ts": iso(vitals.ts_us), **_without_times(asdict(vitals))}


def _entry(entry: Entry) -> dict[str, Any]:
    # Not with `asdict`, which copies every span: there may be a million.
    return {
        "ts": iso(entry.ts_us),
        "kind": entry.kind,
        "status": entry.status,
        "name": entry.name,
        "text": entry.text,
        "run_id": entry.run_id,
        "seq": entry.seq,
        "number": entry.number,
        "trace_id": entry.trace_id,
        "duration_ms": entry.duration_ms,
        "source": entry.source,
        "extras": entry.extras,
        "exc": entry.exc,
        "spans": list(entry.spans),
    }


def _strict_document(found: dict[str, Any]) -> dict[str, Any]:
    """Returns a document that every JSON parser accepts. Only parts that the encoder refuses are rebuilt."""
    return {
        name: [_strict_part(item) for item in value] if isinstance(value, list) else _strict_part(value)
        for name, value in found.items()
    }


def _strict_part(value: Any) -> Any:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError):
        return _strict(value)
    return value


def _strict(value: Any) -> Any:
    """Returns a value that every JSON parser accepts."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_strict(str(key)): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return value if value is None or isinstance(value, (bool, int)) else str(value)

"""A diagnostic bundle that is safe to publish: every text in it comes from an allow-list.

Numbers and times are copied. A text is copied only if it is the name of a check, status, verdict, result or setting,
or of a module or exception class of Python, this package or one of its libraries. Any other text becomes `other`,
however harmless it looks.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import sqlite3
import sys
import sysconfig
import zipfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import distributions
from math import ceil
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import hearthnet
from hearthnet import checks
from hearthnet.config import Config, ObservabilityConfig, default_config, resolve_paths
from hearthnet.config_sections import Section
from hearthnet.constants import LEVELS, RESERVED_CAPABILITY_PREFIXES
from hearthnet.errors import StoreError
from hearthnet.files import replace_private
from hearthnet.forensics.evidence.entries import integer, number
from hearthnet.forensics.gather import gather
from hearthnet.forensics.model import Case, Entry, Run, Source
from hearthnet.forensics.verdict import judge
from hearthnet.forensics.whose import last_first, runs_to_judge
from hearthnet.moments import iso
from hearthnet.observability.doctor import STATUSES
from hearthnet.observability.records.results import RESULTS, is_failure
from hearthnet.observability.reports.history import streaks
from hearthnet.observability.reports.report_file import recall, timestamp
from hearthnet.observability.store.query.info import info
from hearthnet.observability.telemetry import DATABASE

__all__ = ["CONTENTS", "make_bundle", "write_bundle"]

CONTENTS: Final = {
    "doctor.json": "the checks: status, and since when",
    "versions.json": "versions of hearthnet, Python, SQLite, libraries and the system; processors and memory",
    "config.json": "changed settings: numbers, switches and choices; for any other only that it is set",
    "runs.json": "duration and end of each run; verdict and vital signs of the last and the present run",
    "calls.json": "calls of these two runs by kind of capability: results and durations",
    "errors.json": "errors of these two runs: type, code location, count, first and last time",
    "telemetry.json": "rows, bytes and drops of the store, the state of its files",
}
_OTHER: Final = "other"
_OPEN: Final = "open"  # the status of a trace in flight, listed separately
_END_REASONS: Final = ("clean", "unclean", "rebuilt")
_LOSS_REASONS: Final = ("buffer_full", "poison", "killed", "wal_lost")
_LIBRARIES: Final = (
    "aiosqlite", "anyio", "click", "cryptography", "fastapi", "h11", "httpcore", "httptools", "httpx", "jsonschema",
    "orjson", "platformdirs", "prometheus_client", "pydantic", "rich", "starlette", "uvicorn",
)  # fmt: skip
_PACKAGES: Final = frozenset({"hearthnet", *_LIBRARIES, *sys.stdlib_module_names})
_HOME: Final = Path(hearthnet.__file__).parents[1]
_CODE: Final = (_HOME, *(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")))
_VERSION: Final = re.compile(r"[0-9]{1,8}(\.[0-9]{1,8}){0,3}((a|b|rc|\.post|\.dev)[0-9]{1,8})?")
_FRAME: Final = re.compile(r'File "([^"\n]+)", line ([0-9]{1,6})')
_MOMENTS: Final = 50_000  # both rings, and the lines of the log beside them
_MOST: Final = 100  # runs, groups of errors, traces in flight
_MOST_FRAMES: Final = 12
_MOST_VITALS: Final = 30  # the last minute
_STAMP: Final = (1980, 1, 1, 0, 0, 0)  # the same content gives the same file


def make_bundle(config: Config, report: dict[str, Any]) -> dict[str, bytes]:
    """Returns the bundle's files by name.

    Args:
        config: the node's settings, paths resolved.
        report: the doctor's report, as `--json` prints it.
    """
    settings = config.observability
    runs, sources, cases = _cases(settings)
    own = {name: list(_own(case)) for name, case in cases.items()}
    parts = {
        "doctor.json": _findings(report, settings),
        "versions.json": _versions(),
        "config.json": _changed(config, resolve_paths(default_config())),
        "runs.json": {
            **{name: _ending(case, run) for name, case in cases.items() if (run := case.run)},
            "runs": [_run_facts(run) for run in runs_to_judge(runs)[:_MOST]],
            "of_other_programs": len(runs) - len(runs_to_judge(runs)),
        },
        "calls.json": {name: list(_calls(entries)) for name, entries in own.items()},
        "errors.json": {name: _errors(entries)[:_MOST] for name, entries in own.items()},
        "telemetry.json": {
            **_store(settings),
            "files": [{"kind": file.kind, "state": file.state, "bytes": file.size_bytes} for file in sources],
        },
    }
    listing = "".join(f"{name:<14}  {text}\n" for name, text in CONTENTS.items())
    readme = f"Made by `hearthnet doctor --bundle`. It contains no text written by a person or program.\n\n{listing}"
    return {"README.txt": readme.encode()} | {name: json.dumps(part, indent=2).encode() for name, part in parts.items()}


def write_bundle(parts: dict[str, bytes], path: Path) -> None:
    """Writes the files as a zip with mode 0600, atomically.

    Raises:
        OSError: raised when it cannot be written.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in parts.items():
            packed.writestr(zipfile.ZipInfo(f"hearthnet-bundle/{name}", _STAMP), content, zipfile.ZIP_DEFLATED)
    replace_private(path, buffer.getvalue())


# --- allowed texts


def _one_of(text: object, known: Collection[str]) -> str:
    return text if isinstance(text, str) and text in known else _OTHER


def _version(text: object) -> str | None:
    match = _VERSION.match(str(text))
    return match and match[0]


def _kind_of(capability: str) -> str:
    known = capability == "experimental.echo"
    return capability if known else _one_of(capability.partition(".")[0], RESERVED_CAPABILITY_PREFIXES)


def _exception(text: str) -> str:
    """Returns the exception class at the start of an error text, without its module."""
    return _one_of(text.partition(":")[0].rpartition(".")[2], _exceptions())


@cache
def _exceptions() -> frozenset[str]:
    """Returns the imported exception classes of Python, this package and its libraries."""
    found, waiting = set(), [BaseException]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if str(kind.__module__).partition(".")[0] in _PACKAGES:
            found.add(kind.__name__)
    return frozenset(found)


def _logger(name: str) -> str:
    """Returns a logger's name if it is one of our modules, else its package."""
    parts = name.split(".")
    is_module = all(map(str.isidentifier, parts)) and _HOME.joinpath(*parts).with_suffix(".py").is_file()
    return name if is_module and parts[0] == "hearthnet" else _one_of(parts[0], _PACKAGES)


def _locations(text: str | None) -> list[str]:
    """Returns the code locations of a traceback in order, each as `module:line`."""
    return [_location(path, int(line)) for path, line in _FRAME.findall(text or "")]


def _location(path: str, line: int) -> str:
    for folder in _CODE:
        parts = Path(path).with_suffix("").parts[len(folder.parts) :] if path.startswith(f"{folder}/") else ()
        # A message may look like a traceback: only existing lines are shown.
        if parts and parts[0] in _PACKAGES and all(map(str.isidentifier, parts)) and 0 < line <= _lines_of(path):
            return f"{'.'.join(parts)}:{line}"
    return _OTHER


@cache
def _lines_of(path: str) -> int:
    try:
        return len(Path(path).read_bytes().splitlines())
    except OSError:
        return 0


# --- the files


def _findings(report: dict[str, Any], settings: ObservabilityConfig) -> dict[str, Any]:
    try:
        memory = recall(settings.data_dir or Path())
    except OSError:  # `since` stays unknown
        memory = []
    names = {*(check.__name__ for check in checks.ALL), "node_answers"}
    found = []
    for check in report["checks"]:
        last = next(reversed(streaks(memory, check["name"])), None)
        found.append(
            {
                "name": _one_of(check["name"], names),
                "status": _one_of(check["status"], STATUSES),
                "since": timestamp(last.since) if last is not None and last.status == check["status"] else None,
                "duration_ms": number(check.get("duration_ms")),
            }
        )
    return {"source": _one_of(report.get("source"), ("node", "disk")), "checks": found}


def _versions() -> dict[str, Any]:
    installed = {found.name.replace("-", "_"): found.version for found in distributions()}
    return {
        "hearthnet": hearthnet.__version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": platform.system(),
        "release": _version(platform.release()),  # a custom kernel may have a name appended
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "libraries": {name: _version(installed[name]) for name in _LIBRARIES if name in installed},
    }


def _changed(value: Any, usual: object = None, annotation: object = None) -> Any:
    """Returns a section's settings that differ from `usual`, or a setting's value, or that it is set."""
    if isinstance(value, Section):
        kinds = {name: field.annotation for name, field in type(value).model_fields.items()}
        pairs = {name: (getattr(value, name), getattr(usual, name, ...)) for name in kinds}
        return {name: _changed(*pair, kinds[name]) for name, pair in pairs.items() if pair[0] != pair[1]}
    if isinstance(value, tuple):
        return [_changed(item) for item in value]
    is_choice = get_origin(annotation) is Literal and value in get_args(annotation)
    return value if value is None or is_choice or isinstance(value, bool | int | float) else "set"


def _cases(settings: ObservabilityConfig) -> tuple[list[Run], list[Source], dict[str, Case]]:
    """Returns all runs, the files, and the cases of the last ended run and of the present one."""

    def read(run_id: str | None = None) -> Case:
        return gather(settings.data_dir or Path(), log_dir=settings.log_dir, run_id=run_id, limit=_MOMENTS)

    newest, cases = read(), dict[str, Case]()
    for name, is_alive in (("last", False), ("present", True)):
        run = next((run for run in last_first(runs_to_judge(newest.runs)) if bool(run.is_alive) == is_alive), None)
        with suppress(ValueError):  # recovered by a start meanwhile, or its id is damaged
            if run is not None:
                cases[name] = newest if newest.run is run else read(run.run_id)
    return newest.runs, newest.sources, cases


def _run_facts(run: Run) -> dict[str, Any]:
    end_us = run.ended_us or run.last_seen_us or run.started_us
    return {
        "started": iso(run.started_us),
        "last_seen": iso(end_us),
        "lived_s": (end_us - run.started_us) / 1e6,
        "version": _version(run.version),
        "end_reason": run.end_reason and _one_of(run.end_reason, _END_REASONS),
        "is_alive": run.is_alive,
    }


def _ending(case: Case, run: Run) -> dict[str, Any]:
    verdict = judge(case)
    return {
        **_run_facts(run),
        "verdict": verdict.cause,
        "confidence": verdict.confidence,
        "alternatives": verdict.alternatives,
        "fault": _locations(run.fault)[:_MOST_FRAMES],  # innermost first
        "in_flight": [{"kind": _kind_of(trace.capability), "ms": trace.age_ms} for trace in case.in_flight[:_MOST]],
        "vitals": [asdict(vitals) for vitals in run.vitals[-_MOST_VITALS:]],
    }


def _own(case: Case) -> Iterator[Entry]:
    run_id = case.run and case.run.run_id
    return (entry for entry in case.entries if entry.run_id == run_id and entry.status != _OPEN)


def _calls(entries: list[Entry]) -> Iterator[dict[str, Any]]:
    groups = defaultdict[str, list[Entry]](list)
    for entry in entries:
        if entry.kind == "trace":
            groups[_kind_of(entry.name)].append(entry)
    for kind, group in groups.items():
        durations = sorted(entry.duration_ms or 0.0 for entry in group)
        yield {
            "kind": kind,
            "results": Counter(_one_of(entry.status, RESULTS) for entry in group),
            "p50_ms": durations[ceil(0.50 * len(durations)) - 1],
            "p95_ms": durations[ceil(0.95 * len(durations)) - 1],
            "max_ms": durations[-1],
        }


def _errors(entries: list[Entry]) -> list[dict[str, Any]]:
    """Returns the errors in groups, most frequent first; the innermost frame is the last."""
    groups = defaultdict[tuple[Any, ...], list[Entry]](list)
    for entry in entries:
        if entry.kind == "trace" and is_failure(entry.status):
            key = ("trace", _kind_of(entry.name), _one_of(entry.status, RESULTS), _exception(entry.text), ())
            groups[key].append(entry)
        elif entry.kind == "log" and entry.status in LEVELS[-2:]:
            error, frames = _exception(str(entry.extras.get("exc_type"))), tuple(_locations(entry.exc)[-_MOST_FRAMES:])
            groups["log", _logger(entry.name), entry.status, error, frames].append(entry)
    found = [
        {
            **dict(zip(("kind", "name", "status", "error", "frames"), key, strict=True)),
            "count": sum(1 + integer(entry.extras.get("repeats")) for entry in group),
            "first": iso(min(entry.ts_us for entry in group)),
            "last": iso(max(entry.ts_us for entry in group)),
        }
        for key, group in groups.items()
    ]
    return sorted(found, key=lambda group: group["count"], reverse=True)


def _store(settings: ObservabilityConfig) -> dict[str, Any]:
    try:
        found = info((settings.data_dir or Path()) / DATABASE, settings)
    except (StoreError, OSError, ValueError, OverflowError):  # none, or damaged: `files` says so
        return {}
    losses = Counter[str]()
    for drop in found["drops"]:
        losses[_one_of(drop["reason"], _LOSS_REASONS)] += drop["count"]
    figures = {name: found[name] for name in ("schema", "rings", "runs", "wear", "disk")}
    return {**figures, "losses": losses, "quarantined": len(found["quarantined"])}

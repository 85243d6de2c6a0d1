"""A bundle that is safe to show in public: what helps to find a fault, and nothing that tells of a person.

Two things keep it so. What may hold a prompt, a name or a secret is not taken at all: no extras of records, no message
with its numbers and quoted words, no source lines. And of what is taken every text goes through redaction and then
through `Pseudonyms`. Nothing is sent anywhere: it is a file.
"""

from __future__ import annotations

import getpass
import io
import os
import platform
import re
import socket
import sqlite3
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from hearthnet import __version__
from hearthnet.checks.wording import without_words_of_others
from hearthnet.config import Config, known_secrets
from hearthnet.errors import HearthNetError, StoreError
from hearthnet.files import replace_private
from hearthnet.forensics.document import iso
from hearthnet.forensics.gather import gather
from hearthnet.forensics.model import Case
from hearthnet.forensics.verdict import judge
from hearthnet.identity.keys import short_id
from hearthnet.observability.redaction import register_secrets, scrub
from hearthnet.observability.store.info import Limits, info
from hearthnet.observability.telemetry import DATABASE
from hearthnet.pseudonyms import Pseudonyms

__all__ = ["Bundle", "make_bundle"]

MAX_BYTES: Final = 5_000_000  # of all parts together, unpacked
_TRACES: Final = 200
_FRAME: Final = re.compile(r'^\s*File "(?P<path>[^"]+)", line (?P<line>\d+), in (?P<name>[\w.<>]+)$', re.MULTILINE)
_FRAMES: Final = 12
_LIBRARIES: Final = (
    "aiosqlite",
    "cryptography",
    "fastapi",
    "httpx",
    "orjson",
    "prometheus_client",
    "pydantic",
    "uvicorn",
)
_NOT_PROVIDED: Final = ("not_found", "not_implemented")
_MAX_USERS: Final = 2_000
_PEOPLE: Final = range(1_000, 60_000)  # user ids of people; what is below and above is the system's
_STAMP: Final = (1980, 1, 1, 0, 0, 0)  # the same content makes the same file
_README: Final = """A diagnostic bundle of a HearthNet node, made by `hearthnet doctor --bundle`.

doctor.json     what each check found
versions.json   of the program, Python, SQLite, libraries, the system
config.json     the settings in force, without secrets
errors.json     errors of the last run in groups: how often, first, last, where in the code
traces.json     the newest calls: capability, result, duration, names and durations of spans
runs.json       the lives of the node, how the last one ended, what was lost
telemetry.json  how the store stands
metrics.txt     of the running node, if one answered

Peers, ids, paths, hosts, addresses and names are numbered words: peer-1 is the same peer everywhere in this bundle, and
means nothing outside of it. Extras of calls and records, prompts and messages are not here; of errors only what
programs say was kept: numbers, quoted words and whatever else somebody may have written are `?` and `…`.
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What would be written.

    Attributes:
        parts: name and content of each file in it.
        replaced: how many values were replaced, by kind.
    """

    parts: dict[str, bytes]
    replaced: Counter[str]

    def write(self, path: Path) -> None:
        """Writes the zip with mode 0600, whole or not at all.

        Raises:
            OSError: raised when it cannot be written.
        """
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in self.parts.items():
                packed.writestr(zipfile.ZipInfo(f"hearthnet-bundle/{name}", _STAMP), content, zipfile.ZIP_DEFLATED)
        replace_private(path, buffer.getvalue())


def make_bundle(config: Config, report: dict[str, Any], exposition: str | None) -> Bundle:
    """Returns the bundle of this node.

    Args:
        config: its settings, paths resolved.
        report: the doctor's, as `--json` prints it.
        exposition: the metrics of the running node; None if none answers.
    """
    register_secrets(known_secrets(config))
    data_dir = config.observability.data_dir or Path()
    case = gather(data_dir, log_dir=config.observability.log_dir, limit=2_000)
    words = _words(config, case)
    parts = {
        "doctor.json": {**report, "checks": [_finding(check) for check in report["checks"]]},
        "versions.json": _versions(),
        "config.json": _settings(config),
        "errors.json": _errors(case),
        "traces.json": _traces(case),
        "runs.json": _runs(case),
        "telemetry.json": _store(config),
    }
    made = {"README.txt": _README.encode()}
    made.update((name, _encoded(words.value(value, scrub))) for name, value in parts.items())
    if exposition is not None:
        made["metrics.txt"] = words.text(scrub(exposition)).encode("utf-8", "replace")
    return Bundle(_within(made), words.replaced)


def _settings(config: Config) -> dict[str, Any]:
    """Returns the settings; of what is to be redacted only how many there are: somebody named there what is secret."""
    settings = config.model_dump(mode="json")
    for name in ("redact_keys", "redact_patterns"):
        settings["observability"][name] = ["…"] * len(settings["observability"][name])
    return settings


def _finding(check: dict[str, Any]) -> dict[str, Any]:
    """Returns a finding; of one that tells what calls failed with, without what those errors were about."""
    errors = (check.get("evidence") or {}).get("errors")
    if check.get("name") != "recent_error_rate" or not isinstance(errors, list):
        return check
    told = [{**error, "error": without_words_of_others(str(error.get("error")))} for error in errors]
    return {**check, "detail": check["detail"].partition(": ")[0], "evidence": {**check["evidence"], "errors": told}}


def _encoded(value: Any) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _within(parts: dict[str, bytes]) -> dict[str, bytes]:
    """Returns the parts; the largest is cut at a line until they are within the bound, which is far off."""
    while sum(map(len, parts.values())) > MAX_BYTES:
        largest = max(parts, key=lambda name: len(parts[name]))
        parts[largest] = parts[largest][: len(parts[largest]) // 2].rpartition(b"\n")[0] + b"\n(cut)\n"
    return parts


def _words(config: Config, case: Case) -> Pseudonyms:
    """Returns the words, which know the names of this machine, its user, its community and its folders."""
    # What nobody provides was only asked for: such a name is a stranger's.
    plain = {entry.name for entry in case.entries if entry.kind == "log" or entry.status not in _NOT_PROVIDED}
    words = Pseudonyms(plain, _short)
    for name in (config.identity.keys_dir, config.community.state_dir, config.file.blobs_dir,
                 config.observability.data_dir, config.observability.log_dir):  # fmt: skip
        words.know("path", None if name is None else str(name))
    words.know("path", str(Path.home()))
    words.know("host", socket.gethostname())
    words.know("host", socket.gethostname().partition(".")[0])
    for host in _hosts(config):
        words.know("host", host)
    for user in _users():
        words.know("user", user)
    words.know("community", _community_name(config))
    for backend in config.llm.backends:
        words.know("variable", backend.api_key_env)
    return words


def _short(found: str) -> str | None:
    try:
        return short_id(found)
    except (HearthNetError, ValueError):
        return None


def _hosts(config: Config) -> Iterator[str]:
    """Yields the machines that the settings name: an error may have one without any dot that would tell it."""
    settings = config.observability
    for url in (*(backend.url for backend in config.llm.backends), settings.otlp_endpoint):
        with suppress(ValueError):  # no URL
            name = urlsplit(url or "").hostname or ""
            if ":" not in name and not name.replace(".", "").isdigit():
                yield name


def _users() -> Iterator[str]:
    """Yields what the user of this process and others of this machine are called: at the login, and by neighbours."""
    with suppress(KeyError, OSError):  # a user id without a name, in a container
        yield getpass.getuser()
    with suppress(KeyError, ImportError):
        import pwd

        account = pwd.getpwuid(os.getuid())
        people = [account, *(other for other in pwd.getpwall()[:_MAX_USERS] if other.pw_uid in _PEOPLE)]
        for person in people:
            yield person.pw_name
            yield person.pw_gecos.partition(",")[0]


def _community_name(config: Config) -> str | None:
    from hearthnet.checks.finding import community_path, keys_dir
    from hearthnet.identity.keys import KeyPair
    from hearthnet.identity.manifest import read_manifest

    try:
        return read_manifest(community_path(config, KeyPair.load(keys_dir(config)))).name
    except HearthNetError:
        return None


def _versions() -> dict[str, Any]:
    return {
        "hearthnet": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if sys.platform != "win32" else None,
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _errors(case: Case) -> list[dict[str, Any]]:
    traced = {entry.text: _frames(entry.exc) for entry in case.entries if entry.exc}
    return [
        {
            "kind": group.kind,
            "name": group.name,
            "error": without_words_of_others(group.text),
            "count": group.count,
            "first": iso(group.first_us),
            "last": iso(group.last_us),
            "frames": next((frames for text, frames in traced.items() if group.text.startswith(text)), []),
        }
        for group in case.errors[:100]
    ]


def _frames(exc: str | None) -> list[str]:
    """Returns where in the code an error was raised, innermost last; never the lines themselves."""
    return [f'"{found["path"]}", line {found["line"]}, in {found["name"]}' for found in _FRAME.finditer(exc or "")][
        -_FRAMES:
    ]


def _traces(case: Case) -> list[dict[str, Any]]:
    traces = [entry for entry in case.entries if entry.kind == "trace"][-_TRACES:]
    return [
        {
            "ts": iso(entry.ts_us),
            "trace_id": entry.trace_id,
            "capability": entry.name,
            "result": entry.status,
            "duration_ms": entry.duration_ms,
            "spans": [
                {key: span.get(key) for key in ("name", "offset_ms", "duration_ms", "status")} for span in entry.spans
            ],
        }
        for entry in traces
    ]


def _runs(case: Case) -> dict[str, Any]:
    verdict = judge(case)
    return {
        "verdict": verdict.cause,
        "confidence": verdict.confidence,
        "alternatives": verdict.alternatives,
        "in_flight": [
            {"capability": trace.capability, "age_ms": trace.age_ms, "span": trace.span} for trace in case.in_flight
        ],
        "runs": [
            {
                "run_id": run.run_id,
                "version": run.version,
                "started": iso(run.started_us),
                "last_seen": iso(run.last_seen_us),
                "end_reason": run.end_reason,
                "is_alive": run.is_alive,
            }
            for run in case.runs[:100]
        ],
        "gaps": [
            {"ts": iso(entry.ts_us), "reason": entry.status, "kind": entry.name, "text": entry.text}
            for entry in case.entries
            if entry.kind == "gap"
        ],
        "sources": [
            {"kind": source.kind, "state": source.state, "bytes": source.size_bytes, "detail": source.detail}
            for source in case.sources
        ],
    }


def _store(config: Config) -> dict[str, Any]:
    settings = config.observability
    store = (settings.data_dir or Path()) / DATABASE
    try:
        return info(store, settings.log_dir, Limits(settings.max_disk_mb, settings.keep_free_mb))
    except StoreError as error:
        return {"error": error.message}

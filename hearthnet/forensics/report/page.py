"""A case as one self-contained HTML page: it fetches nothing, and its content security policy forbids it.

Recorded data is hostile: it is escaped where it is inserted, and the policy allows only our script and style, by their
digests. Without the script the drawings and the filter are missing; the tables say the rest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any, Final

from hearthnet.forensics.report.page_parts import data_of, script, style, text, waterfalls_of

__all__ = ["page"]

Item = dict[str, Any]

_MAX_ROWS: Final = 2_000  # so that the page opens at once; --json has all
_MAX_TEXT: Final = 300
_GOOD: Final = ("clean_stop", "running")
_OPEN: Final = ("imported", "unknown")
_OK: Final = ("ok", "cancelled")

# What a column looks like, by its title: the status has the row's colour, numbers are at the right, texts may wrap.
_CLASSES: Final = {
    "status": "status",
    **dict.fromkeys(("age, at least", "bytes", "count", "pid", "took"), "num"),
    **dict.fromkeys(("capability", "detail", "detail, SHA-256", "error", "open span", "text"), "wide"),
}
_NO_SCRIPT: Final = '<noscript><p class="soft">The charts need scripts; the tables do not.</p></noscript>'


def page(found: Item) -> str:
    """Returns the page of a document made by `document`."""
    drawing, looks = script(), style()
    policy = (
        f"default-src 'none'; script-src {_digest(drawing)}; style-src {_digest(looks)}; img-src data:;"
        " base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    sections = "".join(f"<section><h2>{heading}</h2>{body}</section>" for heading, body in _sections(found) if body)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{text(found['verdict'].replace('_', ' '))}: autopsy</title><style>{looks}</style></head>"
        f"<body><main>{_head(found)}{_NO_SCRIPT}{sections}</main>"
        f'<script type="application/json" id="data">{data_of(found)}</script>'
        f'<script type="module">{drawing}</script></body></html>\n'
    )


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _sections(found: Item) -> Iterable[tuple[str, str]]:
    yield "In flight" if found["verdict"] == "running" else "In flight when it ended", _in_flight(found["in_flight"])
    yield "What happened, in UTC", _place("what-happened", found["timeline"])
    yield "Before the end", _place("vitals", found["vitals"][1:])
    yield "Calls a minute, in UTC", _place("minutes", [minute for minute in found["minutes"] if minute["traces"]])
    yield "Errors", _errors(found["errors"])
    yield "Slowest", _slowest(found["slowest"])
    yield "Where the time went", _waterfalls(waterfalls_of(found))
    yield "Timeline", _timeline(found["timeline"])
    yield _heading_of_findings(found["findings_at"]), _findings(found["findings"])
    yield "Runs", _runs(found)
    yield "Files", _sources(found["sources"])


def _head(found: Item) -> str:
    cause = found["verdict"]
    kind = "good" if cause in _GOOD else "open" if cause in _OPEN else ""
    run = found["run"]
    whose = f" of {run['program']}" if run is not None and run["program"] else ""
    times = "" if run is None else f"from {run['started']} to {_end_of(run)}"
    subject = "" if run is None else f"run {run['run_id']}{whose}, pid {run['pid']}, {times}"
    return (
        f'<p class="cause {kind}">{text(cause.replace("_", " "))}</p><h1>{text(found["summary"])}</h1>'
        f'<p class="soft">{text(subject)}</p><div class="card"><b>Confidence: {text(found["confidence"])}</b>'
        f"{_list('Evidence', found['evidence'])}{_list('Could also be', _words(found['alternatives']))}"
        f"{_list('Not known', found['missing'])}</div>"
    )


def _end_of(run: Item) -> str:
    return run["ended"] or run["last_seen"] or "an unknown time"


def _words(causes: Iterable[str]) -> list[str]:
    return [cause.replace("_", " ") for cause in causes]


def _list(heading: str, lines: list[str]) -> str:
    if not lines:
        return ""
    return f'<div class="soft">{heading}<ul>' + "".join(f"<li>{text(line)}</li>" for line in lines) + "</ul></div>"


def _place(name: str, drawn: list[Item]) -> str:
    """Returns the place of a drawing; nothing where there is nothing to draw."""
    return f'<div class="card"><div id="{name}"></div></div>' if drawn else ""


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, tuple[object, ...]]], name: str = "") -> str:
    """Returns a table; each row is a class and its cells."""
    classes = [_CLASSES.get(title, "") for title in heads]
    body = []
    for kind, cells in rows:
        inside = "".join(f'<td class="{look}">{text(cell)}</td>' for look, cell in zip(classes, cells, strict=True))
        body.append(f'<tr class="{kind}">{inside}</tr>')
    if not body:
        return ""
    head = "".join(f'<th class="{look}">{title}</th>' for look, title in zip(classes, heads, strict=True))
    table = f'<table id="{name}"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'<div class="card" tabindex="0">{table}</div>'


def _in_flight(traces: list[Item]) -> str:
    rows = (
        (
            "bad",
            (trace["trace_id"], trace["program"] or "", trace["capability"], f"{trace['age_ms']:,.1f} ms",
             trace["span"] or "none"),
        )
        for trace in traces
    )  # fmt: skip
    return _table(("trace", "program", "capability", "age, at least", "open span"), rows)


def _errors(groups: list[Item]) -> str:
    rows = (
        ("", (f"{group['count']:,}", group["first"], group["last"], group["name"], group["text"][:_MAX_TEXT]))
        for group in groups
    )
    return _table(("count", "first", "last", "where", "error"), rows)


def _slowest(traces: list[Item]) -> str:
    rows = (
        ("" if trace["status"] in _OK else "bad",
         (trace["ts"], _duration(trace), trace["status"], trace["name"], trace["trace_id"] or ""))
        for trace in traces
    )  # fmt: skip
    return _table(("started, UTC", "took", "status", "capability", "trace"), rows)


def _waterfalls(traces: list[Item]) -> str:
    shown: list[str] = []
    for trace in traces:
        title = f"{trace['name']} · {trace['status']} · {_duration(trace)} · {trace['trace_id']}"
        is_open = " open" if not shown else ""
        shown.append(f"<details{is_open}><summary>{text(title)}</summary></details>")
    return f'<div class="card" id="waterfalls">{"".join(shown)}</div>' if shown else ""


def _timeline(entries: list[Item]) -> str:
    rows = (
        (
            _kind_of(entry),
            (entry["ts"], entry["kind"], entry["status"], entry["name"], _duration(entry), entry["text"][:_MAX_TEXT],
             entry["trace_id"] or ""),
        )
        for entry in entries[-_MAX_ROWS:]
    )  # fmt: skip
    drawn = _table(("time, UTC", "kind", "status", "name", "took", "text", "trace"), rows, "moments")
    cut = len(entries) - _MAX_ROWS
    more = f'<p class="soft">{cut:,} earlier entries are not shown; --json has them.</p>' if cut > 0 else ""
    filtering = '<input id="filter" hidden type="search" placeholder="words to search for" aria-label="filter">'
    return f"{filtering}{drawn}{more}" if drawn else ""


def _kind_of(entry: Item) -> str:
    if entry["kind"] == "trace":
        return "" if entry["status"] in _OK else "bad"
    if entry["kind"] == "gap":
        return "warn"
    return {"warning": "warn", "error": "bad", "critical": "bad"}.get(str(entry["status"]), "")


def _duration(entry: Item) -> str:
    return "" if entry["duration_ms"] is None else f"{entry['duration_ms']:,.1f} ms"


def _heading_of_findings(at: str | None) -> str:
    return f"The doctor's findings of {text(at)}" if at else "The doctor's last findings"


def _findings(findings: list[Item]) -> str:
    kinds = {"fail": "bad", "warn": "warn"}
    rows = (
        (kinds.get(str(item.get("status")), ""), (item.get("status"), item.get("name"), item.get("detail")))
        for item in findings
    )
    return _table(("status", "check", "detail"), rows)


def _runs(found: Item) -> str:
    rows = (
        ("", (run["started"], _end_of(run), "running" if run["is_alive"] else run["end_reason"] or "no end",
              run["program"] or "", run["pid"], run["version"], run["run_id"]))
        for run in found["runs"][:100]
    )  # fmt: skip
    return _table(("started", "last seen", "end", "program", "pid", "version", "run"), rows)


def _sources(sources: list[Item]) -> str:
    rows = (
        ("", (source["kind"], source["state"], f"{source['size_bytes']:,}", source["path"],
              f"{source['detail']} {source['sha256'] or ''}"))
        for source in sources
    )  # fmt: skip
    return _table(("kind", "state", "bytes", "path", "detail, SHA-256"), rows)

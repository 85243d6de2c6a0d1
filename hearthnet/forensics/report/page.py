"""A case as one self-contained HTML page: it fetches nothing, and its content security policy forbids it.

Recorded data is hostile: it is escaped where it is inserted, and the policy allows only the script below, by its
digest. Without that script only the filter is missing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any, Final

from hearthnet.forensics.report.page_parts import minutes_chart, text, timeline_chart, vitals_charts, waterfall

__all__ = ["page"]

Item = dict[str, Any]

_MAX_ROWS: Final = 2_000  # so that the page opens at once; --json has all
_MAX_WATERFALLS: Final = 20
_MAX_TEXT: Final = 300
_GOOD: Final = ("clean_stop", "running")
_OK: Final = ("ok", "cancelled")

_STYLE: Final = """
:root{color-scheme:light dark;--bg:#fbfaf8;--ink:#1d1c1a;--soft:#6b675f;--line:#dedad2;--card:#fff;
--ok:#4f8a5b;--bad:#c2362f;--warn:#b7791f;--log:#9b968c;--open:#7a5bd0}
@media (prefers-color-scheme:dark){:root{--bg:#171614;--ink:#e9e6e0;--soft:#a09a8f;--line:#38352f;--card:#201f1c;
--ok:#6fae7c;--bad:#ef6a61;--warn:#e0a94b;--log:#77726a;--open:#a68ff0}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:20px 16px 60px}
h1{font-size:1.5rem;line-height:1.25;margin:.2em 0}h2{font-size:1.05rem;margin:2em 0 .5em}
.cause{display:inline-block;padding:.1em .6em;border-radius:4px;color:#fff;background:var(--bad);font-weight:600}
.soft li{color:var(--ink)}.cause.good{background:var(--ok)}.cause.open{background:var(--warn)}
.soft,figcaption,th{color:var(--soft)}code,.mono,td,.row{font-family:ui-monospace,monospace;font-size:.85rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:12px 14px;overflow-x:auto}
ul{margin:.4em 0;padding-left:1.2em}li{overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto}
figure{margin:0}
.axis{display:flex;justify-content:space-between;gap:8px;font-size:.75rem}
.vitals{display:grid;grid-template-columns:repeat(auto-fit,minmax(240px,1fr));gap:14px}
rect.ok{fill:var(--ok)}rect.bad{fill:var(--bad)}rect.warn{fill:var(--warn)}rect.log{fill:var(--log)}
rect.open{fill:var(--open);fill-opacity:.55;stroke:var(--open)}
polyline{fill:none;stroke:var(--open);stroke-width:2;vector-effect:non-scaling-stroke}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:2px 10px 2px 0;vertical-align:top;
border-bottom:1px solid var(--line);white-space:nowrap}td.wide{white-space:normal;overflow-wrap:anywhere;min-width:16em}
tr.bad td:nth-child(3){color:var(--bad);font-weight:600}tr.warn td:nth-child(3){color:var(--warn);font-weight:600}
.num{text-align:right;white-space:nowrap}summary{cursor:pointer;overflow-wrap:anywhere}details{margin:.3em 0}
.row{display:grid;grid-template-columns:minmax(90px,1fr) minmax(120px,3fr) 90px;gap:8px;align-items:center}
.row svg.bar{height:12px}.row>span:first-child{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
input{width:100%;padding:7px 9px;margin:0 0 8px;border:1px solid var(--line);border-radius:5px;background:var(--card);
color:inherit;font:inherit}
"""

_SCRIPT: Final = """
(function(){var box=document.getElementById('filter');if(!box)return;box.hidden=false;
var rows=Array.prototype.slice.call(document.querySelectorAll('#moments tbody tr'));
box.addEventListener('input',function(){var words=box.value.toLowerCase().split(/\\s+/);
rows.forEach(function(row){var said=row.textContent.toLowerCase();
row.hidden=!words.every(function(word){return said.indexOf(word)>=0})})})})();
"""


def page(found: Item) -> str:
    """Returns the page of a document made by `document`."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; base-uri 'none'"
    )
    sections = "".join(f"<section><h2>{heading}</h2>{body}</section>" for heading, body in _sections(found) if body)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{text(found['verdict'].replace('_', ' '))}: autopsy</title><style>{_STYLE}</style></head>"
        f"<body><main>{_head(found)}{sections}</main><script>{_SCRIPT}</script></body></html>\n"
    )


def _sections(found: Item) -> Iterable[tuple[str, str]]:
    yield "In flight when it ended", _in_flight(found["in_flight"])
    chart = timeline_chart(found["timeline"], found["in_flight"])
    yield "What happened", f'<div class="card chart">{chart}</div>' if chart else ""
    vitals = vitals_charts(found["vitals"])
    yield "Before the end", f'<div class="card vitals">{vitals}</div>' if vitals else ""
    minutes = minutes_chart(found["minutes"])
    yield "Calls per minute, failed in red", f'<div class="card minutes">{minutes}</div>' if minutes else ""
    yield "Errors", _errors(found["errors"])
    yield "Slowest", _slowest(found["slowest"])
    yield "Where the time went", _waterfalls(found["slowest"], found["timeline"])
    yield "Timeline", _timeline(found["timeline"])
    yield _heading_of_findings(found["findings_at"]), _findings(found["findings"])
    yield "Runs", _runs(found)
    yield "Files", _sources(found["sources"])


def _head(found: Item) -> str:
    cause = found["verdict"]
    kind = "good" if cause in _GOOD else "open" if cause == "unknown" else ""
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


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, tuple[object, ...]]], wide: int, name: str = "") -> str:
    """Returns a table. Each row is a class and its cells; the cell at index `wide` may wrap."""
    body = []
    for kind, cells in rows:
        inside = "".join(
            f'<td class="wide">{text(cell)}</td>' if number == wide else f"<td>{text(cell)}</td>"
            for number, cell in enumerate(cells)
        )
        body.append(f'<tr class="{kind}">{inside}</tr>')
    if not body:
        return ""
    head = "".join(f"<th>{title}</th>" for title in heads)
    mark = f' id="{name}"' if name else ""
    return f'<div class="card"><table{mark}><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _in_flight(traces: list[Item]) -> str:
    rows = (
        (
            "bad",
            (trace["trace_id"], trace["program"] or "", trace["capability"], f"{trace['age_ms']:,.1f} ms",
             trace["span"] or "none"),
        )
        for trace in traces
    )  # fmt: skip
    return _table(("trace", "program", "capability", "age, at least", "open span"), rows, 4)


def _errors(groups: list[Item]) -> str:
    rows = (
        ("", (f"{group['count']:,}", group["first"], group["last"], group["name"], group["text"][:_MAX_TEXT]))
        for group in groups
    )
    return _table(("count", "first", "last", "where", "error"), rows, 4)


def _slowest(traces: list[Item]) -> str:
    rows = (
        ("" if trace["status"] in _OK else "bad",
         (trace["ts"], _duration(trace), trace["status"], trace["name"], trace["trace_id"] or ""))
        for trace in traces
    )  # fmt: skip
    return _table(("started, UTC", "took", "status", "name", "trace"), rows, 3)


def _waterfalls(slowest: list[Item], entries: list[Item]) -> str:
    """Returns the slowest traces, slowest first, then those that failed, newest first."""
    failed = (entry for entry in reversed(entries) if entry["kind"] == "trace" and entry["status"] not in _OK)
    each = {(trace["run_id"], trace["ts"], trace["trace_id"]): trace for trace in (*slowest, *failed)}
    traces = [trace for trace in each.values() if trace["spans"]]
    shown: list[str] = []
    for trace in traces[:_MAX_WATERFALLS]:
        title = f"{trace['name']} · {trace['status']} · {trace['duration_ms'] or 0:,.1f} ms · {trace['trace_id']}"
        is_open = " open" if not shown else ""
        shown.append(f"<details{is_open}><summary>{text(title)}</summary>{waterfall(trace)}</details>")
    return f'<div class="card">{"".join(shown)}</div>' if shown else ""


def _timeline(entries: list[Item]) -> str:
    rows = (
        (
            _kind_of(entry),
            (entry["ts"], entry["kind"], entry["status"], entry["name"], _duration(entry), entry["text"][:_MAX_TEXT],
             entry["trace_id"] or ""),
        )
        for entry in entries[-_MAX_ROWS:]
    )  # fmt: skip
    drawn = _table(("time, UTC", "kind", "status", "name", "took", "text", "trace"), rows, 5, "moments")
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
        (kinds.get(str(item.get("status")), ""), ("", "", item.get("status"), item.get("name"), item.get("detail")))
        for item in findings
    )
    return _table(("", "", "status", "check", "detail"), rows, 4)


def _runs(found: Item) -> str:
    rows = (
        ("", (run["started"], _end_of(run), "running" if run["is_alive"] else run["end_reason"] or "no end",
              run["program"] or "", run["pid"], run["version"], run["run_id"]))
        for run in found["runs"][:100]
    )  # fmt: skip
    return _table(("started", "last seen", "end", "program", "pid", "version", "run"), rows, 6)


def _sources(sources: list[Item]) -> str:
    rows = (
        ("", (source["kind"], source["state"], f"{source['size_bytes']:,}", source["path"],
              f"{source['detail']} {source['sha256'] or ''}"))
        for source in sources
    )  # fmt: skip
    return _table(("kind", "state", "bytes", "path", "detail, SHA-256"), rows, 4)

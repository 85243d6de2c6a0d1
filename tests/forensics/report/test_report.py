"""The three reports: JSON with a schema, text for a terminal, and a page. Also of a hostile case."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from support.left_behind import fingerprints

from hearthnet.forensics.gather import gather
from hearthnet.forensics.main import SCHEMA, main, packaged
from hearthnet.forensics.model import CAUSES, Case, Entry, ErrorGroup, InFlight, Minute, Run, Source, Verdict, Vitals
from hearthnet.forensics.report.document import document
from hearthnet.forensics.report.page import page
from hearthnet.forensics.report.page_parts import data_of
from hearthnet.forensics.report.text import report
from hearthnet.forensics.verdict import judge

ROOT = Path(__file__).parents[3]
VALIDATOR = jsonschema.Draft202012Validator(json.loads(packaged(SCHEMA)))
EVIL = "</script><script>alert(1)</script>\x1b[31m\u202e\ud800\x00\"'&<img src=//evil.example/x onerror=alert(1)>"
NOW = 1_800_000_000_000_000


def hostile():
    """Returns a case in which every recorded string is an attack."""
    run = Run(
        EVIL, NOW - 10**9, version=EVIL, pid=7, boot_id=EVIL, last_seen_us=NOW, fault=EVIL, is_alive=False,
        vitals=(Vitals(NOW - 4_000_000, 10**8, 10**9, 7, 10**9, 0.5, 0.0), Vitals(NOW, 9 * 10**8, 1, 7, 0, 9.0, 3.0)),
    )  # fmt: skip
    span = {"id": EVIL, "parent": EVIL, "name": EVIL, "offset_ms": "x", "duration_ms": float("inf"), "status": EVIL}
    trace = Entry(NOW, "trace", EVIL, EVIL, EVIL, EVIL, 1, EVIL, 5.0, extras={EVIL: EVIL}, spans=(span,))
    record = Entry(NOW, "log", "error", EVIL, EVIL, EVIL, 2, None, None, "box", {"x": float("nan")}, EVIL)
    gap = Entry(2**62, "gap", EVIL, EVIL, EVIL, None, 3)
    return Case(
        Path(EVIL[:20]), run, [run] * 3, [trace, record, gap], [InFlight(EVIL, EVIL, EVIL, NOW, 5.0, EVIL, 1.0)],
        [ErrorGroup("f", "log", EVIL, EVIL, 3, NOW, NOW, EVIL)], [trace], [Minute(NOW, 5, 2), Minute(NOW + 1, 0, 0)],
        [{"name": EVIL, "status": "fail", "detail": EVIL}], [Source(Path("/tmp/x"), "box", "damaged", EVIL, 5)],
    )  # fmt: skip


def verdicts(case):
    """Returns the real verdict, and one of each cause with hostile evidence."""
    yield judge(case)
    for cause in CAUSES:
        yield Verdict(cause, "possible", (EVIL,), (EVIL,), ("killed",))


@pytest.mark.parametrize("case", [hostile(), Case(Path("nowhere"))], ids=["hostile", "empty"])
def test_document_is_strict_json_by_its_schema(case):
    """Whatever was recorded, the document is valid and strict JSON."""
    for verdict in verdicts(case):
        text = json.dumps(document(case, verdict), allow_nan=False)
        text.encode()
        VALIDATOR.validate(json.loads(text))


def test_schema_refuses_what_is_no_report():
    """The schema refuses documents with errors."""
    whole = document(hostile(), judge(hostile()))
    for key in ("verdict", "in_flight", "timeline", "errors", "runs", "evidence", "confidence"):
        assert not VALIDATOR.is_valid({name: value for name, value in whole.items() if name != key})
    assert not VALIDATOR.is_valid({**whole, "verdict": "bad luck"})


@pytest.mark.parametrize("columns", [80, 120])
def test_report_fits_and_gives_the_terminal_no_orders(columns):
    """No control characters but our colours, no line too wide, and only ASCII where required."""
    for verdict in verdicts(hostile()):
        plain = report(hostile(), verdict, colour=False, unicode=True, columns=columns)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", plain)
        assert max(map(len, plain.splitlines())) <= columns + 12  # a word that cannot be broken
        coloured = report(hostile(), verdict, colour=True, unicode=True, columns=columns)
        assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == plain
    assert report(hostile(), judge(hostile()), colour=False, unicode=False, columns=columns).isascii()


def test_narrow_report_keeps_ids_and_errors_whole(program):
    """They are what a person copies and reads: an id is on one line, an error wrapped instead of cut."""
    case = gather(program(40) / "data")
    error = "no route to the peer " + "word " * 30 + "end"
    group = ErrorGroup("f", "trace", "llm.chat", error, 2, 1, 2)
    slowest = [replace(entry, name="a.capability.with.a.long.name" * 3) for entry in case.slowest]
    text = report(replace(case, errors=[group], slowest=slowest), judge(case), colour=False, unicode=True, columns=80)

    assert error in " ".join(text.split())
    assert slowest
    assert all(entry.trace_id in text[text.index("\nSlowest") :] for entry in slowest)


def test_report_of_a_real_death_says_what_matters(program):
    """The verdict comes first, then the open call, the last records, the errors and the runs."""
    case = gather(program(40) / "data")
    text = report(case, judge(case), colour=False, unicode=True, columns=100)

    assert text.startswith("KILLED: ")
    for said in ("rag.query", "in embed", "last words", "4 x", "no answer after", "no end", "whole"):
        assert said in text, said


def test_heading_says_what_is_running_besides(program):
    """Of a store whose program runs again it is the run before that is shown; else nothing more is said."""
    case = gather(program(4) / "data")
    assert "running now" not in report(case, judge(case), colour=False, unicode=True, columns=100)
    case.runs.append(Run("01NEXT", case.run.started_us + 1, pid=77, program="web.py", is_alive=True))
    text = report(case, judge(case), colour=False, unicode=True, columns=100)

    assert "running now: web.py, pid 77, since " in text[: text.index("confidence")]


def test_nothing_is_wrapped_or_cut_for_a_program(program, capsys):
    """A path of any length is whole, and the run is one line, whatever the width of the terminal it was started in."""
    folder = program(40) / "data"
    deep = folder.parent / ("d" * 200)
    folder.rename(deep)

    assert main([str(deep)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith(f"{deep}/telemetry.db") for line in lines)
    assert re.fullmatch(r"run \w+ of .*, pid \d+, started .*, ran [\d.]+ m?s", lines[1])
    assert not any("…" in line for line in lines if "more like it" not in line)


class Page(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        """Records an element."""
        self.tags.append(tag)
        self.attributes.extend(attrs)


def test_page_asks_for_nothing_and_runs_nothing_of_others():
    """Only our script beside its data, no element that loads anything, and a policy that forbids the rest."""
    for verdict in verdicts(hostile()):
        made = page(document(hostile(), verdict))
        found = Page()
        found.feed(made)
        assert found.tags.count("script") == 2
        assert not {"img", "iframe", "object", "embed", "base", "form", "a"} & set(found.tags)
        assert not [
            name for name, _ in found.attributes if name in ("src", "srcset", "action") or name.startswith("on")
        ]
        assert [value for name, value in found.attributes if name == "href"] == ["data:,"]
        assert "default-src 'none'" in made
        assert "<img" not in made


def test_page_of_full_rings_stays_small():
    """Twenty thousand entries, and the spans of those that are shown, make a page of under 2 MB."""
    spans = tuple({"id": str(n), "parent": None, "name": "s", "offset_ms": n, "duration_ms": 1.0} for n in range(60))
    run = Run("01R", NOW, last_seen_us=NOW)
    entries = [
        Entry(NOW + n, "trace", "ok", "llm.chat", "", "01R", n, "T" * 26, 5.0, spans=spans if n >= 17_000 else ())
        for n in range(20_000)
    ]
    made = page(document(Case(Path("x"), run, [run], entries), Verdict("killed", "likely")))

    assert len(made) < 2_000_000
    assert "18,000 earlier entries" in made


@pytest.fixture
def told(capsys):
    """Runs the program in this process; returns exit code, standard output and standard error."""

    def run(*arguments):
        try:
            code = main(list(arguments))
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return run


def script(*arguments, cwd):
    """Runs the script with a bare Python."""
    command = [sys.executable, "-I", "-S", str(ROOT / "scripts" / "forensics.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_script_works_bare_on_copied_files(program, tmp_path):
    """Without libraries and from another folder: text, page, document, exit codes, and unchanged evidence."""
    base = program(20)
    before = fingerprints(base)

    done = script(str(base / "data"), cwd="/")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("KILLED")
    found = json.loads(script(str(base / "data" / "telemetry.db"), "--json", "--limit", "5", cwd="/").stdout)
    VALIDATOR.validate(found)
    assert len(found["timeline"]) == 5
    drawn = script(str(base / "data"), "--html", str(tmp_path / "page.html"), cwd="/")
    assert drawn.returncode == 1
    assert (tmp_path / "page.html").stat().st_mode & 0o777 == 0o600
    assert "exists" in script(str(base / "data"), "--html", str(tmp_path / "page.html"), cwd="/").stderr
    assert {name: value for name, value in fingerprints(base).items() if name != "page.html"} == before

    program(3, "stop")
    assert script(str(base / "data"), cwd="/").returncode == 0


@pytest.mark.parametrize(
    ("content", "said"), [(None, "missing"), (b"", "empty"), (b"nonsense", "foreign"), (b"\0" * 9000, "damaged")]
)
def test_files_that_are_not_a_store_are_reported(tmp_path, told, content, said):
    """Exit code 2, the state of the file and a hint; no traceback."""
    if content is not None:
        (tmp_path / "telemetry.db").write_bytes(content)
    code, printed, complaint = told(str(tmp_path / "telemetry.db"))

    assert code == 2
    assert said in printed
    assert "hint:" in complaint


def test_wrong_usage_is_an_error(program, told):
    """An invalid time, an unknown run, and a reader that closes the pipe."""
    data = str(program(3) / "data")
    for arguments, said in (
        (("--since", "soon"), "use 90m (ago), 2d"),
        (("--run", "01NOBODY"), "no run id begins"),
        (("--around", "01NOBODY"), "no trace"),
        (("--limit", "-1"), "between"),
    ):
        code, printed, complaint = told(data, *arguments)
        assert (code, printed) == (2, "")
        assert said in complaint
    assert json.loads(told("--schema")[1])["title"]
    piped = f"{sys.executable} -I -S {ROOT}/scripts/forensics.py {data} --json --limit 20000 | head -c 10"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ('{"version"', "")


def test_reports_say_whose_it_was(program):
    """Each line says whose it is where there are several programs; an age in flight is a minimum."""
    case = gather(program(4) / "data", limit=1_000)
    case.runs = [replace(run, program="web.py") for run in case.runs]
    case.run = case.runs[0]
    other = Run("01CRON", case.run.started_us, case.run.started_us + 1, "clean", program="cron.py", role="library")
    alone = report(case, judge(case), colour=False, unicode=True, columns=120)
    case.runs.append(other)
    case.entries.append(Entry(NOW, "log", "info", "cron", "said", other.run_id))
    text = report(case, judge(case), colour=False, unicode=True, columns=120)

    assert f"run {case.run.run_id} of web.py, pid" in alone
    listed = alone[alone.index("\nRuns, newest first: --run ID shows another\n") :]
    assert re.search(rf"^> .*  {case.run.run_id[:10]}  .*, pid {case.run.pid}$", listed, re.MULTILINE)
    assert re.search(r"rag\.query  at least \d+(\.\d)? ms old, in embed for at least \d+(\.\d)? ms, of web\.py", alone)
    assert not re.search(r"\d web\.py +trace", alone)
    assert re.search(r"\d web\.py +trace +ok", text)
    assert re.search(r"\d cron\.py +log +info", text)
    found = document(case, judge(case))
    assert [(run["program"], run["role"]) for run in found["runs"]] == [("web.py", "library"), ("cron.py", "library")]
    assert [trace["program"] for trace in found["in_flight"]] == ["web.py"]
    assert all(said in page(found) for said in ("of web.py", "age, at least", "cron.py"))


@pytest.mark.parametrize(("cause", "heading"), [("running", "In flight"), ("killed", "In flight when it ended")])
def test_heading_of_what_is_in_flight(cause, heading):
    """What runs has not ended."""
    case, verdict = hostile(), Verdict(cause, "certain", ())

    assert f"\n\n{heading}\n" in report(case, verdict, colour=False, unicode=True, columns=120)
    assert f"<h2>{heading}</h2>" in page(document(case, verdict))


def test_record_that_represents_a_flood_says_so():
    """Its time is that of the last one: alone it would look like a record that was made then."""
    case = hostile()
    case.entries = [Entry(NOW, "log", "info", "worker", "worked", extras={"repeats": 1_039})]

    assert " worker worked, and 1,039 more like it\n" in report(
        case, judge(case), colour=False, unicode=True, columns=120
    )


def trace_item(number, duration_ms, status="ok", spans=1):
    """A trace as the document has it."""
    made = [
        {"id": str(n), "parent": None, "name": f"span{n}", "offset_ms": n, "duration_ms": 1.0, "status": "ok"}
        for n in range(spans)
    ]
    return {
        "ts": f"2026-11-30T10:00:{number:02d}.000Z", "kind": "trace", "status": status, "name": "llm.chat", "text": "",
        "run_id": "01RUN", "seq": number, "number": number, "trace_id": f"01TRACE{number:02d}",
        "duration_ms": duration_ms, "source": "database", "extras": {}, "exc": None, "spans": made,
    }  # fmt: skip


def summaries(html):
    """The traces whose spans are drawn, in order."""
    return re.findall(r"<summary>.*?(01TRACE\d\d)</summary>", html)


def page_of(program, entries, slowest):
    """The page of a real case with these traces."""
    case = gather(program(1) / "data")
    return page({**document(case, judge(case)), "timeline": entries, "slowest": slowest})


def test_page_draws_the_slowest_first_then_the_newest_failures(program):
    """However many others there are, and whether they are in the timeline that is shown."""
    entries = [trace_item(n, 5.0, "timeout" if n >= 30 else "ok") for n in range(60)]
    slow = [trace_item(2, 20_000.0), trace_item(1, 900.0), trace_item(59, 800.0, "timeout")]

    html = page_of(program, entries, slow)

    listed = summaries(html)
    assert listed[:3] == ["01TRACE02", "01TRACE01", "01TRACE59"]
    assert listed[3:] == [f"01TRACE{n}" for n in range(58, 41, -1)]
    table = html[html.index("<h2>Slowest</h2>") : html.index("<h2>Where the time went</h2>")]
    assert re.findall(r"01TRACE\d\d", table) == ["01TRACE02", "01TRACE01", "01TRACE59"]
    assert "20,000.0 ms" in table


@pytest.mark.parametrize("slowest", [[], [trace_item(3, 9.0, spans=0)]])
def test_page_without_spans_draws_none(program, slowest):
    """A trace without spans is in the table alone."""
    html = page_of(program, [], slowest)

    assert summaries(html) == []
    assert ("<h2>Slowest</h2>" in html) == bool(slowest)


@pytest.mark.parametrize(("dropped", "said"), [(None, 500), (7, 507), ("many", 500)])
def test_page_draws_as_many_spans_as_a_trace_keeps(program, dropped, said):
    """Of more spans than that the first, which have their parents, and the number of the others."""
    trace = {**trace_item(1, 500.0, spans=1_500), "extras": {"truncated": dropped}}
    case = gather(program(1) / "data")
    drawn = json.loads(data_of({**document(case, judge(case)), "slowest": [trace]}))["waterfalls"][0]["trace"]

    assert [span["name"] for span in drawn["spans"]] == [f"span{n}" for n in range(1_000)]
    assert drawn["truncated_spans"] == said

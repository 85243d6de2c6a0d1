"""The scripts of the page, as text: joined they are one module, and nothing in them parses text as markup."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from hearthnet.files import packaged
from hearthnet.forensics.report import page_parts
from hearthnet.forensics.report.page_parts import data_of, script, style

IMPORT = re.compile(r'^import .* from "\./(\w+\.js)";$', re.MULTILINE)
DECLARED = re.compile(r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", re.MULTILINE)


def sources():
    """Name and text of each script, in the order in which they are joined."""
    return [(name, packaged(f"{page_parts._HERE}/{name}")) for name in page_parts._MODULES]


def test_each_script_imports_from_those_before_it():
    """So that a served page gets them one by one, and the report as one without imports."""
    before = []
    for name, text in sources():
        assert text.count("\nimport ") == len(IMPORT.findall(text)), name
        assert set(IMPORT.findall(text)) <= set(before), name
        before.append(name.removeprefix("draw/"))
    assert "\nimport " not in script()
    assert {f"draw/{path.name}" for path in (Path(page_parts.__file__).parent / "draw").glob("*.js")} < set(
        page_parts._MODULES
    )


def test_no_name_is_declared_twice():
    """Joined, the scripts share one scope."""
    declared = Counter(DECLARED.findall(script()))

    assert len(declared) > 50
    assert [name for name, count in declared.items() if count > 1] == []


def test_no_script_parses_text():
    """No sink of markup or code, no style or handler as an attribute, nothing that asks for an address."""
    sinks = r"\w+HTML\b|document\.write|\beval\b|Function\(|DOMParser|\"style\"|\"on\w+\"|fetch"

    assert re.findall(sinks, script()) == []
    assert re.findall(r'https?:[^"]*', script()) == ["http://www.w3.org/2000/svg"]
    assert re.findall(r"url\(|@import|https?:", style()) == []


def test_data_ends_no_script():
    """Whatever was recorded; and it is the same data when parsed."""
    shown = {"kind": "log", "status": "</script>", "name": "<!--", "text": "\u2028<b>", "duration_ms": None}
    entry = {**shown, "ts": "2026-11-30T12:00:00.000Z", "run_id": "01R", "trace_id": None, "spans": []}
    nothing = dict.fromkeys(("in_flight", "runs", "minutes", "vitals", "slowest"), ())
    text = data_of({**nothing, "timeline": [entry], "run": None})

    assert "<" not in text
    assert text.isascii()
    assert json.loads(text)["entries"] == [{**shown, "ts_us": 1_796_040_000_000_000}]

"""`hearthnet trace import`: a neighbour's records beside one's own."""

from __future__ import annotations

import json

import pytest

from hearthnet.cli.main import _run
from hearthnet.locations import locate
from hearthnet.observability import telemetry, trace
from hearthnet.observability.logging import get_logger

ID = "01HXR4Z6W5S9E2JQ4Y0T7B3M0C"


@pytest.fixture(params=["otlp-json", "otlp"])
def exported(request, tmp_path, capsys):
    """A neighbour's store, and what it has exported."""
    with telemetry.open(tmp_path / "neighbour", console="off"):
        for result in ("ok", "timeout"):
            with trace.new_trace("tea.make@1.0", trace_id=ID) as started, trace.span("boil", degrees=100):
                get_logger("kitchen").warning("the kettle whistles")
                if result != "ok":
                    started.fail(result, "cold")
    file = tmp_path / "kitchen.otlp"
    export = ["telemetry", "export", "--data", str(tmp_path / "neighbour"), "--format", request.param]
    assert _run([*export, "--to", str(file)]) == 0
    capsys.readouterr()
    return file


def printed(capsys, *words):
    """What a command prints as JSON."""
    assert _run([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def without_numbers(items):
    """Records without what is not exported, or given anew."""
    return [{key: value for key, value in item.items() if key not in ("number", "seq")} for item in items]


def test_readers_show_what_the_neighbours_show(exported, capsys):
    """Traces, a trace, log records found by a search: as in the store that they are of."""
    made = printed(capsys, "trace", "import", str(exported))
    assert (made["name"], made["traces"], made["logs"], made["repeated"]) == ("kitchen", 2, 2, 0)

    for words in (["trace", "recent"], ["trace", "show", ID], ["search", "boil"], ["search", "--logs", "whistles"]):
        own = printed(capsys, *words, "--data", str(exported.parent / "neighbour"))
        again = printed(capsys, *words, "--data", made["folder"])
        rows = [found["rows"] if isinstance(found, dict) else found for found in (own, again)]
        assert without_numbers(rows[0]) == without_numbers(rows[1]) != []


def test_trace_is_found_beside_ones_own(exported, capsys):
    """Without a store of one's own, and with one that lacks it; its source is named. One's own goes first."""
    assert _run(["trace", "import", str(exported), "--name", "k"]) == 0
    capsys.readouterr()
    assert [item["imported"] for item in printed(capsys, "trace", "show", ID)] == ["k", "k"]
    with telemetry.open(), trace.new_trace("own"):
        pass
    assert _run(["trace", ID[:8].lower()]) == 0
    assert "imported as k" in capsys.readouterr().out
    assert [item["capability"] for item in printed(capsys, "trace", "recent")] == ["own"]

    with telemetry.open(), trace.new_trace("own", trace_id=ID):
        pass
    assert ["imported" in item for item in printed(capsys, "trace", "show", ID)] == [False]


def test_list_and_remove(exported, capsys):
    """A damaged one is told of, and can be removed."""
    assert printed(capsys, "trace", "import", "--list") == []
    assert _run(["trace", "import", str(exported)]) == 0
    capsys.readouterr()
    assert [len(item["programs"]) for item in printed(capsys, "trace", "import", "--list")] == [1]
    assert _run(["trace", "import", "--list"]) == 0
    assert "2 traces and 2 log records of " in capsys.readouterr().out
    (locate().data_dir / "imported" / "kitchen" / "telemetry.db").write_bytes(b"no database")
    assert _run(["trace", "import", "--list"]) == 0
    assert "warning: " in capsys.readouterr().err
    assert printed(capsys, "trace", "import", "--remove", "kitchen") == {"removed": "kitchen"}
    assert _run(["trace", "import", "--remove", "kitchen"]) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "name a FILE"), (["x", "--list"], 2, "name a FILE"), (["--list", "--name", "x"], 2, "name a FILE"),
        (["missing.jsonl"], 1, "missing.jsonl cannot be read: No such file"),
        (["."], 1, ". cannot be read: it is a folder"),
        (["missing.jsonl", "--name", "../x"], 2, "cannot be the name of a store"),
        (["--remove", "x"], 1, "there is no imported store x\nhint: hearthnet trace import --list"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_an_error(words, code, said, capsys, tmp_path, monkeypatch):
    """With a hint how to go on."""
    monkeypatch.chdir(tmp_path)
    assert _run(["trace", "import", *words]) == code
    assert said in capsys.readouterr().err


def test_second_import_needs_another_name(exported, capsys):
    """What is there stays."""
    assert _run(["trace", "import", str(exported)]) == 0
    assert _run(["trace", "import", str(exported)]) == 1
    assert "hint: give another with --name" in capsys.readouterr().err
    assert _run(["trace", "import", str(exported), "--name", "again"]) == 0


def test_purge_takes_what_a_killed_import_left(exported, capsys):
    """But no store that was imported."""
    with telemetry.open(console="off"), trace.new_trace("own"):
        pass
    assert _run(["trace", "import", str(exported)]) == 0
    left = locate().data_dir / "imported" / ".kitchen-ab12cd_9"
    left.mkdir()
    (left / "telemetry.db").write_bytes(b"half")
    assert _run(["telemetry", "purge", "--all", "--yes"]) == 0

    assert [path.name for path in left.parent.iterdir()] == ["kitchen"]

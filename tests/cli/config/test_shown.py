"""`hearthnet config`: what it prints, and its exit codes."""

from __future__ import annotations

import orjson
import pytest

from hearthnet.cli.main import _run
from hearthnet.config import default_path
from hearthnet.settings.origins import fields


def printed(capsys, *arguments):
    """The JSON that a command prints."""
    assert _run(["config", *arguments, "--json"]) == 0
    return orjson.loads(capsys.readouterr().out)


def test_show_lists_every_setting(capsys):
    """With its value and where that is from; a value in brackets is a value."""
    assert _run(["config", "set", "transport.hosts", '["node.example.org"]']) == 0
    assert _run(["config", "show"]) == 0
    out = capsys.readouterr().out

    assert '["node.example.org"]' in out
    assert all(name in out for name in fields())
    shown = printed(capsys, "show", "--changed")
    assert [(row["key"], row["value"], row["origin"]) for row in shown["settings"]] == [
        ("transport.hosts", ["node.example.org"], "file")
    ]


def test_get_prints_a_value_for_a_shell(capsys):
    """A text as it is, a list as JSON, nothing for none."""
    for name, value in {
        "transport.host": "0.0.0.0",
        "transport.port": "7080",
        "transport.hosts": "[]",
        "doctor.mail": "",
    }.items():
        assert _run(["config", "get", name]) == 0
        assert capsys.readouterr().out.strip() == value
    assert printed(capsys, "get", "observability.eco")["value"] is False


def test_set_says_what_holds_now(capsys, monkeypatch):
    """And what it does not change."""
    assert _run(["config", "set", "transport.port", "7082"]) == 0
    out, err = capsys.readouterr()
    assert out == f"transport.port is now 7082 in {default_path()}\n"
    assert err == "hint: a running node takes it at its next start\n"
    assert _run(["config", "set", "transport.port", "7082"]) == 0
    assert "is already 7082" in capsys.readouterr().out
    assert printed(capsys, "unset", "transport.port")["changed"]

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    assert _run(["config", "set", "observability.otlp_endpoint", "http://other:4318"]) == 0
    assert "OTEL_EXPORTER_OTLP_ENDPOINT in the environment wins" in capsys.readouterr().err


def test_check_has_exit_codes(capsys):
    """0 and 1, with everything that is wrong."""
    assert _run(["config", "check"]) == 0
    default_path().parent.mkdir(parents=True)
    default_path().write_text("[transport]\nport = 0\nprot = 1\n", "utf-8")
    assert _run(["config", "check"]) == 1
    err = capsys.readouterr().err
    assert err.count("error: ") == 2
    assert "did you mean port?" in err
    assert _run(["config", "check", "--json"]) == 1
    assert [one["field"] for one in orjson.loads(capsys.readouterr().out)["problems"]] == [
        "transport.port",
        "transport.prot",
    ]
    default_path().write_text("[transport\n", "utf-8")
    assert _run(["config", "check", "--json"]) == 1
    assert orjson.loads(capsys.readouterr().out)["problems"][0]["code"] == "invalid_toml"


@pytest.mark.parametrize("name", fields())
def test_every_setting_is_explained_in_the_words_of_its_model(name, capsys):
    """Also where the settings cannot be used."""
    default_path().parent.mkdir(parents=True)
    default_path().write_text("[transport]\nport = 0\n", "utf-8")

    assert printed(capsys, "explain", name)["meaning"] == fields()[name].description
    assert _run(["config", "explain", name]) == 0
    assert capsys.readouterr().out.startswith(f"{name}\nmeaning  ")


def test_explanation_has_unit_range_default_and_variable(capsys):
    """As far as there are any."""
    assert _run(["config", "explain", "observability.max_disk_mb"]) == 0
    out = capsys.readouterr().out
    assert "may be   MB, at least 64\n" in out
    assert "default  256\n" in out
    assert _run(["config", "explain", "observability.otlp_endpoint"]) == 0
    assert "variable OTEL_EXPORTER_OTLP_ENDPOINT\n" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [["get"], ["explain"], ["unset"], ["set"]])
def test_unknown_setting_is_an_error_with_a_suggestion(verb, capsys):
    """Nothing is written."""
    value = ["1"] if verb == ["set"] else []
    assert _run(["config", *verb, "transport.prot", *value]) == 1
    assert "did you mean transport.port" in capsys.readouterr().err
    assert not default_path().exists()

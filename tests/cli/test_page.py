"""`hearthnet page`: links, sharing, revoking, and what it refuses. Nodes and servers are real in the other tests."""

from __future__ import annotations

import json

import click
import pytest

from hearthnet.cli import page as module
from hearthnet.cli.main import _run
from hearthnet.transport.page.grants import Grants

URL = "http://127.0.0.1:8000/telemetry/"


@pytest.fixture
def data_dir(tmp_path):
    """The folder of a store."""
    path = tmp_path / "data"
    path.mkdir()
    return path


def page(*arguments, data_dir) -> int:
    """Runs the command for a page that a program serves."""
    return _run(["page", "--data", str(data_dir), *arguments])


def test_link_to_a_page_that_a_program_serves(data_dir, capsys):
    """Alone on standard output; its token can be claimed."""
    assert page("--url", URL, data_dir=data_dir) == 0
    link, _, token = capsys.readouterr().out.strip().partition("#token=")

    assert link == URL
    assert Grants(data_dir).claim(token) is not None


def test_json(data_dir, capsys):
    """One document with link and ends."""
    assert page("--url", URL, "--json", "--share", "1h", data_dir=data_dir) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)

    assert document.keys() == {"url", "until_us", "shared_until_us", "is_encrypted"}
    assert (document["is_encrypted"], said.err) == (False, "")
    assert document["shared_until_us"] == Grants(data_dir).shared_until_us()


@pytest.mark.parametrize(("scheme", "words"), [("http", "NOT encrypted"), ("https", ", encrypted")])
def test_sharing_says_whether_it_is_encrypted(data_dir, capsys, scheme, words):
    """And prints a link with an address for other machines."""
    assert page("--url", f"{scheme}://127.0.0.1:8000", "--share", "30m", data_dir=data_dir) == 0
    said = capsys.readouterr()

    assert words in said.err
    assert said.out.startswith(f"{scheme}://{module._address()}:8000/#token=")


def test_revoking(data_dir, capsys):
    """Says how many browsers had access."""
    grants = Grants(data_dir)
    secret = grants.claim(grants.offer()).secret
    grants.share(60)

    assert page("--revoke", data_dir=data_dir) == 0
    assert "access for 1 browser;" in capsys.readouterr().out
    assert (grants.holder(secret), grants.shared_until_us()) == (None, None)
    assert page("--revoke", "--json", data_dir=data_dir) == 0
    assert json.loads(capsys.readouterr().out) == {"revoked": 0}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", "ftp://x/"), ("--url", "x"), ("--url", "http://x/?a=1"), ("--url", "http://x/#a"), ("--share", "25h"),
        ("--share", "soon"), ("--share", "0"), ("--port", "70000"),
    ],
)  # fmt: skip
def test_wrong_options_are_usage_errors(data_dir, arguments, capsys):
    """And grant nothing."""
    assert page(*arguments, data_dir=data_dir) == 2
    assert capsys.readouterr().out == ""
    assert list(data_dir.iterdir()) == []


def test_folder_without_a_store(data_dir, capsys):
    """There is nothing to serve: said at once."""
    assert page(data_dir=data_dir) == 1
    assert "there is no telemetry.db" in capsys.readouterr().err


def test_browser_is_opened_on_request_alone(data_dir, monkeypatch, capsys):
    """With a private file that goes on to the link: other users see a process's arguments. No browser is no error."""
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    page("--url", URL, data_dir=data_dir)
    assert opened == []
    capsys.readouterr()
    assert page("--url", URL, "--open", data_dir=data_dir) == 0
    said = capsys.readouterr()

    opening = data_dir / "page.html"
    assert opened == [opening.as_uri()]
    assert "#token=" not in opened[0]
    assert f'content="0; url={said.out.strip()}"' in opening.read_text()
    assert opening.stat().st_mode & 0o777 == 0o600
    assert "no browser could be opened" in said.err


@pytest.mark.parametrize(
    ("url", "shared"),
    [
        ("http://[::1]:7080/", "http://192.0.2.7:7080/"),
        ("http://127.0.0.1:8000/t/", "http://192.0.2.7:8000/t/"),
        ("https://LocalHost/", "https://192.0.2.7/"),
        ("http://p/", "http://p/"),
        ("https://MyHost:1/", "https://MyHost:1/"),
    ],
)
def test_shared_link_names_what_others_reach(data_dir, monkeypatch, capsys, url, shared):
    """This machine's address instead of a loopback one; a name that was given stays, for the certificate has it."""
    monkeypatch.setattr(module, "_address", lambda: "192.0.2.7")
    assert page("--url", url, "--share", "1h", data_dir=data_dir) == 0

    assert capsys.readouterr().out.partition("#token=")[0] == shared


def test_help_has_examples():
    """As every command."""
    assert "hearthnet page --share 1h" in module.command.get_help(click.Context(module.command))

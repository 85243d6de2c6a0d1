"""Datasette's metadata have the cookbook; and Datasette lets in the owner alone, reads live and does not disturb."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import closing

import httpx
import pytest
from benchmarks.cookbook import DOCUMENT, questions
from benchmarks.sample import make_store
from support.waiting import wait_until

from hearthnet.config import default_config, resolve_paths
from hearthnet.constants import DATABASE
from hearthnet.database import TELEMETRY, open_database
from hearthnet.errors import HearthNetError, MissingExtraError
from hearthnet.tools import datasette

PATIENCE_S = 60


def test_queries_are_those_of_the_cookbook():
    """Each question of docs/queries.md, with its SQL, in their order."""
    found = datasette.metadata("telemetry")["databases"]["telemetry"]["queries"]

    expected = [
        (question.title, question.sql.strip().rstrip(";")) for question in questions(DOCUMENT.read_text("utf-8"))
    ]
    assert [(query["title"], query["sql"].rstrip(";")) for query in found.values()] == expected
    assert all(re.fullmatch(r"[a-z0-9_]+", slug) for slug in found)
    assert len(found) == len(expected)


def program(folder, printed: str):
    """A program of that name which prints a version."""
    path = folder / "datasette"
    path.write_text(f"#!/bin/sh\necho '{printed}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("printed", "accepted"),
    [
        ("datasette, version 0.65.5", True),
        ("datasette, version 0.64.8", False),
        ("datasette, version 1.0a19", False),
        ("", False),
    ],
)
def test_only_versions_that_keep_others_out(tmp_path, monkeypatch, printed, accepted):
    """Datasette 1.0 would ignore that only root is let in, so it is not started."""
    path = program(tmp_path, printed)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))

    if accepted:
        assert datasette.find_program() == str(path)
    else:
        with pytest.raises(HearthNetError, match=r"not 0\.65"):
            datasette.find_program()


def test_missing_program_names_the_extra(tmp_path, monkeypatch):
    """With the command that installs it."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError) as raised:
        datasette.find_program()
    assert raised.value.hint == "pip install 'hearthnet[browse]'"


@pytest.fixture
def store():
    """The cookbook's store as this home's."""
    path = resolve_paths(default_config()).observability.data_dir / DATABASE
    path.parent.mkdir(parents=True)
    make_store(path)
    return path


def has_datasette() -> bool:
    """Whether the program can be started here."""
    try:
        return bool(datasette.find_program())
    except HearthNetError:
        return False


@pytest.mark.skipif(not has_datasette(), reason="Datasette is not installed (pip install 'hearthnet[browse]')")
def test_browse_serves_the_live_store_to_its_owner(store, tmp_path):
    """Every query of the cookbook has a result; strangers get none; the writer goes on, and its WAL is reset."""
    output = tmp_path / "out"
    command = [sys.executable, "-m", "hearthnet", "telemetry", "browse"]
    with output.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)

    def link() -> str | None:
        assert process.poll() is None, output.read_text()
        found = re.search(r"http://127\.0\.0\.1:\d+/-/auth-token\?token=\w+", output.read_text())
        return found and ("running on" in output.read_text() or None) and found[0]

    try:
        url = wait_until(link, output.read_text, PATIENCE_S)
        base = url.partition("/-/")[0]
        with httpx.Client(base_url=base, timeout=PATIENCE_S, verify=False) as stranger:
            for path in (
                "/",
                "/telemetry.json",
                "/telemetry/traces.json",
                "/telemetry.json?sql=select+1",
                "/-/metadata",
            ):
                assert stranger.get(path).status_code == 403, path
        with httpx.Client(base_url=base, timeout=PATIENCE_S, verify=False) as owner:
            assert owner.get(url).status_code == 302
            for slug in datasette.metadata("telemetry")["databases"]["telemetry"]["queries"]:
                found = owner.get(f"/telemetry/{slug}.json")
                assert (found.status_code, found.json()["ok"]) == (200, True), slug
            with closing(open_database(store, TELEMETRY)) as writer:
                writer.execute("DELETE FROM logs WHERE seq = (SELECT max(seq) FROM logs)")
                count = writer.execute("SELECT count(*) FROM logs").fetchone()[0]
                shown = owner.get("/telemetry.json?sql=select+count(*)+as+n+from+logs&_shape=array")
                assert shown.json() == [{"n": count}]
                assert writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
            refused = owner.get("/telemetry.json?sql=delete+from+logs")
            assert refused.status_code == 400
        with httpx.Client(base_url=base, timeout=PATIENCE_S, verify=False) as late:
            assert late.get(url).status_code == 403
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)


def browse(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command where it cannot serve."""
    command = [sys.executable, "-m", "hearthnet", "telemetry", "browse", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)


def test_no_store_is_said_before_anything_starts(tmp_path):
    """As of the other commands."""
    done = browse()

    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr.splitlines()[1]
        == "hint: start the node once: hearthnet run; of a program, name the folder that it records in"
    )

    other = tmp_path / "other.db"
    other.write_text("no database at all, and long enough for a header of one " * 3)
    done = browse("--db", str(other))
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr


FAKE = """#!{python}
import http.server, sys
if "--version" in sys.argv:
    print("datasette, version 0.65.5")
    sys.exit()
open({arguments!r}, "w").write(" ".join(sys.argv))
port = int(sys.argv[sys.argv.index("--port") + 1])
print(f"http://127.0.0.1:{{port}}/-/auth-token?token=abc123", flush=True)
http.server.HTTPServer(("127.0.0.1", port), http.server.BaseHTTPRequestHandler).handle_request()
"""


def test_browser_is_opened_without_the_token_in_its_arguments(store, tmp_path):
    """Every user of the machine can list them: a private file goes on to the link, once Datasette listens."""
    folder = tmp_path / "programs"
    folder.mkdir()
    opened, arguments = tmp_path / "opened", tmp_path / "arguments"
    texts = {
        "datasette": FAKE.format(python=sys.executable, arguments=str(arguments)),
        "browser": f'#!/bin/sh\necho "$@" > {opened}.part && mv {opened}.part {opened}\n',
        "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    program = "import sys; sys.executable = sys.argv.pop(1); from hearthnet.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, str(folder / "python"), "telemetry", "browse", "--open"]
    environment = {**os.environ, "BROWSER": f"{folder / 'browser'} %s"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            wait_until(opened.exists, "no browser", PATIENCE_S)
            opening = store.with_name("page.html")
            assert opened.read_text().strip() == opening.as_uri()
            port = arguments.read_text().split("--port ")[1].split()[0]
            link = f"http://127.0.0.1:{port}/-/auth-token?token=abc123"
            assert f'content="0; url={link}"' in opening.read_text()
            assert opening.stat().st_mode & 0o777 == 0o600
            assert "--open" not in arguments.read_text()
            assert process.stdout.readline().strip() == link
        finally:
            process.kill()

"""Messages by webhook, command and mail, and what becomes of those that are not taken."""

from __future__ import annotations

import email
import email.policy
import errno
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from datetime import UTC, datetime
from email.header import decode_header
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import orjson
import pytest
from support.certificates import write_pair
from support.programs_of import script
from support.waiting import wait_until

from hearthnet.notify.channels import ChannelError, Command, Mail, Webhook
from hearthnet.notify.message import about
from hearthnet.notify.told import Event

NOW = 1_800_000_000.0
EVIL = "x\r\nBcc: all@example.org\r\n\r\nbody\u2028\u202e\x00\x1b[31m"


def message(*, name="keys_present", status="fail", detail="has mode 0644", fix="chmod 600 key"):
    """A message about one change."""
    return about([Event(name, status, detail, fix, NOW - 60, NOW)], NOW)


@pytest.fixture
def server():
    """A webhook: what it got, and the status it responds with."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            """Keeps what it got."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.got.append((self.path, dict(self.headers), body))
            self.send_response(self.server.status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815  # the standard library's name

        def log_message(self, *args):
            """Stays quiet."""

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.got, made.status = [], 200
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def of_group(group):
    """The processes of a group that are alive."""
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, owner = (directory / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(owner) == group and state != "Z":
                yield directory.name


def url(server, path="topic", user=""):
    """Its address."""
    return f"http://{user}127.0.0.1:{server.server_port}/{path}"


def test_text_has_the_headers_that_ntfy_reads(server):
    """Title, priority and tags; the text is the body."""
    Webhook(url(server, "topic?x=1")).send(message())

    path, headers, body = server.got[0]
    assert path == "/topic?x=1"
    assert headers["Title"] == f"HearthNet on {socket.gethostname()}: keys_present fails"
    assert (headers["Priority"], headers["Tags"]) == ("4", "rotating_light")
    assert body.decode() == "FAIL keys_present: has mode 0644\n  fix: chmod 600 key"


def test_document_says_all_of_it(server):
    """For programs: what changed, and the text for people."""
    Webhook(url(server), "json").send(message(status="pass", fix=None))

    _, headers, body = server.got[0]
    document = orjson.loads(body)
    assert headers["Content-Type"] == "application/json"
    assert document["changes"] == [
        {
            "name": "keys_present",
            "status": "pass",
            "detail": "has mode 0644",
            "fix": None,
            "since": "2027-01-15T07:59:00Z",
            "ts": "2027-01-15T08:00:00Z",
        }
    ]
    assert document["text"].startswith(document["title"])
    assert document["urgency"] == "low"


@pytest.mark.parametrize(
    ("user", "token", "expected"),
    [
        ("", "t0ken", "Bearer t0ken"),
        ("me:p%40ss@", None, "Basic bWU6cEBzcw=="),
        ("m%40e@", None, "Basic bUBlOg=="),
        ("", None, None),
    ],
)
def test_webhook_gets_its_token_or_password(server, user, token, expected):
    """As a header, and not in the address."""
    Webhook(url(server, user=user), token=token).send(message())

    path, headers, _ = server.got[0]
    assert headers.get("Authorization") == expected
    assert "ss" not in path


@pytest.mark.parametrize("style", ["text", "json"])
def test_hostile_text_is_no_header(server, style):
    """Whatever a check has found."""
    Webhook(url(server), style).send(message(name=EVIL, detail=EVIL, fix=EVIL))

    _, headers, body = server.got[0]
    assert "Bcc" not in headers
    assert b"\x1b" not in body


def test_title_that_is_not_ascii_is_encoded(server):
    """As RFC 2047 says, which ntfy reads."""
    Webhook(url(server)).send(message(name="grün"))

    (raw, charset), *_ = decode_header(server.got[0][1]["Title"])
    assert raw.decode(charset).endswith("grün fails")


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 429, 500])
def test_other_response_is_a_failure(server, status):
    """A redirect too: it is not followed, so no token goes elsewhere."""
    server.status = status
    with pytest.raises(ChannelError, match=f"it responded with {status}") as failed:
        Webhook(url(server, "s3cret-topic")).send(message())

    assert len(server.got) == 1
    assert "s3cret" not in str(failed.value)


def test_webhook_that_is_away_is_a_failure_that_names_no_address(free_port):
    """For many services the address is the key."""
    webhook = Webhook(f"http://127.0.0.1:{free_port}/s3cret-topic")
    with pytest.raises(ChannelError) as failed:
        webhook.send(message())

    assert str(failed.value) == "connection refused"
    assert "s3cret" not in webhook.name + webhook.key


@pytest.mark.parametrize(
    "broken", ["http://[::1/s3cret", "http://ho st/s3cret", "http://:0x/s3cret", "http://x:99999/s3cret"]
)
def test_address_that_is_none_is_a_failure(broken):
    """And no error of Python's."""
    webhook = Webhook(broken)
    with pytest.raises(ChannelError) as failed:
        webhook.send(message())

    assert "s3cret" not in str(failed.value) + webhook.name


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("s3cret"), "RuntimeError"),
        (OSError("s3cret"), "OSError"),
        (OSError(errno.EIO, "I/O Error", "s3cret"), "i/o error"),
        (TimeoutError("s3cret"), "no response in time"),
        (URLError(TimeoutError()), "no response in time"),
        (URLError("s3cret"), "str"),
    ],
    ids=repr,
)
def test_error_that_no_one_expects_is_a_failure(server, monkeypatch, error, reason):
    """Not a message that was taken; what may quote the address is not told."""

    def broken(self, message):
        raise error

    monkeypatch.setattr(Webhook, "_request", broken)
    with pytest.raises(ChannelError, match=f"^{reason}$"):
        Webhook(url(server)).send(message())


def test_webhook_of_this_machine_needs_no_proxy(server, monkeypatch, free_port):
    """That of the environment would get the token."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port}")
    Webhook(url(server), token="t0ken").send(message())

    assert len(server.got) == 1


@pytest.mark.parametrize(
    ("host", "is_proxied"),
    [
        ("localhost", False),
        ("127.1.2.3", False),
        ("[::1]", False),
        ("192.0.2.1", True),
        ("ntfy.example.org", True),
        ("[2001:db8::1]", True),
    ],
)
def test_proxy_of_the_environment_is_for_other_machines(server, monkeypatch, host, is_proxied):
    """It gets the whole address of those."""
    monkeypatch.setenv("http_proxy", url(server, ""))
    address = f"http://{host}:{server.server_port}/topic"
    with suppress(ChannelError):  # the server is at one of this machine's addresses alone
        Webhook(address).send(message())

    assert [path for path, *_ in server.got] == [address] * is_proxied or [path for path, *_ in server.got] == [
        "/topic"
    ]
    assert (len(server.got) == 1) is (is_proxied or host == "localhost")


def test_address_without_a_path_is_that_of_the_root(server):
    """And what stands behind a # is not sent."""
    Webhook(f"http://127.0.0.1:{server.server_port}#s3cret").send(message())
    Webhook(url(server, "topic#s3cret")).send(message())

    assert [path for path, *_ in server.got] == ["/", "/topic"]


@pytest.mark.parametrize(
    ("channel", "name", "key"),
    [
        (Webhook("https://me:pw@ntfy.example.org/topic"), "webhook at ntfy.example.org", "webhook:55d4619cdae0311e"),
        (Webhook("https:///topic"), "webhook at ?", "webhook:3cd48fb54edbd4d5"),
        (Webhook("http://a\x7fb/"), "webhook at a b", "webhook:11efe591357cd6b7"),
        (Command(("/opt/bin/te\x1bll", "s3cret", "x")), "command te ll", "command:2a69f7624e3f8b77"),
        (Command(("/opt/bin/tell", "s3cretx")), "command tell", "command:357a4a877ea135b1"),
        (Mail("me@example.org"), "mail", "mail:855c94f3498940b2"),
    ],
    ids=str,
)
def test_channel_is_told_by_its_name_and_known_by_its_key(channel, name, key):
    """The key is in the state file: with another one after an update everything would be sent again."""
    assert (channel.name, channel.key) == (name, key)


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "x:y"])
def test_nothing_but_http_is_opened(address):
    """Whatever the settings would take."""
    with pytest.raises(ChannelError):
        Webhook(address).send(message())


def test_certificate_that_is_not_trusted_is_a_failure(server, tmp_path):
    """The message and its token are not sent."""
    pair = write_pair(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair["tls_cert"], pair["tls_key"])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with pytest.raises(ChannelError, match="certificate is not trusted"):
        Webhook(url(server).replace("http:", "https:"), token="t0ken").send(message())

    assert server.got == []


def test_title_that_looks_encoded_is_encoded(server):
    """What a check's name says is not read as more than that."""
    Webhook(url(server)).send(message(name="=?UTF-8?B?Qg==?="))

    (raw, charset), *_ = decode_header(server.got[0][1]["Title"])
    assert raw.decode(charset).endswith(": =?UTF-8?B?Qg==?= fails")


def test_webhook_that_does_not_respond_holds_the_doctor_up_for_a_bounded_time():
    """A server that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ChannelError, match="no response"):
            Webhook(f"http://127.0.0.1:{port}/", timeout_s=0.2).send(message())
        assert [thread for thread in threading.enumerate() if not thread.daemon] == [threading.main_thread()]


def test_command_gets_the_message_as_json(tmp_path):
    """On its standard input."""
    program = script(tmp_path / "tell", f'cat > "{tmp_path}/got"; echo "$1" > "{tmp_path}/argument"')
    Command((str(program), "a b; c")).send(message())

    assert orjson.loads((tmp_path / "got").read_bytes())["changes"][0]["name"] == "keys_present"
    assert (tmp_path / "argument").read_text() == "a b; c\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'no network' >&2; exit 3", "it ended with 3: no network"),
        ("exec <&-; exit 0", None),  # reads nothing
        ("echo 'password=hunter2hunter2' >&2; exit 1", r"it ended with 1: password=\[redacted\]"),
        ("printf ' first\\033[1m \\nlast\\n' >&2; exit 4", r"it ended with 4: first \[1m$"),
        ("exit 5", "it ended with 5$"),
    ],
)
def test_command_that_fails_is_a_failure(tmp_path, body, reason):
    """With the first line of what it said, redacted."""
    command = Command((str(script(tmp_path / "tell", body)),))
    if reason is None:
        command.send(message())
    else:
        with pytest.raises(ChannelError, match=reason):
            command.send(message())


def test_command_that_hangs_is_ended_with_its_children(tmp_path):
    """After its time."""
    program = script(tmp_path / "tell", f"echo $$ > '{tmp_path}/pid'; tail -f /dev/null")
    with pytest.raises(ChannelError, match="did not end within"):
        Command((str(program),), timeout_s=0.5).send(message())

    group = int((tmp_path / "pid").read_text())
    wait_until(lambda: not any(of_group(group)), lambda: list(of_group(group)))


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_command_that_cannot_be_ended_is_not_waited_for(tmp_path, monkeypatch):
    """As one that has become root's, by sudo."""
    real = os.killpg

    def refused(group, number):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", refused)
    monkeypatch.setattr("hearthnet.notify.channels._END_S", 0.05)
    program = script(tmp_path / "tell", f"echo $$ > '{tmp_path}/pid'; tail -f /dev/null")
    with pytest.raises(ChannelError, match="did not end within"):
        Command((str(program),), timeout_s=0.5).send(message())

    real(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_command_needs_no_place_for_temporary_files(tmp_path, monkeypatch):
    """On a full disk there is none, and then a message matters most."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    program = script(tmp_path / "tell", "echo said >&2; exit 3")
    with pytest.raises(ChannelError, match="it ended with 3: said"):
        Command((str(program),)).send(message())


def test_command_that_leaves_a_program_behind_has_succeeded(tmp_path):
    """That program holds its standard error open."""
    program = script(tmp_path / "tell", f"tail -f /dev/null & echo $! > '{tmp_path}/pid'")
    Command((str(program),), timeout_s=60.0).send(message())

    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_command_that_says_much_costs_no_memory(tmp_path):
    """All but its first bytes is dropped, and it is not held up by that."""
    said = "echo first >&2; head -c 1000000 /dev/zero >&2; [ $(stat -L -c %s /dev/stderr) -le 65536 ] && exit 3"
    with pytest.raises(ChannelError, match=r"it ended with 3: first$"):
        Command((str(script(tmp_path / "tell", said)),)).send(message())


def test_command_that_never_stops_talking_is_ended(tmp_path):
    """After its time."""
    with pytest.raises(ChannelError, match="did not end within"):
        Command((str(script(tmp_path / "tell", "exec yes >&2")),), timeout_s=0.3).send(message())


def test_program_that_is_left_behind_may_go_on_talking(tmp_path):
    """It is neither killed by that nor held up."""
    talk = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done; head -c 200000 /dev/zero >&2; echo $? > {tmp_path}/done"
    Command((str(script(tmp_path / "tell", f"({talk}) &")),), timeout_s=60.0).send(message())
    (tmp_path / "go").touch()

    wait_until((tmp_path / "done").exists)


@pytest.mark.parametrize(
    ("program", "reason"),
    [("/nonexistent/tell", "no such file or directory"), ("a\0b", "invalid argument"), ("/", "permission denied")],
)
def test_command_that_cannot_be_started_is_a_failure(program, reason):
    """And no error of Python's."""
    with pytest.raises(ChannelError, match=f"^it cannot be started: {reason}$"):
        Command((program,)).send(message())


@pytest.mark.parametrize(("error", "reason"), [(OSError(errno.EIO, "I/O Error"), "i/o error"), (OSError(), "unknown")])
def test_command_that_cannot_be_told_is_ended(tmp_path, monkeypatch, error, reason):
    """Nothing says that it got the message."""
    started = []

    def communicate(self, given, timeout):
        started.append(self.pid)
        raise error

    monkeypatch.setattr(subprocess.Popen, "communicate", communicate)
    program = script(tmp_path / "tell", "tail -f /dev/null")
    with pytest.raises(ChannelError, match=f"^it does not take the message: {reason}$"):
        Command((str(program),)).send(message())

    (group,) = started
    wait_until(lambda: not any(of_group(group)), lambda: list(of_group(group)))


@pytest.mark.parametrize("is_in_path", [True, False])
def test_mail_goes_through_sendmail(tmp_path, monkeypatch, is_in_path):
    """With a subject and plain text; its recipient is in a header, so that it cannot be an option."""
    script(tmp_path / "sendmail", f'echo "$@" > "{tmp_path}/arguments"; cat > "{tmp_path}/mail"')
    if is_in_path:
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    else:
        monkeypatch.setattr("hearthnet.notify.channels._SENDMAIL_FOLDERS", ("/nonexistent", str(tmp_path)))
        monkeypatch.setattr(shutil, "which", partial(shutil.which, path="/nonexistent"))
    Mail(f"me@example.org{EVIL[1:]}").send(message(name="grün", detail=EVIL))

    assert (tmp_path / "arguments").read_text() == "-i -t\n"
    mail = email.message_from_bytes((tmp_path / "mail").read_bytes(), policy=email.policy.default)
    assert mail["To"] == "me@example.org"
    assert mail["Date"].datetime == datetime.fromtimestamp(NOW, UTC)
    assert mail["Subject"].endswith("grün fails")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "Bcc" not in mail
    assert mail.get_content_type() == "text/plain"
    assert mail.get_content().startswith("FAIL grün: x Bcc: all@example.org body")


def test_machine_without_sendmail_says_so(monkeypatch):
    """And what to install."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("hearthnet.notify.channels._SENDMAIL_FOLDERS", ())
    with pytest.raises(ChannelError, match="no sendmail"):
        Mail("me@example.org").send(message())

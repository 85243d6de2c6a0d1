"""Secrets among the arguments of commands, as a line and as a list."""

from __future__ import annotations

import json
import random
import shlex
import string
import subprocess

import pytest

from hearthnet.observability.records.record import bounded
from hearthnet.observability.redaction.rules import REDACTED, scrub

SECRET = "S3cretPassw0rd!"
COMMANDS = [
    ["mysql", "--password", SECRET, "db"],
    ["mysql", "-u", "root", f"-p{SECRET}", "db"],
    ["mysql", f"--password={SECRET}", "db"],
    ["curl", "-u", f"bob:{SECRET}", "http://h"],
    ["curl", "--user", f"bob:{SECRET}", "http://h"],
    ["curl", "-s", "--proxy-user", f"bob:{SECRET}", "http://h"],
    ["curl", "-H", f"Authorization: Bearer {SECRET}", "http://h"],
    ["curl", "-H", f"X-Api-Key: {SECRET}", "http://h"],
    ["sshpass", "-p", SECRET, "ssh", "-p", "2222", "h"],
    ["sshpass", f"-p{SECRET}", "ssh", "h"],
    ["redis-cli", "-a", SECRET, "ping"],
    ["docker", "login", "-u", "bob", "-p", SECRET, "registry.example"],
    ["mongo", "-u", "bob", "-p", SECRET, "db"],
    ["ldapsearch", "-x", "-w", SECRET, "-b", "dc=x"],
    ["smbclient", "-U", f"bob%{SECRET}", "//h/x"],
    ["openssl", "pkcs12", "-passin", f"pass:{SECRET}", "-in", "k"],
    ["keytool", "-storepass", SECRET, "-list"],
    ["7z", "x", f"-p{SECRET}", "a.7z"],
    ["rar", "a", f"-hp{SECRET}", "a.rar"],
    ["tool", "--api-token", SECRET, "--verbose"],
    ["tool", "--stripe-key", "a1b2c3d4e5f6g7h8i9j0", "--verbose"],
    ["env", f"PGPASSWORD={SECRET}", "psql", "-h", "x"],
    ["ssh-keygen", "-t", "rsa", "-N", SECRET, "-f", "k"],
    ["twine", "upload", "-u", "bob", "-p", SECRET],
    ["openssl", "enc", "-aes-256-cbc", "-k", SECRET],
    ["ab", "-A", f"bob:{SECRET}", "http://h"],
    ["cf", "login", "-u", "bob", "-p", SECRET],
]
LINES = [
    "echo bob:{} | chpasswd", "ran echo '{}' | sudo passwd --stdin bob", "htpasswd -b /etc/x bob {}",
    "htpasswd -cb /etc/x bob {}", "xfreerdp /u:bob /p:{} /v:h", "sqlplus bob/{}@db", "sqlplus -s bob/{}@//h:1521/x",
    "requirepass {}", 'requirepass "{}"', "bindpw {}", "rootpw {}", "rootpw --iscrypted {}",
    "rabbitmqctl add_user bob {}",
    "rabbitmqctl -n x change_password bob {}", "enable secret 5 {}", "enable secret {}",
    "enable password {}", "username bob password 7 {}", "mysqladmin -u root password {}", "keyPassword {}",
    "nmcli dev wifi connect home password {}",
]  # fmt: skip
SHOWN = {
    "repr": repr,
    "tuple": lambda items: repr(tuple(items)),
    "json": json.dumps,
    "tight json": lambda items: json.dumps(items, separators=(",", ":")),
    "indented json": lambda items: json.dumps(items, indent=2),
    "json in json": lambda items: json.dumps({"argv": json.dumps(items)}),
    "yaml": lambda items: "".join(f"  - {item}\n" for item in items),
    "quoted yaml": lambda items: "".join(f'  - "{item}"\n' for item in items),
    "shell": shlex.join,
    "line": " ".join,
    "error": lambda items: str(subprocess.CalledProcessError(1, items)),
    "timeout": lambda items: str(subprocess.TimeoutExpired(items, 3)),
}


@pytest.mark.parametrize("shown", SHOWN)
def test_secret_of_a_command_is_redacted(shown):
    """However the arguments are shown, the secret is gone, the command is not, and twice is once."""
    for command in COMMANDS:
        cleaned = scrub(f"ran {SHOWN[shown](command)}")

        assert SECRET not in cleaned, command
        assert "a1b2c3d4e5f6g7h8i9j0" not in cleaned, command
        assert command[0] in cleaned
        assert scrub(cleaned) == cleaned


@pytest.mark.parametrize("line", LINES)
def test_secret_of_a_directive_or_a_pipe_is_redacted(line):
    """Of Redis, LDAP and routers, and of commands that take a password in their own way; the rest stays."""
    assert scrub(f"x {line.format('S3cretPw')} y") == f"x {line.format('[redacted]')} y"


@pytest.mark.parametrize(
    "text",
    [
        "the enable secret is gone", "ls | passwd", "echo it | tee chpasswd", "we require passes | and so on",
        "xfreerdp /v:h /port:3389", "sqlplus at db", "htpasswd -c /etc/x bob", "echo a | sort | passwd --stdin bob",
        "bindpw", "requirepass", "unrequirepass a1b2c3d4", "enable password reset",
        "the username or password was wrong", "username bob password expired",
    ],
)  # fmt: skip
def test_command_without_a_password_stays(text):
    """Words about it, other options, other pipes."""
    assert scrub(text) is text


@pytest.mark.parametrize("make", [list, tuple])
def test_secret_of_a_field_of_arguments_is_redacted(make):
    """A list of arguments is recorded item by item, and each item alone looks harmless."""
    for command in COMMANDS:
        kept = bounded({"argv": make(command)})["argv"]

        assert SECRET not in str(kept), command
        assert "a1b2c3d4e5f6g7h8i9j0" not in str(kept), command
        assert len(kept) == len(command)
        assert kept[0] == command[0]


@pytest.mark.parametrize(
    "text",
    [
        "docker run -p 8080:80 --user 1000:1000 image", "mysql -p db", "ls -a -p -u bob:staff x", "ssh -p 2222 host",
        "chown -R bob:staff /x", "mkdir -p /a/b", "openssl x509 -passin env:KEY_PASS -in k", "curl -u bob http://h",
        "['tool', '--token', '--verbose']", "tool --password --verbose", "the --password option is missing",
        "ps -u bob", "tool --sort-key a1b2c3d4e5f6g7h8i9j0", "tool --cache-key a1b2c3d4e5f6g7h8i9j0k1",
        "zip -r a.zip b", "grep -A 3 -c x", "well-known -token", "tail -p", "['-p']", '["--password"]',
    ],
)  # fmt: skip
def test_other_options_stay(text):
    """Ports, users, paths, options without a value, options of other commands."""
    assert scrub(text) is text


def test_list_without_options_is_kept():
    """A list of words, a list that ends in an option, items that are no text."""
    for items in (["a", "b", "c"], ["tool", "-v", "--password"], ["-p", 3, None], [1, "-x", {"a": 1}], ["-"] * 70):
        kept = bounded({"items": items})["items"]
        assert kept[: len(items)][:64] == items[:64]


def test_quoted_item_is_redacted_to_its_end():
    """A value with spaces in it ends with its quotes; names that follow in the same quotes stay."""
    assert scrub("['PGPASSWORD=two words here', 'A=b']") == "['PGPASSWORD=[redacted]', 'A=b']"
    assert scrub("tool '--password=two words' x") == "tool '--password=[redacted]' x"
    assert scrub("sshpass '-p=two words' ssh") == "sshpass '-p=[redacted]' ssh"
    assert scrub("curl '--user=bob:two words' x") == "curl '--user=bob:[redacted]' x"
    assert scrub("with 'password=hunter22 host=db' now") == "with 'password=[redacted] host=db' now"


def test_word_behind_an_option_is_a_value():
    """Where the option is one for a password, no sentence goes on."""
    assert scrub("sshpass -p swordfish ssh h") == "sshpass -p [redacted] ssh h"


def test_option_belongs_to_the_command_before_it():
    """A command far away, in another sentence, makes no secret of it."""
    assert scrub(f"ran curl {'x ' * 150}-u bob:it") == f"ran curl {'x ' * 150}-u bob:it"
    assert scrub(f"curl {'x ' * 150}-u bob:staff-of-it") == f"curl {'x ' * 150}-u bob:staff-of-it"
    assert scrub(f"curl {'x ' * 50}-u bob:staff-of-it") == f"curl {'x ' * 50}-u bob:[redacted]"


@pytest.mark.parametrize(
    "form", ["sshpass -p {} ssh h", "mysql -p{} db", "curl --user=bob:{} h", "['twine', '-p', '{}']"]
)
def test_long_value_of_an_option_is_replaced_to_its_end(form):
    """What tells that it is one is bounded, what is replaced is not."""
    value = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=400))

    assert scrub(f"ran {form.format(value)}, then") == f"ran {form.format(REDACTED)}, then"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("echo bob:S3cretPw" + " " * 90 + "| chpasswd", f"echo bob:{REDACTED}{' ' * 90}| chpasswd"),
        ("echo bob:S3cretPw" + " " * 250 + "| chpasswd", None),
        ("echo bob:S3cretPw | chpasswd", f"echo bob:{REDACTED} | chpasswd"),
        ("x" * 230 + " echo bob:S3cretPw | chpasswd", f"{'x' * 230} echo bob:{REDACTED} | chpasswd"),
        ("curl -u bob: h", None),
        ("curl -u bob:[redacted] h", None),
        ("curl --user bob:S3cretPw h", f"curl --user bob:{REDACTED} h"),
        ("curl --user=bob:S3cretPw h", f"curl --user=bob:{REDACTED} h"),
        ("mysql -p=S3cretPw h", f"mysql -p{REDACTED} h"),
        ("mysql -p S3cretPw h", None),
        ("sshpass -p=S3cretPw h", f"sshpass -p={REDACTED} h"),
        ("sshpass -pS3cretPw h", f"sshpass -p{REDACTED} h"),
        ("podman --creds=bob:S3cretPw h", f"podman --creds=bob:{REDACTED} h"),
        ("podman --creds bob,S3cretPw h", f"podman --creds bob,{REDACTED} h"),
        ("net -U bob%S3cretPw h", f"net -U bob%{REDACTED} h"),
        ("sshpass '{-p=two words' ssh", f"sshpass '{{-p={REDACTED} words' ssh"),
        ("sshpass -p 'short' ssh", f"sshpass -p '{REDACTED}' ssh"),
        (f"curl -u {'x' * 300}:S3cretPw h", None),
        ("plink -pw S3cretPw h", f"plink -pw {REDACTED} h"),
        ("redis-cli --pass S3cretPw h", f"redis-cli --pass {REDACTED} h"),
        ("rar a -hpS3cretPw x", f"rar a -hp{REDACTED} x"),
        ("tool --api-token --verbose", None),
        ("tool --api-token -S3cretPassword1x", f"tool --api-token {REDACTED}"),
    ],
)
def test_option_ends_where_its_value_begins(text, cleaned):
    """At once, behind a sign, a blank or an item's end; far from its command, or without a value, it has none."""
    assert scrub(f"ran {text}") == f"ran {cleaned or text}"

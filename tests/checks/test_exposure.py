"""The check of what is reachable, with real certificates; each fix is run as it would be pasted."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from fastapi import APIRouter
from support.certificates import write_pair

from hearthnet.observability import doctor
from hearthnet.transport import app
from hearthnet.transport.tls import read_certificate

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")


def check(node, **transport):
    """Runs the check with other settings of [transport]."""
    config = node[0]
    config = config.model_copy(update={"transport": config.transport.model_copy(update=transport)})
    return doctor.run_one("exposure", config)


def test_fresh_node_says_what_is_reachable_from_where(node):
    """Nothing is open that should not be, and the line names all of it."""
    result = check(node, host="0.0.0.0", port=7080)

    assert (result.status, result.fix) == ("pass", None)
    assert result.detail == (
        "port 7080 (http, not encrypted), reachable from every network of this machine: "
        "/health /manifest /metrics /ready for everybody; /bus/v1/call for signed calls of members; "
        "/openapi.json /trace for loopback, signed members; /doctor /status /control for this machine alone"
    )
    assert {"route": "GET /trace/recent", "who": "loopback, signed members"} in result.evidence["routes"]
    assert "reachable from this machine: " in check(node, host="127.0.0.1").detail


def test_setting_closes_the_metrics(node):
    """With `metrics_loopback_only` they are for this machine, and the check says so."""
    config, bus = node
    closed = config.observability.model_copy(update={"metrics_loopback_only": True})
    result = check((config.model_copy(update={"observability": closed}), bus))

    assert "/health /manifest /ready for everybody; " in result.detail
    assert {"route": "GET /metrics", "who": "loopback"} in result.evidence["routes"]


def test_certificate_that_holds_passes(node, tmp_path):
    """With its names, its last day and how long it is until then."""
    result = check(node, **write_pair(tmp_path, for_days=15.5))

    until = read_certificate(tmp_path / "node.pem").not_after
    assert result.status == "pass"
    assert f"(https, certificate for localhost, 127.0.0.1 until {until:%Y-%m-%d})" in result.detail
    assert result.evidence["certificate"]["days_left"] == pytest.approx(15.5, abs=0.1)


@needs_openssl
@pytest.mark.parametrize(
    ("since_days", "for_days", "status", "told"),
    [
        (-100, -1, "fail", "the certificate expired on "),
        (-100, 13.5, "warn", "the certificate expires in 13 day(s); port "),
        (1, 100, "fail", "or is the clock wrong?: clients that check it turn away"),
    ],
    ids=["expired", "soon", "early"],
)
def test_certificate_that_clients_refuse_is_told_in_time(node, tmp_path, since_days, for_days, status, told):
    """Expired or not valid yet fails, nearly expired warns; the fix makes it anew, with the names that it had."""
    pair = write_pair(tmp_path, since_days=since_days, for_days=for_days)
    result = check(node, **pair)

    assert (result.status, result.ok) == (status, status == "warn")
    assert told in result.detail
    subprocess.run(result.fix, shell=True, check=True, capture_output=True)
    assert check(node, **pair).status == "pass"
    assert read_certificate(pair["tls_cert"]).names == ("localhost", "127.0.0.1")


@needs_openssl
def test_certificate_that_others_signed_is_renewed_by_them(node, tmp_path):
    """The fix shows who they are, and changes nothing."""
    pair = write_pair(tmp_path, for_days=-1, issuer="Letters of the Alphabet")
    result = check(node, **pair)
    shown = subprocess.run(result.fix, shell=True, check=True, capture_output=True, text=True).stdout

    assert result.status == "fail"
    assert "Letters of the Alphabet" in shown
    assert check(node, **pair).status == "fail"


def test_pair_that_cannot_be_served_fails(node, tmp_path):
    """No node could start with it, and its hint is the fix."""
    pair = write_pair(tmp_path) | {"tls_key": write_pair(tmp_path, "other")["tls_key"]}
    result = check(node, **pair)

    assert (result.status, result.fix) == ("fail", "set the two files that were made together")
    assert result.detail.startswith("nothing is reachable, a node could not start: [transport] tls_key: the key in")


def test_key_that_others_may_read_warns(node, tmp_path):
    """With its mode and a fix that closes it; a key for its group is none of them."""
    pair = write_pair(tmp_path)
    pair["tls_key"].chmod(0o644)
    result = check(node, **pair)

    assert (result.status, result.ok) == ("warn", True)
    assert result.detail.startswith(f"{pair['tls_key']} has mode 0644: others may use the key; port ")
    subprocess.run(result.fix, shell=True, check=True)
    assert check(node, **pair).status == "pass"
    pair["tls_key"].chmod(0o640)
    assert check(node, **pair).status == "pass"


def test_route_that_is_open_by_mistake_warns(node, monkeypatch):
    """Traces that strangers may read are named before anything else."""
    forgotten = APIRouter()
    forgotten.get("/trace/all")(lambda: None)
    monkeypatch.setattr(app, "ROUTERS", (*app.ROUTERS, forgotten))
    result = check(node)

    assert result.status == "warn"
    assert result.detail.startswith("GET /trace/all answers strangers; port ")

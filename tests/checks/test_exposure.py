"""The exposure check, with real certificates; each fix is run in a shell."""

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
    """Runs the check with these settings of [transport]."""
    config = node[0]
    config = config.model_copy(update={"transport": config.transport.model_copy(update=transport)})
    return doctor.run_one("exposure", config)


def test_fresh_node_says_what_is_reachable_from_where(node):
    """By default nothing is open by mistake, and the detail lists all routes."""
    result = check(node, host="0.0.0.0", port=7080)

    assert (result.status, result.fix) == ("pass", None)
    assert result.detail == (
        "port 7080 (http, not encrypted), reachable from every network of this machine: "
        "/health /manifest /metrics /ready for everybody; /bus/v1/call for signed calls of members; "
        "/openapi.json /trace for loopback, signed members; / /doctor /page /status /control for this machine only"
    )
    assert {"route": "GET /trace/recent", "who": "loopback, signed members"} in result.evidence["routes"]
    assert "reachable from this machine: " in check(node, host="127.0.0.1").detail


def test_setting_closes_the_metrics(node):
    """With `metrics_loopback_only` metrics are listed as local."""
    config, bus = node
    closed = config.observability.model_copy(update={"metrics_loopback_only": True})
    result = check((config.model_copy(update={"observability": closed}), bus))

    assert "/health /manifest /ready for everybody; " in result.detail
    assert {"route": "GET /metrics", "who": "loopback"} in result.evidence["routes"]


def test_certificate_that_holds_passes(node, tmp_path):
    """The certificate's names, last day and remaining days are shown."""
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
        (-100, 13.5, "warn", "the certificate expires in 13 days; port "),
        (1, 100, "fail", "is the clock wrong?: clients that verify it refuse to connect"),
    ],
    ids=["expired", "soon", "early"],
)
def test_certificate_that_clients_refuse_is_reported_in_time(node, tmp_path, since_days, for_days, status, told):
    """Expired or not valid yet fails, nearly expired warns; the fix renews it with the same names."""
    pair = write_pair(tmp_path, since_days=since_days, for_days=for_days)
    result = check(node, **pair)

    assert (result.status, result.ok) == (status, status == "warn")
    assert told in result.detail
    subprocess.run(result.fix, shell=True, check=True, capture_output=True)
    assert check(node, **pair).status == "pass"
    assert read_certificate(pair["tls_cert"]).names == ("localhost", "127.0.0.1")


@needs_openssl
def test_certificate_that_others_signed_is_renewed_by_them(node, tmp_path):
    """For a certificate signed by others the fix only shows the issuer."""
    pair = write_pair(tmp_path, for_days=-1, issuer="Letters of the Alphabet")
    result = check(node, **pair)
    shown = subprocess.run(result.fix, shell=True, check=True, capture_output=True, text=True).stdout

    assert result.status == "fail"
    assert "Letters of the Alphabet" in shown
    assert check(node, **pair).status == "fail"


def test_pair_that_cannot_be_served_fails(node, tmp_path):
    """An unusable pair fails, with the error's hint as the fix."""
    pair = write_pair(tmp_path) | {"tls_key": write_pair(tmp_path, "other")["tls_key"]}
    result = check(node, **pair)

    assert (result.status, result.fix) == ("fail", "set two files that belong together")
    assert result.detail.startswith("nothing is reachable, the node cannot start: [transport] tls_key: the key in")


def test_key_that_others_may_read_warns(node, tmp_path):
    """A readable key warns with its mode and a fix; a group-readable one passes."""
    pair = write_pair(tmp_path)
    pair["tls_key"].chmod(0o644)
    result = check(node, **pair)

    assert (result.status, result.ok) == ("warn", True)
    assert result.detail.startswith(f"{pair['tls_key']} has mode 0644: other users can read the key; port ")
    subprocess.run(result.fix, shell=True, check=True)
    assert check(node, **pair).status == "pass"
    pair["tls_key"].chmod(0o640)
    assert check(node, **pair).status == "pass"


def test_route_that_is_open_by_mistake_warns(node, monkeypatch):
    """An open traces route is named first."""
    forgotten = APIRouter()
    forgotten.get("/trace/all")(lambda: None)
    monkeypatch.setattr(app, "ROUTERS", (*app.ROUTERS, forgotten))
    result = check(node)

    assert result.status == "warn"
    assert result.detail.startswith("GET /trace/all serves unauthenticated clients; port ")

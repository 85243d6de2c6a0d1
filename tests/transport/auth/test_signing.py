"""Verification of signed requests: every reason to refuse, its code and its counter."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthnet.errors import WireError
from hearthnet.identity.community import utc_now
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest, Revocation
from hearthnet.observability import metrics
from hearthnet.observability.records.ids import is_trace_id
from hearthnet.transport.auth.signing import sign, trace_id_of, verify_request

BODY = {"params": {}, "input": {"text": "hi", "n": 1.0}}


@pytest.fixture(scope="module")
def keys():
    """The root of a community, and its only member."""
    return KeyPair.generate()


@pytest.fixture(scope="module")
def manifest(keys):
    """The community."""
    return Manifest.genesis("home", keys)


@pytest.fixture
def headers(keys):
    """A request that is accepted."""
    return sign(keys, keys.node_id, "llm.chat", "1.0", BODY, "01HXR4Z6W5S9E2JQ4Y0T7B3M1C")


def refused(headers, body, manifest, reason, **more) -> WireError:
    """Verifies a request that must be refused; the reason must be counted, once."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    with pytest.raises(WireError) as caught:
        verify_request(headers, body, manifest, **more)
    assert f'hearthnet_signature_failures_total{{reason="{reason}"}} 1.0' in metrics.exposition()[0].decode()
    return caught.value


def test_good_request_is_read(headers, keys, manifest):
    """A signed, fresh request of a member yields what its headers say."""
    envelope = verify_request(headers, BODY, manifest)

    assert (envelope.capability, envelope.version, envelope.sender) == ("llm.chat", "1.0", keys.node_id)
    assert envelope.request_id == "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"


def test_signature_covers_the_value_of_the_body(headers, manifest):
    """1 for 1.0 and another key order are the same body."""
    assert verify_request(headers, {"input": {"n": 1, "text": "hi"}, "params": {}}, manifest)


@pytest.mark.parametrize("spelling", [1, 1.0])
def test_handler_gets_what_was_signed(headers, manifest, spelling):
    """However a count is respelled on the way, the handler gets an integer."""
    sent = {"params": {}, "input": {"text": "hi", "n": spelling}}

    assert type(verify_request(headers, sent, manifest).body["input"]["n"]) is int


@pytest.mark.parametrize(
    "name", ["Capability", "Capability-Version", "Request-Id", "From", "Community", "Timestamp", "Signature"]
)
def test_missing_header_is_refused(headers, manifest, name):
    """Without any one of its headers a request is not signed."""
    del headers[f"X-HearthNet-{name}"]

    assert refused(headers, BODY, manifest, "missing").code == "invalid_signature"


@pytest.mark.parametrize(
    ("name", "value"),
    [("Capability", "llm.other"), ("Capability-Version", "1.1"), ("Request-Id", "01HXR4Z6W5S9E2JQ4Y0T7B3M1D")],
)
def test_changed_header_is_refused(headers, manifest, name, value):
    """Signed headers cannot be changed."""
    headers[f"X-HearthNet-{name}"] = value

    assert refused(headers, BODY, manifest, "wrong").code == "invalid_signature"


@pytest.mark.parametrize("body", [{}, None, [], {"params": {}, "input": {"text": "ho", "n": 1}}, {"x": float("inf")}])
def test_changed_body_is_refused(headers, manifest, body):
    """The body cannot be changed."""
    assert refused(headers, body, manifest, "wrong").code == "invalid_signature"


@pytest.mark.parametrize(("offset_s", "ok"), [(-61, False), (-59, True), (0, True), (59, True), (61, False)])
def test_requests_are_fresh(keys, manifest, headers, offset_s, ok):
    """Sixty seconds either way are fresh; beyond that the request is expired."""
    now_s = datetime.fromisoformat(headers["X-HearthNet-Timestamp"]).timestamp() + offset_s
    if ok:
        assert verify_request(headers, BODY, manifest, now_s)
    else:
        error = refused(headers, BODY, manifest, "expired", now_s=now_s)
        assert (error.code, error.status) == ("expired", 410)


@pytest.mark.parametrize(
    "value",
    ["yesterday", "2026-05-26T08:14:22", "2026-05-26T08:14:22+02:00", "1716712462", "2026-13-45T00:00:00Z", "Z"],
)
def test_malformed_time_is_refused(headers, manifest, value):
    """A time that is not RFC 3339 UTC with Z is malformed."""
    headers["X-HearthNet-Timestamp"] = value

    assert refused(headers, BODY, manifest, "malformed").code == "invalid_signature"


@pytest.mark.parametrize(("name", "value"), [("From", "nobody"), ("From", "ed25519:AAAA"), ("Capability", "x" * 300)])
def test_malformed_header_is_refused(headers, manifest, name, value):
    """An invalid sender id, or an overlong header, is refused before verification."""
    headers[f"X-HearthNet-{name}"] = value

    assert refused(headers, BODY, manifest, "malformed").code == "invalid_signature"


def test_stranger_is_refused(keys, manifest):
    """A valid signature of a non-member is refused."""
    headers = sign(KeyPair.generate(), keys.node_id, "llm.chat", "1.0", BODY)

    assert refused(headers, BODY, manifest, "not_member").code == "unauthorized"


def test_other_community_is_refused(keys, manifest):
    """A request for another community is refused."""
    headers = sign(keys, KeyPair.generate().node_id, "llm.chat", "1.0", BODY)

    assert refused(headers, BODY, manifest, "community").code == "unauthorized"


def test_revoked_member_is_refused(headers, keys, manifest):
    """A revoked member gets `revoked`."""
    gone = Revocation(node_id=keys.node_id, revoked_at=utc_now())
    error = refused(headers, BODY, manifest.model_copy(update={"revoked": (gone,)}), "revoked")

    assert (error.code, error.status) == ("revoked", 403)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("01HXR4Z6W5S9E2JQ4Y0T7B3M1C", "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"),
        ("01hxr4z6w5s9e2jq4y0t7b3m1c", "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"),
        ("", None),
        ("x", None),
        ("8" + "Z" * 25, None),
        ("0" * 200_000, None),
        ("<script>alert(1)</script>", None),
        ("01HXR4Z6W5S9E2JQ4Y0T7B3M1\x1b", None),
        ("01HXR4Z6W5S9E2JQ4Y0T7B3M1é", None),
        ("é" * 26, None),
    ],
)
def test_only_a_ulid_becomes_a_trace_id(given, expected):
    """Anything but a ULID gives no trace id."""
    assert trace_id_of(given) == expected


@pytest.mark.parametrize("name", ["From", "Community", "Timestamp", "Signature"])
def test_header_of_another_request_is_refused(headers, keys, manifest, name):
    """A valid header of another request does not match this one."""
    headers[f"X-HearthNet-{name}"] = {
        "From": KeyPair.generate().node_id,
        "Community": KeyPair.generate().node_id,
        "Timestamp": (datetime.now(UTC) - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "Signature": sign(keys, keys.node_id, "llm.chat", "1.0", BODY)["X-HearthNet-Signature"],
    }[name]
    reason = {"From": "not_member", "Community": "community"}.get(name, "wrong")

    assert refused(headers, BODY, manifest, reason).status == 401


@pytest.mark.parametrize("value", ["garbage", "ed25519:", "ed25519:AAAA", "ed25519:" + "A" * 86, "é"])
def test_signature_that_is_none_is_refused(headers, manifest, value):
    """Any text as signature is refused without an exception."""
    headers["X-HearthNet-Signature"] = value
    reason = "wrong" if value == "ed25519:" + "A" * 86 else "malformed"

    assert refused(headers, BODY, manifest, reason).code == "invalid_signature"


def test_body_nested_without_end_is_refused(headers, manifest):
    """A body without a canonical encoding is not the signed one."""
    body: list = []
    for _ in range(5_000):
        body = [body]

    assert refused(headers, body, manifest, "wrong").code == "invalid_signature"


def test_own_headers_have_the_form_of_the_wire(headers, keys, manifest):
    """There are seven headers, and the time is in UTC, with milliseconds."""
    assert set(headers) == {
        f"X-HearthNet-{name}"
        for name in ("Capability", "Capability-Version", "Request-Id", "From", "Community", "Timestamp", "Signature")
    }
    assert (headers["X-HearthNet-From"], headers["X-HearthNet-Community"]) == (keys.node_id, manifest.community_id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", headers["X-HearthNet-Timestamp"])


def signed_at(keys, timestamp: str) -> dict[str, str]:
    """Returns the headers of a request with this spelling of its time."""
    made = sign(keys, keys.node_id, "llm.chat", "1.0", BODY)
    payload = {
        "capability": "llm.chat",
        "version": "1.0",
        "request_id": made["X-HearthNet-Request-Id"],
        "from": keys.node_id,
        "community": keys.node_id,
        "timestamp": timestamp,
        "body": BODY,
    }
    return {**made, "X-HearthNet-Timestamp": timestamp, "X-HearthNet-Signature": keys.sign(payload)}


@pytest.mark.parametrize("fraction", ["", ".1", ".12", ".123", ".1234", ".12345", ".123456"])
def test_times_of_the_wire_are_accepted(keys, manifest, fraction):
    """Whole seconds, and up to six decimals; the signed fields are exactly the seven of the protocol."""
    timestamp = datetime.now(UTC).strftime(f"%Y-%m-%dT%H:%M:%S{fraction}Z")

    assert verify_request(signed_at(keys, timestamp), BODY, manifest).timestamp == timestamp


@pytest.mark.parametrize(
    "form", ["%Y%m%dT%H%M%SZ", "%G-W%V-%uT%H:%M:%SZ", "%Y-%m-%d_%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.1234567Z"]
)
def test_other_spellings_of_the_time_are_malformed(keys, manifest, form):
    """Forms of ISO 8601 beyond RFC 3339 are refused: basic form, week date, another separator."""
    timestamp = datetime.now(UTC).strftime(form)

    assert refused(signed_at(keys, timestamp), BODY, manifest, "malformed").code == "invalid_signature"


@given(st.text() | st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZilou\u0131\u017f", min_size=26, max_size=26))
def test_trace_id_is_a_ulid_or_none(text):
    """Whatever a caller sends, only a ULID in canonical form is recorded."""
    found = trace_id_of(text)

    assert found is None or is_trace_id(found)

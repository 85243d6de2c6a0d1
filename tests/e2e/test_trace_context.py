"""A trace that passes through a real node: over a socket, into its database, and back out to who asks."""

from __future__ import annotations

import json
import socket

import orjson
import pytest

from hearthnet.observability.traces.traceparent import from_w3c, to_w3c
from hearthnet.transport.auth.signing import REQUEST_ID

OTHER_AS_W3C = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
BODY = {"params": {}, "input": {"text": "hello"}}


def test_call_joins_its_callers_trace(node):
    """The caller's trace and span are in the row, and either spelling of the id finds it."""
    headers = node.headers(BODY, request_id=OTHER_AS_W3C) | {"traceparent": f"00-{OTHER_AS_W3C}-{SPAN}-01"}
    answer = node.call(BODY, headers=headers)
    trace_id = from_w3c(OTHER_AS_W3C)

    assert (answer.status_code, answer.headers[REQUEST_ID]) == (200, trace_id)
    node.wait_for_sql([(trace_id, SPAN)], "SELECT trace_id, parent_id FROM traces")
    for spelling in (trace_id, trace_id.lower(), OTHER_AS_W3C):
        (found,) = node.get(f"/trace/{spelling}").json()
        assert found["parent_id"] == SPAN
    assert node.get(f"/trace/{OTHER_AS_W3C[1:]}").status_code == 400


def test_header_is_read_as_it_stands_on_the_wire(node):
    """White space around it is none of it; a second one, or a folded one, makes it invalid, and the call goes on."""
    own = to_w3c("01HXR4Z6W5S9E2JQ4Y0T7B3M1C")
    for value, parent in [
        (f" \t00-{own}-{SPAN}-01 \t", SPAN),
        (f"00-{own}-{SPAN}-01\r\ntraceparent: 00-{own}-{SPAN}-01", None),
        (f"00-{own}-{SPAN}-01,00-{own}-{SPAN}-01", None),
        (f"00-{own}-{SPAN}-01\xff", None),
    ]:
        headers = node.headers(BODY, request_id="01HXR4Z6W5S9E2JQ4Y0T7B3M1C")
        assert raw_call(node, headers, value).startswith(b"HTTP/1.1 200 ")
        assert node.get("/trace/recent", params={"n": 1}).json()[0]["parent_id"] == parent

    assert 'hearthnet_trace_headers_rejected_total{header="traceparent"} 3.0' in node.get("/metrics").text
    assert SPAN + "-01" not in "".join(map(json.dumps, node.log_lines()))


def raw_call(node, headers, traceparent):
    """Writes a call byte by byte, which no client library would, and returns the answer."""
    body = orjson.dumps(BODY)
    lines = [
        "POST /bus/v1/call HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"traceparent:{traceparent}",
    ]
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_command_line_names_its_trace(node):
    """`hearthnet call` sends a parent in the trace that it calls under."""
    trace_id = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"
    done = node.cli("call", "experimental.echo", "--body", json.dumps(BODY), "--trace-id", trace_id)
    (found,) = node.get(f"/trace/{trace_id}").json()

    assert done.returncode == 0, done.stderr
    assert found["parent_id"] is not None
    assert len(found["parent_id"]) == 16


def test_instrumented_client_joins_as_it_is(node):
    """A client whose library adds `traceparent` of a trace of its own: ours is linked to it, and it is answered."""
    answer = node.call(BODY, headers=node.headers(BODY) | {"traceparent": f"00-{OTHER_AS_W3C}-{SPAN}-01"})
    (found,) = node.get(f"/trace/{answer.headers[REQUEST_ID]}").json()

    assert found["parent_id"] is None
    assert found["extras"]["link"] == {"trace_id": from_w3c(OTHER_AS_W3C), "span_id": SPAN}


@pytest.mark.parametrize("wanted", [{}, {"frames": 3}, {"fail": "internal_error"}])
def test_running_node_loses_no_span(node, wanted):
    """After calls of every kind the doctor finds that every span had its trace."""
    body = {"params": {}, "input": {"text": "hello", **wanted}}
    for _ in range(3):
        node.call(body, headers=node.headers(body) | {"Accept": "text/event-stream"})
    done = node.cli("doctor", "--check", "orphan_spans", "--json")

    (found,) = json.loads(done.stdout)["checks"]
    assert (done.returncode, found["status"], found["evidence"]) == (0, "pass", {"count": 0})

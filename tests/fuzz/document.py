"""Asks a real node whatever its OpenAPI document allows, and what it forbids; the soak is this file run by itself.

Every answer must be one that the document tells of: its status, content type, headers and body. None may be a 500. What
is asked follows from a seed, so a run that fails can be repeated; Hypothesis then looks for the smallest such request.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER
from schemathesis.specs.openapi import checks
from ulid import ULID

from hearthnet.errors import HTTP_STATUS
from hearthnet.identity.keys import KeyPair
from hearthnet.transport.auth import signing
from hearthnet.transport.page.access import HEADER
from hearthnet.transport.page.grants import Grants

CALL = "/bus/v1/call"
PAGE = "/page/v1/"
ENDLESS = "/page/v1/events"
BATCH = 1_000  # requests of one seed: Hypothesis keeps what it has asked, so as not to ask it again
TIMEOUT_S = 60


@schemathesis.check
def not_failed(_, response, case) -> None:
    """The node itself did not fail. 501 and 503 are a capability's, and asked for."""
    assert response.status_code != 500, f"{case.operation.label}: {response.text}"


@schemathesis.check
def ends_once(_, response, case) -> None:
    """A stream ends with exactly one `done` or `error`."""
    if not response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        return
    kinds = re.findall(r"(?m)^event: (.*)$", response.text)
    assert kinds[:-1] == (len(kinds) - 1) * ["frame"], f"{case.operation.label}: {kinds}"
    assert kinds[-1] in ("done", "error"), f"{case.operation.label}: {kinds}"


CHECKS = [
    not_failed,
    ends_once,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def echo_bodies() -> st.SearchStrategy[dict]:
    """Bodies that the echo service takes: answers, streams, and failures that are asked for."""
    # An internal error would look like one of the node's own.
    failures = sorted(set(HTTP_STATUS) - {"internal_error"})
    # schemathesis reads 20 events of a stream at most.
    optional = {"frames": st.integers(0, 12), "fail": st.sampled_from(failures), "delay_ms": st.integers(0, 2)}
    wanted = st.fixed_dictionaries({"text": st.text(max_size=200)}, optional=optional)
    return st.fixed_dictionaries({"input": wanted}, optional={"params": st.just({})})


def signed_headers(keys: KeyPair, community: str, capability: str, version: str, body: object) -> dict[str, str]:
    """The headers of a call made now; no two are alike, for the same signature again would be a replay."""
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    envelope = signing.Envelope(capability, version, str(ULID()), keys.node_id, community, stamp, body)
    return {
        signing.CAPABILITY: capability,
        signing.VERSION: version,
        signing.REQUEST_ID: envelope.request_id,
        signing.SENDER: keys.node_id,
        signing.COMMUNITY: community,
        signing.TIMESTAMP: stamp,
        signing.SIGNATURE: keys.sign(envelope.payload()),
    }


@contextmanager
def signing_hook(keys: KeyPair, page: dict[str, str]) -> Iterator[None]:
    """Has every call signed as it goes out, but those that are generated to have wrong headers; the page's likewise."""

    def before_call(_, case, __) -> None:
        headers = case.headers
        if case.path.startswith(PAGE) and not (case.meta is not None and is_negative(case, "header")):
            case.headers.update(page)
            return
        names = (signing.CAPABILITY, signing.VERSION)
        if case.path != CALL or not headers or not all(isinstance(headers.get(name), str) for name in names):
            return
        if case.meta is not None and is_negative(case, "header"):
            return
        try:
            signed = signed_headers(keys, keys.node_id, *(headers[name] for name in names), case.body)
        except ValueError:  # it has no canonical spelling: nobody could sign it
            return
        headers.update(signed)

    GLOBAL_HOOK_DISPATCHER.hook(before_call)
    try:
        yield
    finally:
        GLOBAL_HOOK_DISPATCHER.unregister(before_call)


def page_headers(node) -> dict[str, str]:
    """The headers of a browser with access to the node's page."""
    grants = Grants(node.data_dir)
    return {HEADER: grants.claim(grants.offer()).secret, "Origin": node.url}


def is_negative(case, place: str) -> bool:
    """Whether a part of a request was generated to break the document."""
    return any(at.value == place and part.mode.is_negative for at, part in case.meta.components.items())


def cases(schema) -> st.SearchStrategy:
    """Requests of every route, right ones and wrong ones; of calls more, for there are more kinds of them."""
    made = []
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path == ENDLESS:
            continue
        made += [operation.as_strategy(mode) for mode in GenerationMode]
        if operation.path == CALL:
            headers = {signing.CAPABILITY: "experimental.echo", signing.VERSION: "1.0"}
            served = operation.as_strategy(headers=headers)
            asked = (st.tuples(served, echo_bodies()).map(with_body), served, *made[-2:])
            # Each a strategy of its own: Hypothesis counts one that is there twice once.
            made += [one.map(lambda case: case) for one in asked for _ in range(8)]
    return st.one_of(made)


def with_body(pair):
    """A request with another body."""
    case, case.body = pair
    return case


def read_document(url: str) -> dict:
    """The OpenAPI document of a node."""
    return requests.get(f"{url}/openapi.json", timeout=TIMEOUT_S).json()


def fuzz(node, count: int, number: int = 0, document: dict | None = None) -> Counter[str]:
    """Asks so many times; returns how often each route answered with which status.

    Args:
        node: a running one.
        count: so many requests.
        number: the seed of what is asked.
        document: what the node should answer, if not what it says itself.

    Raises:
        FailureGroup: raised with the smallest request whose answer the document does not tell of.
    """
    answered: Counter[str] = Counter()
    schema = schemathesis.openapi.from_dict(read_document(node.url) if document is None else document)

    with requests.Session() as session, signing_hook(node.keys, page_headers(node)):

        @seed(number)
        @settings(
            max_examples=count,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases(schema))
        def ask(case) -> None:
            answer = case.call(base_url=node.url, session=session, timeout=TIMEOUT_S)
            answered[f"{case.operation.label} {answer.status_code}"] += 1
            case.validate_response(answer, checks=CHECKS)

        ask()
    return answered


def main() -> None:
    """The soak: so many requests, each answered as the document says, and none with a 500."""
    from overload import rss_bytes, start_node

    parser = argparse.ArgumentParser(prog="scripts/soak fuzz", description=main.__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="how many at least (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of what is asked (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    answered: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        node = start_node(Path(folder))
        rss_before = rss_bytes(node.process.pid)
        number = chosen.seed
        try:
            while (missing := chosen.requests - answered.total()) > 0:
                answered += fuzz(node, min(BATCH, missing), number)
                number += 1
                print(f"\r{answered.total()} of {chosen.requests}", end="", file=sys.stderr, flush=True)
            rss_after = rss_bytes(node.process.pid)
        finally:
            code = node.stop()
    print(file=sys.stderr)
    figures = {
        "requests": answered.total(),
        "requests_per_s": answered.total() / (time.monotonic() - began),
        "rss_before_mb": rss_before / 1e6,
        "rss_after_mb": rss_after / 1e6,
        "exit_code": code,
        **dict(sorted(answered.items())),
    }
    if chosen.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<40} {value:,.2f}" if isinstance(value, float) else f"{name:<40} {value:,}")


if __name__ == "__main__":
    sys.path[:0] = [os.fspath(Path(__file__).parent.parent / "e2e"), os.fspath(Path(__file__).parent.parent)]
    main()

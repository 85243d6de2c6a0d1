"""`hearthnet call`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click
import httpx
import orjson
from ulid import ULID

from hearthnet.cli.client import NodeClient, call_headers
from hearthnet.cli.options import config_option
from hearthnet.cli.output import print_json
from hearthnet.config import Config
from hearthnet.errors import HTTP_STATUS, HearthNetError, WireError
from hearthnet.identity.keys import KeyPair


@click.command("call")
@click.argument("capability", metavar="NAME[@VERSION]")
@click.option("--body", default="{}", help="The JSON body, {params, input}; '-' reads standard input.")
@click.option("--stream", is_flag=True, help="Print the answer frame by frame, a JSON line each.")
@click.option("--trace-id", help="The ULID to call under. Default: a fresh one.")
@click.option("--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds to wait.")
@config_option
def command(config: Config, capability: str, body: str, stream: bool, trace_id: str | None, timeout_s: float) -> None:
    """Call a capability of the running node and print its answer.

    \b
    Example: hearthnet call experimental.echo --body '{"input": {"text": "hello"}}'
             hearthnet call experimental.echo@1.0 --stream --body '{"input": {"text": "hi", "frames": 3}}'

    Exits with 1 when the call fails, 3 when no node runs, 4 when it is not authorized.
    """
    name, _, version = capability.partition("@")
    request_id = trace_id or str(ULID())
    try:
        _call(config, name, version or "1.0", _parse(body), request_id, stream=stream, timeout_s=timeout_s)
    except WireError as error:
        raise _with_hint(error, request_id) from error


def _parse(body: str) -> Any:
    try:
        parsed = orjson.loads(sys.stdin.buffer.read() if body == "-" else body)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--body") from error
    if not isinstance(parsed, dict):
        raise click.BadParameter("must be a JSON object with params and input", param_hint="--body")
    return {"params": {}, **parsed}


def _call(
    config: Config, name: str, version: str, body: Any, request_id: str, *, stream: bool, timeout_s: float
) -> None:
    assert config.identity.keys_dir is not None
    keys = KeyPair.load(config.identity.keys_dir)
    community = config.community.community_id or keys.node_id
    headers = {
        **call_headers(keys, community, name, version, body, request_id),
        "Content-Type": "application/json",
        "Accept": "text/event-stream" if stream else "application/json",
    }
    client = NodeClient(config, timeout_s)
    try:
        with client.http.stream("POST", "/bus/v1/call", content=orjson.dumps(body), headers=headers) as answer:
            if not client.is_ours(answer):
                raise client.unreachable()
            _print(answer, stream=stream)
    except httpx.ConnectError as error:
        raise client.unreachable() from error
    except httpx.TimeoutException as error:
        raise WireError("timeout", f"no answer within {timeout_s:g} s") from error
    except httpx.HTTPError as error:
        raise HearthNetError(f"the connection to the node broke: {error}") from error


def _print(answer: httpx.Response, *, stream: bool) -> None:
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        frames = _frames(answer)
        if stream:
            for frame in frames:
                click.echo(orjson.dumps(frame).decode())
        else:
            print_json(list(frames))
        return
    answer.read()
    document = _document(answer)
    if answer.is_error:
        raise _wire_error(document)
    print_json(document)


def _document(answer: httpx.Response) -> Any:
    try:
        return orjson.loads(answer.content)
    except orjson.JSONDecodeError as error:
        raise HearthNetError(f"what answered is no HearthNet node (HTTP {answer.status_code})") from error


def _frames(answer: httpx.Response) -> Any:
    """Yields the frames of server-sent events; an `error` event is raised."""
    event = ""
    for line in _lines(answer):
        field, _, value = line.partition(": ")
        if field == "event":
            event = value
        elif field == "data" and event == "error":
            raise _wire_error(orjson.loads(value))
        elif field == "data" and event == "frame":
            yield orjson.loads(value)
        elif field == "data" and event == "done":
            return
    raise HearthNetError("the stream ended without its last frame", hint="did the node stop? see: hearthnet log")


def _lines(answer: httpx.Response) -> Iterator[str]:
    """Yields the lines. The library's own end at U+2028 and its like too, which JSON may hold as they are."""
    rest = b""
    for block in answer.iter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        yield from (line.decode() for line in lines)


def _wire_error(document: Any) -> WireError:
    code = document.get("error") if isinstance(document, dict) else None
    if code not in HTTP_STATUS:
        return WireError("internal_error", f"the node answered: {document!r:.200}")
    return WireError(code, document.get("message", ""), retry_after_ms=document.get("retry_after_ms"))


def _with_hint(error: WireError, request_id: str) -> HearthNetError:
    shown = HearthNetError(f"{error.code}: {error.message}", hint=f"hearthnet trace show {request_id}")
    shown.exit_code = error.exit_code
    return shown

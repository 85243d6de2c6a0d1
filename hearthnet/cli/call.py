"""`hearthnet call`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from hearthnet.cli.main import json_option, print_json, where_option
from hearthnet.cli.tools import names
from hearthnet.errors import HearthNetError, NodeUnreachableError, UntrustedResponseError, WireError

if TYPE_CHECKING:
    from hearthnet.locations import Locations

# What to do about a request that was refused before it became a call.
_HINTS: Final = {
    "bad_request": "hearthnet call --help",
    "expired": "hearthnet doctor --check clock_sanity",
    "invalid_signature": "hearthnet doctor --check keys_loadable",
    "revoked": "hearthnet doctor --check community_present",
    "unauthorized": "hearthnet doctor --check community_present",
}


def _trace_id(_: click.Context, __: click.Parameter, text: str | None) -> str:
    from hearthnet.observability.records.ids import is_trace_id, new_trace_id

    if text is not None and not is_trace_id(text.upper()):
        raise click.BadParameter(f"{text!r} is not a trace id, which is a ULID of 26 characters")
    return new_trace_id() if text is None else text.upper()


@click.command("call")
@click.argument("capability", metavar="NAME[@VERSION]", shell_complete=names.capabilities)
@click.option("--body", default="{}", help="The JSON body, {params, input}; '-' reads standard input.")
@click.option("--stream", is_flag=True, help="Print the response frame by frame, one JSON line each.")
@click.option("--trace-id", callback=_trace_id, help="The trace's ULID. Default: a new one.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds to wait.",
)
@where_option
@json_option
def command(
    where: Locations, capability: str, body: str, stream: bool, trace_id: str, timeout_s: float, as_json: bool
) -> None:
    """Call a capability of the running node and print its response.

    \b
    Example: hearthnet call experimental.echo --body '{"input":{"text":"hi"}}'
             hearthnet call experimental.echo@1.0 --json
             hearthnet call experimental.echo --stream --body - < body.json

    The response is JSON in any case; --json prints it with the call's trace_id and result, failed calls too.

    Exits with 1 when the call fails, 3 when the node is not running, 4 when it is not authorized.
    """
    import asyncio

    if stream and as_json:
        raise click.UsageError("--stream prints JSON lines already; it cannot be combined with --json")
    name, _, version = capability.partition("@")
    try:
        called = _call(where, name, version or "1.0", _parse(body), trace_id, stream=stream, timeout_s=timeout_s)
        response = asyncio.run(called)
    except WireError as error:
        if as_json:
            print_json({"trace_id": trace_id, "result": error.code, "error": error.message, "response": None})
        raise _with_hint(where, error, trace_id) from error
    if as_json:
        print_json({"trace_id": trace_id, "result": "ok", "error": None, "response": response})
    elif not stream:
        print_json(response)


def _parse(body: str) -> Any:
    import orjson

    try:
        parsed = orjson.loads(sys.stdin.buffer.read() if body == "-" else body)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--body") from error
    if not isinstance(parsed, dict):
        raise click.BadParameter("must be a JSON object with params and input", param_hint="--body")
    return {"params": {}, **parsed}


async def _call(
    where: Locations, name: str, version: str, body: Any, request_id: str, *, stream: bool, timeout_s: float
) -> Any:
    """Returns the response; with `stream`, prints its frames as they come and returns None."""
    import orjson

    from hearthnet.cli.client import NodeClient, url_of
    from hearthnet.client import Client
    from hearthnet.identity.keys import KeyPair

    keys = KeyPair.load(where.keys_dir)
    community = where.community_id or keys.node_id
    try:
        async with Client(
            url_of(where), keys, community, keys.node_id, certificate=where.tls_cert, timeout_s=timeout_s
        ) as node:
            if not stream:
                return await node.call(name, body, version, request_id=request_id)
            async for frame in node.stream(name, body, version, request_id=request_id):
                click.echo(orjson.dumps(frame).decode())
    except (NodeUnreachableError, UntrustedResponseError) as error:
        # Something other than our node responds on its port.
        raise NodeClient(where).unreachable() from error
    except WireError:
        raise
    except HearthNetError as error:
        if NodeClient(where).is_running():
            raise
        raise NodeUnreachableError("the node ended during the call", hint="why: hearthnet autopsy") from error
    return None


def _with_hint(where: Locations, error: WireError, request_id: str) -> HearthNetError:
    shown = HearthNetError(f"{error.code}: {error.message}", hint=_hint(where, error, request_id))
    shown.exit_code = error.exit_code
    return shown


def _hint(where: Locations, error: WireError, request_id: str) -> str:
    """Returns what to do next. A request refused before it became a call has no trace; only the node knows."""
    # A call that timed out here may still be running there: its trace will follow.
    if error.code == "timeout" or _has_trace(where, request_id):
        return f"hearthnet trace show {request_id}"
    if error.retry_after_ms is not None:
        return f"call again in {error.retry_after_ms / 1_000:g} s"
    return _HINTS.get(error.code, "hearthnet log")


def _has_trace(where: Locations, request_id: str) -> bool:
    from urllib.parse import quote

    from hearthnet.cli.client import NodeClient

    try:
        return NodeClient(where).ask(f"/trace/{quote(request_id, safe='')}", list) is not None
    except HearthNetError:
        return False

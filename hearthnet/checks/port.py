"""Asks whoever holds the bus port who it is: we ourselves, another node, a node of ours that hangs, or a stranger."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hearthnet.checks.finding import found, keys_dir, warned
from hearthnet.checks.holder import Holder, named, port_holders
from hearthnet.config import Config, TransportConfig
from hearthnet.constants import SENDER
from hearthnet.errors import IdentityError
from hearthnet.forensics.box import HEADER_BYTES, boxes_in, is_alive, read_header
from hearthnet.identity.keys import KeyPair, is_node_id, short_id
from hearthnet.observability.doctor import CheckResult

__all__ = ["judge_holder", "live_nodes"]

_ANSWER_WITHIN_S: Final = 1.0  # a healthy node takes a few milliseconds, one on a busy Raspberry Pi a few hundred
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to ask it, not to bind it


def judge_holder(config: Config, show_holders: str) -> CheckResult:
    """Returns what it means that the port cannot be bound; `show_holders` is the command that lists who holds it."""
    port = config.transport.port
    holders = port_holders("tcp", port, config.transport.host)
    pids = [holder.pid for holder in holders if holder.pid is not None]
    facts: dict[str, Any] = {"port": port, "host": config.transport.host, "pids": pids}
    answered = _ask(config.transport)
    if answered is not None:
        return _judge_answer(config, answered, holders, show_holders, facts)
    for pid in live_nodes(config.observability.data_dir):
        if pid in pids:
            detail = f"our node (pid {pid}) holds port {port} and does not answer within {_ANSWER_WITHIN_S:g} s"
            return found(False, detail, f"kill -KILL {pid}", holder="self", **facts)
    who = named(holders)
    detail = (
        f"port {port} is held by another program{f', {who}' if who else ''}; stop it, or set another [transport] port"
    )
    return found(False, detail, show_holders, holder=who or None, **facts)


def _judge_answer(
    config: Config, node_id: str, holders: list[Holder], show_holders: str, facts: dict[str, Any]
) -> CheckResult:
    port, pids = config.transport.port, ", ".join(str(holder.pid) for holder in holders if holder.pid is not None)
    where = f" (pid {pids})" if pids else ""
    try:
        ours = KeyPair.load(keys_dir(config)).node_id
    except IdentityError:
        detail = f"port {port} is held by {short_id(node_id)}{where}; without our key nobody can tell whether it is us"
        return warned(detail, None, holder=short_id(node_id), **facts)
    if node_id == ours:
        return found(True, f"port {port} is held by this node, which is running{where}", holder="self", **facts)
    detail = f"port {port} is held by another HearthNet node, {short_id(node_id)}{where}; set another [transport] port"
    return found(False, detail, show_holders, holder=short_id(node_id), **facts)


def _ask(transport: TransportConfig) -> str | None:
    """Returns the id of the node that answers on the port, or None where none does."""
    import httpx

    host = _ANY_ADDRESS.get(transport.host, transport.host)
    place = f"{f'[{host}]' if ':' in host else host}:{transport.port}"
    # A node that was started before TLS was set, or unset, speaks the other one still.
    schemes = ("https", "http") if transport.tls_cert else ("http", "https")
    for scheme in schemes:
        try:
            # Without a look at the certificate: it is our own, and the connection stays on this machine.
            with (
                httpx.Client(timeout=_ANSWER_WITHIN_S, verify=scheme == "http", trust_env=False) as client,
                client.stream("GET", f"{scheme}://{place}/health") as answer,  # a stranger's body may have no end
            ):
                sender = answer.headers.get(SENDER, "")
                return sender if is_node_id(sender) else None
        except httpx.TimeoutException:
            return None
        except (httpx.HTTPError, httpx.InvalidURL):
            continue
    return None


def live_nodes(directory: Path | None) -> list[int]:
    """Returns the processes of ours that record into `directory` and are alive."""
    pids = []
    for path in boxes_in(directory) if directory is not None else ():
        try:
            with path.open("rb") as file:
                header = read_header(file.read(HEADER_BYTES))
        except OSError:  # taken in by another process since it was listed, or of another user
            continue
        if header is not None and is_alive(header):
            pids.append(header.pid)
    return pids

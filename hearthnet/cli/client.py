"""Asks the running node. Whatever else answers on the port is not our node: its header would name us."""

from __future__ import annotations

import os
from typing import Any, Final

import httpx

from hearthnet.config import Config
from hearthnet.errors import HearthNetError, IdentityError, NodeUnreachableError
from hearthnet.identity.keys import KeyPair
from hearthnet.observability.traceparent import TRACEPARENT, spell
from hearthnet.transport.signing import SENDER, sign, trace_id_of

__all__ = ["NodeClient", "call_headers"]

_ANY_ADDRESS: Final = ("0.0.0.0", "::", "")  # noqa: S104  # compared with, not bound
_CONNECT_TIMEOUT_S: Final = 2.0


class NodeClient:
    """Talks to the node of this configuration on this machine."""

    def __init__(self, config: Config, timeout_s: float = 15.0) -> None:
        transport = config.transport
        host = "127.0.0.1" if transport.host in _ANY_ADDRESS else transport.host
        scheme = "https" if transport.tls_cert else "http"
        self.port = transport.port
        self._keys_dir = config.identity.keys_dir
        # verify: the certificate is our own, the connection stays on this machine
        self.http = httpx.Client(
            base_url=f"{scheme}://{f'[{host}]' if ':' in host else host}:{transport.port}",
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
            verify=transport.tls_cert is None,
            trust_env=False,
        )

    def ask(self, path: str, **parameters: Any) -> Any | None:
        """Returns the JSON answer to a GET, or None when our node does not answer on its port.

        Raises:
            HearthNetError: raised when the node answers with an error; its message is the node's.
        """
        try:
            answer = self.http.get(path, params={k: v for k, v in parameters.items() if v is not None})
        except httpx.HTTPError:
            return None
        if not self.is_ours(answer):
            return None
        if answer.is_error:
            raise HearthNetError(f"the node answered: {answer.json().get('message', answer.status_code)}")
        return answer.json()

    def need(self, path: str, **parameters: Any) -> Any:
        """Returns the JSON answer to a GET.

        Raises:
            NodeUnreachableError: raised when our node does not answer on its port.
        """
        answer = self.ask(path, **parameters)
        if answer is None:
            raise self.unreachable()
        return answer

    def control(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """Returns what the node answers to an operator's request, a refusal included.

        Raises:
            NodeUnreachableError: raised when no node of ours answers.
        """
        try:
            answer = self.http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self.unreachable() from error
        if not self.is_ours(answer):
            raise self.unreachable()
        return answer

    def unreachable(self) -> NodeUnreachableError:
        """Returns the error for a node that is not there."""
        return NodeUnreachableError(f"no node of ours answers on port {self.port}", hint="start it: hearthnet run")

    def is_ours(self, answer: httpx.Response) -> bool:
        """Tells whether it is our node that answered."""
        try:
            return self._keys_dir is not None and answer.headers.get(SENDER) == KeyPair.load(self._keys_dir).node_id
        except IdentityError:
            return False


def call_headers(
    keys: KeyPair, community: str, capability: str, version: str, body: Any, request_id: str
) -> dict[str, str]:
    """Returns the signed headers of a call, and `traceparent` for what knows only that.

    It is left out where the request id names no trace. This program records nothing, so it calls itself not sampled.
    """
    signed = sign(keys, community, capability, version, body, request_id)
    trace_id = trace_id_of(request_id)
    try:
        return {**signed, TRACEPARENT: spell(trace_id or "", os.urandom(8).hex(), is_sampled=False)}
    except ValueError:
        return signed

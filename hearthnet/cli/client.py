"""Asks the running node. Whatever else answers on the port is not our node: its header would name us."""

from __future__ import annotations

from typing import Any, Final

import httpx

from hearthnet.client.tls import pinned
from hearthnet.config import Config, TransportConfig
from hearthnet.errors import HearthNetError, IdentityError, NodeUnreachableError
from hearthnet.identity.keys import KeyPair
from hearthnet.transport.signing import SENDER

__all__ = ["NodeClient", "url_of"]

_ANY_ADDRESS: Final = ("0.0.0.0", "::", "")  # noqa: S104  # compared with, not bound
_CONNECT_TIMEOUT_S: Final = 2.0


class NodeClient:
    """Talks to the node of this configuration on this machine."""

    def __init__(self, config: Config, timeout_s: float = 15.0) -> None:
        self.port = config.transport.port
        self._keys_dir = config.identity.keys_dir
        self.http = httpx.Client(
            base_url=url_of(config.transport),
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
            verify=pinned(config.transport.tls_cert),
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
        document = _document(answer)
        if answer.is_error:
            told = document.get("message") if isinstance(document, dict) else None
            raise HearthNetError(f"the node answered: {told or answer.status_code}")
        return document

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
            HearthNetError: raised when the answer is none of this protocol.
        """
        try:
            answer = self.http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self.unreachable() from error
        if not self.is_ours(answer):
            raise self.unreachable()
        if not isinstance(_document(answer), dict if answer.is_error else list):
            raise _not_ours(answer)
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


def _document(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise _not_ours(answer) from error


def _not_ours(answer: httpx.Response) -> HearthNetError:
    return HearthNetError(
        f"what answered is no HearthNet node (HTTP {answer.status_code})",
        hint="who has the port? see: hearthnet doctor",
    )


def url_of(transport: TransportConfig) -> str:
    """Returns where the node of these settings answers on its own machine."""
    host = "127.0.0.1" if transport.host in _ANY_ADDRESS else transport.host
    scheme = "https" if transport.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{transport.port}"

"""HTTP client of the running node, on the standard library: importing httpx takes longer than most requests.

A response counts as our node's only if its header has our node id. Any program can send that, so a document is used
only if it has the shape that the command reads.
"""

from __future__ import annotations

import socket
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode

import orjson

from hearthnet.constants import SENDER
from hearthnet.errors import HearthNetError, IdentityError, NodeRefusedError, NodeUnreachableError, missing_extra

if TYPE_CHECKING:
    from http.client import HTTPMessage

    from hearthnet.locations import Locations

__all__ = ["MILLISECONDS", "MOMENT_US", "NUMBER", "NodeClient", "Response", "fits", "url_of"]

_ANY_ADDRESS: Final = ("0.0.0.0", "::", "")  # noqa: S104  # compared with, not bound
_CONNECT_TIMEOUT_S: Final = 2.0
_FIRST_ERROR: Final = 400

# Parts of shapes, beside types: see `fits`.
NUMBER: Final = int | float
MILLISECONDS: Final = range(10**13)
MOMENT_US: Final = range(2 * 10**17)  # of the years that `datetime` knows, with room for a duration


def fits(value: Any, shape: Any) -> bool:
    """Returns whether a JSON value has a shape: a type, range, tuple of values, or a list or dict of shapes.

    A dict has the keys that are read; there may be others.
    """
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(key in value and fits(value[key], one) for key, one in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    if isinstance(shape, tuple):
        return value in shape
    if isinstance(shape, range):
        return isinstance(value, NUMBER) and shape.start <= value < shape.stop
    assert isinstance(shape, type | UnionType)
    return isinstance(value, shape)


class Response(NamedTuple):
    """A response from whatever listens on the port."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def is_error(self) -> bool:
        """True if the status is an error."""
        return self.status >= _FIRST_ERROR

    def json(self) -> Any:
        """Returns the parsed body.

        Raises:
            HearthNetError: raised when it is not JSON.
        """
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise self.not_ours() from error

    def document(self, shape: Any) -> Any:
        """Returns the parsed body, which has this shape.

        Raises:
            HearthNetError: raised when it has another, or is not JSON.
        """
        document = self.json()
        if not fits(document, shape):
            raise self.not_ours()
        return document

    @property
    def message(self) -> str:
        """What an error's body says, or the status.

        Raises:
            HearthNetError: raised when it is not JSON.
        """
        document = self.json()
        return document["message"] if fits(document, {"message": str}) else str(self.status)

    def not_ours(self) -> HearthNetError:
        """Returns the error for a response that is not a node's."""
        return HearthNetError(
            f"the response is not from a HearthNet node (HTTP {self.status})",
            hint="find out what uses the port: hearthnet doctor --check transport_port",
        )


class NodeClient:
    """Client of this user's node on this machine.

    Args:
        where: the node's address and keys.
        timeout_s: seconds to wait for each part of a response.
    """

    def __init__(self, where: Locations, timeout_s: float = 15.0) -> None:
        self._where = where
        self._timeout_s = timeout_s

    def ask(self, path: str, shape: Any, **parameters: Any) -> Any | None:
        """Returns the JSON response to a GET, which has this shape, or None if our node does not respond on its port.

        Raises:
            NodeRefusedError: raised when the node responds with an error.
            HearthNetError: raised when the response has another shape.
        """
        try:
            response = self.get(path, **parameters)
        except OSError:
            return None
        if not self.is_ours(response):
            return None
        if response.is_error:
            raise NodeRefusedError(f"the node reported: {response.message}")
        return response.document(shape)

    def need(self, path: str, shape: Any, **parameters: Any) -> Any:
        """Returns the JSON response to a GET, as `ask` does.

        Raises:
            NodeUnreachableError: raised when our node does not respond on its port.
        """
        document = self.ask(path, shape, **parameters)
        if document is None:
            raise self.unreachable()
        return document

    def control(self, method: str, path: str, shape: Any, body: dict[str, Any] | None = None) -> Response:
        """Returns the node's response to an operator's request: of this shape, or refused.

        Raises:
            NodeUnreachableError: raised when our node does not respond.
            HearthNetError: raised when the response does not follow the protocol.
        """
        try:
            response = self.request(method, path, body)
        except OSError as error:
            raise self.unreachable() from error
        if not self.is_ours(response):
            raise self.unreachable()
        response.document(dict if response.is_error else shape)
        return response

    def get(self, path: str, *, timeout_s: float | None = None, **parameters: Any) -> Response:
        """Returns the response to a GET with these parameters, except those that are None.

        Raises:
            OSError: raised as `request` does.
        """
        given = {name: value for name, value in parameters.items() if value is not None}
        query = f"?{urlencode(given, doseq=True)}" if given else ""
        return self.request("GET", path + query, timeout_s=timeout_s)

    def request(
        self, method: str, target: str, body: dict[str, Any] | None = None, timeout_s: float | None = None
    ) -> Response:
        """Returns the response to one request, over its own connection.

        Raises:
            TimeoutError: raised when nothing arrives in time.
            OSError: raised when there is no connection, or the response is not HTTP.
        """
        content = None if body is None else orjson.dumps(body)
        headers = {} if content is None else {"Content-Type": "application/json"}
        # Connect first: if no node runs, nothing more is imported.
        connected = self._connect(self._timeout_s if timeout_s is None else timeout_s)
        with connected:
            from http.client import HTTPConnection, HTTPException

            try:
                connection = HTTPConnection(host_of(self._where.host), self._where.port)
                connection.sock = connected
                connection.request(method, target, content, headers)
                response = connection.getresponse()
                return Response(response.status, response.headers, response.read())
            except HTTPException as error:
                raise ConnectionError(f"the response is not HTTP: {error!r}") from error

    def _connect(self, timeout_s: float) -> socket.socket:
        if not self._where.has_node:
            raise ConnectionError("these are files")
        try:
            connected = socket.create_connection((host_of(self._where.host), self._where.port), _CONNECT_TIMEOUT_S)
        except UnicodeError as error:  # an invalid host name
            raise ConnectionError(f"{self._where.host!r} is not a valid host") from error
        connected.settimeout(timeout_s)
        if self._where.tls_cert is None:
            return connected
        from hearthnet.client.tls import pinned

        return pinned(self._where.tls_cert).wrap_socket(connected)

    def is_running(self) -> bool:
        """Returns True if our node responds on its port."""
        try:
            return self.is_ours(self.get("/health"))
        except OSError:
            return False

    def unreachable(self) -> NodeUnreachableError:
        """Returns the error for a node that does not respond."""
        port = self._where.port
        return NodeUnreachableError(f"this node is not running on port {port}", hint="start it: hearthnet run")

    def is_ours(self, response: Response) -> bool:
        """Returns True if the response is from our node."""
        sender = response.headers.get(SENDER)
        if sender is None:
            return False
        from hearthnet.identity.keys import KeyPair, read_public_id

        if sender == read_public_id(self._where.keys_dir):
            return True
        try:  # the public file may be missing or wrong; the key itself is decisive
            return sender == KeyPair.load(self._where.keys_dir).node_id
        except IdentityError:
            return False
        except ModuleNotFoundError as error:
            if missing_extra(error) is None:
                raise
            return False


def host_of(listening: str) -> str:
    """Returns the local address of a node that listens on `listening`."""
    return "127.0.0.1" if listening in _ANY_ADDRESS else listening


def url_of(where: Locations) -> str:
    """Returns the node's local URL."""
    host = host_of(where.host)
    scheme = "https" if where.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{where.port}"

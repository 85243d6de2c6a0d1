"""Client for calling nodes: signs each request and verifies each response, over httpx."""

from typing import TYPE_CHECKING, Any

from hearthnet.errors import missing_extra

if TYPE_CHECKING:
    from hearthnet.client.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """Imports `Client` on first use, so that `tls` can be used without httpx.

    Raises:
        MissingExtraError: raised when `hearthnet[node]` is not installed.
    """
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from hearthnet.client.client import Client
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from error
    return Client

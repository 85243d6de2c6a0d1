"""Calls nodes the way nodes call each other: signed, each answer proven to be that node's, over httpx."""

from typing import TYPE_CHECKING, Any

from hearthnet.extras import missing_extra

if TYPE_CHECKING:
    from hearthnet.client.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """Imports the client when it is first used: `tls` beside it is of use without httpx.

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

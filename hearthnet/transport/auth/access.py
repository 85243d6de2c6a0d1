"""FastAPI dependencies that decide who may use a route. `exposure` reads them by name."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from hearthnet.bus.bus import CapabilityBus
from hearthnet.errors import WireError
from hearthnet.identity.keys import KeyPair
from hearthnet.identity.manifest import Manifest
from hearthnet.observability import get_logger
from hearthnet.observability.telemetry import Telemetry
from hearthnet.transport.api.error_body import error_body, internal_error, validation_failure
from hearthnet.transport.auth.replay import Replays
from hearthnet.transport.auth.signing import CAPABILITY, SENDER, Signer, read_claim, verify_claim
from hearthnet.transport.page.source import Page

__all__ = [
    "NodeServices",
    "Services",
    "SignedRoute",
    "is_loopback",
    "loopback_only",
    "members_or_loopback",
    "scrapers",
    "services_of",
    "signer_for",
]

log = get_logger(__name__)

# Headers that a proxy adds. A proxy on this machine makes its clients look local; direct clients send none of these.
_FORWARDED: Final = ("forwarded", "x-forwarded-", "x-real-ip", "via")  # as they begin


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a node that the routes use.

    `seen` receives the id of each verified caller; `status` and `doctor` may take seconds. With `keys` responses are
    signed; a node always has them. `replays` is shared by all requests of one application. `page` shows the store.
    """

    bus: CapabilityBus
    telemetry: Telemetry
    manifest: Callable[[], Manifest]
    seen: Callable[[str], None]
    status: Callable[[], dict[str, Any]]
    doctor: Callable[[list[str]], list[dict[str, Any]]]
    metrics_loopback_only: bool = False
    keys: KeyPair | None = None
    replays: Replays = field(default_factory=Replays)
    page: Page | None = None


def services_of(request: Request) -> Services:
    """Returns the services of the application that serves the request."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    # Async, though it awaits nothing: the framework runs a plain function in a thread, at twice the cost of a call.
    return services_of(request)


NodeServices = Annotated[Services, Depends(_services)]


def is_loopback(request: Request) -> bool:
    """Returns True for a request from this machine that did not pass through a proxy."""
    if any(name.startswith(_FORWARDED) for name in request.headers):
        return False
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    # A client with the address that it connected to is on this machine too: a node may listen on that address alone.
    own = (request.scope.get("server") or ("",))[0]
    return (mapped or address).is_loopback or host == own


def loopback_only(request: Request) -> None:
    """Admits requests from this machine.

    Raises:
        WireError: raised as `unauthorized` for all others.
    """
    if not is_loopback(request):
        raise WireError("unauthorized", "this route is for the node's own machine only, and not through a proxy")


def scrapers(request: Request) -> None:
    """Admits callers that may read the metrics: all, or with `observability.metrics_loopback_only` this machine.

    Raises:
        WireError: raised as `unauthorized` for all others.
    """
    if services_of(request).metrics_loopback_only:
        loopback_only(request)


async def members_or_loopback(request: Request) -> None:
    """Admits requests from this machine, and from elsewhere those that a member has signed.

    The signed capability is `GET <path?query>`, byte for byte as sent; the signed body is null. A signature is verified
    from everywhere, because the response to it is signed.

    Raises:
        WireError: raised for all others, with the code of the failed check.
    """
    if CAPABILITY not in request.headers:
        if is_loopback(request):
            return
        raise WireError("unauthorized", "this route is for the node's own machine, and for signed requests of members")
    services = services_of(request)
    target = _target(request)
    services.bus.check_rate(request.headers.get(SENDER, ""), target, is_claimed=True)
    claim = read_claim(request.headers, services.manifest(), target=target)
    envelope = verify_claim(claim, None, services.replays)
    services.seen(envelope.sender)
    request.state.signer = signer_for(services, claim.signature)
    services.bus.check_rate(envelope.sender, target)


def _target(request: Request) -> str:
    path: bytes = request.scope.get("raw_path") or request.url.path.encode()
    query: bytes = request.scope["query_string"]
    return f"{request.method} {(path + b'?' + query if query else path).decode('latin-1')}"


def signer_for(services: Services, signature: str) -> Signer | None:
    """Returns a signer for the response to the verified request with this signature, or None without keys."""
    return None if services.keys is None else Signer(services.keys, signature)


class SignedRoute(APIRoute):
    """A route that signs its responses to signed requests, errors included."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the framework's handler, wrapped."""
        handle = super().get_route_handler()

        async def signed(request: Request) -> Response:
            try:
                response = await handle(request)
            except WireError as error:
                response = JSONResponse(error_body(error), error.status)
            except RequestValidationError as error:
                response = JSONResponse(error_body(validation_failure(error)), 400)
            except Exception as error:
                log.error("request failed", extra={"path": request.scope["path"]}, exc_info=error)
                response = JSONResponse(error_body(internal_error()), 500)
            signer: Signer | None = getattr(request.state, "signer", None)
            return response if signer is None else signer.signed(response)

        return signed

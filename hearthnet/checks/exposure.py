"""Checks of network exposure: reachable routes, the certificate, the connection limit, refused members."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.results import format_names, found, skipped, warned
from hearthnet.config import Config
from hearthnet.display import counted
from hearthnet.errors import ConfigError
from hearthnet.identity.keys import short_id
from hearthnet.observability.doctor import CheckResult
from hearthnet.transport.auth import failed_signatures
from hearthnet.transport.connection.fd_limit import RESERVED, enough_for
from hearthnet.transport.tls import Certificate, ServingPair, insecure_key_mode, now_utc

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["connection_limit", "exposure", "members_refused"]


def exposure(config: Config, _: CapabilityBus | None) -> CheckResult:
    """Only routes meant to be open are open, and the certificate is valid for more than 14 days."""
    # Late: the routes import the framework, and the other checks can start meanwhile.
    from hearthnet.transport.app import ROUTERS
    from hearthnet.transport.auth import exposure as reach

    transport = config.transport
    reaches = reach.reachable(ROUTERS, config)
    evidence: dict[str, Any] = {
        "host": transport.host,
        "port": transport.port,
        "tls": transport.tls_cert is not None,
        "routes": [asdict(item) for item in reaches],
    }
    try:
        pair = ServingPair.of(transport)
    except ConfigError as error:
        return found(False, f"nothing is reachable, the node cannot start: {error.message}", error.hint, **evidence)
    certificate = None if pair is None else pair.certificate
    if certificate is not None:
        evidence["certificate"] = _facts(certificate)
        if (trouble := certificate.trouble(now_utc())) is not None:
            detail = f"{trouble}: clients that verify it refuse to connect"
            return found(False, detail, _renewal(certificate, config), **evidence)
    detail = reach.summary(reaches, transport, certificate)
    doubts = [f"{route} serves unauthenticated clients" for route in reach.unexpectedly_open(reaches)]
    fix = "hearthnet doctor --check exposure --json" if doubts else None
    if certificate is not None:
        assert transport.tls_key is not None
        if (mode := insecure_key_mode(transport.tls_key)) is not None:
            doubts.append(f"{transport.tls_key} has mode {mode}: other users can read the key")
            fix = fix or f"chmod 600 {shlex.quote(str(transport.tls_key))}"
        if certificate.expires_soon(now_utc()):
            days = counted(round(certificate.days_left(now_utc())), "day")
            doubts.append(f"the certificate expires in {days}")
            fix = fix or _renewal(certificate, config)
    return warned(f"{'; '.join(doubts)}; {detail}", fix, **evidence) if doubts else found(True, detail, **evidence)


def _facts(certificate: Certificate) -> dict[str, Any]:
    return {
        "names": list(certificate.names),
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "days_left": round(certificate.days_left(now_utc()), 1),
        "self_signed": certificate.is_self_signed,
    }


def _renewal(certificate: Certificate, config: Config) -> str:
    """Returns the command that renews a self-signed certificate; for any other, one that shows its issuer."""
    cert, key = (shlex.quote(str(path)) for path in (config.transport.tls_cert, config.transport.tls_key))
    if not certificate.is_self_signed:
        return f"openssl x509 -in {cert} -noout -issuer -subject -enddate  # who signed it renews it"
    return f"openssl x509 -in {cert} -signkey {key} -days 825 -out {cert}"


_CLOCK: Final = "hearthnet doctor --check clock_sanity"
# The fault is mostly the caller's; the operator can inform its owner.
_FIXES: Final[dict[failed_signatures.Reason, str]] = {
    "wrong": "the caller must sign exactly the bytes that it sends, see docs/client.md; or someone else uses its id",
    "replayed": "the caller must sign each attempt again, with milliseconds, see docs/client.md; or it is a replay",
    "closed": _CLOCK,
    "full": "the caller must wait for retry_after_ms",
}


def connection_limit(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The limit of open files is high enough for `max_connections`."""
    if bus is None:  # the limit is that of the listening process, not of this one
        return skipped("the node is not running")
    wanted = config.transport.max_connections
    most, descriptors = enough_for(wanted)
    evidence: dict[str, Any] = {"max_connections": wanted, "possible": most, "descriptors": descriptors}
    if most == wanted:
        return found(True, f"up to {wanted} connections", **evidence)
    detail = f"only {most} of {wanted} connections possible: the node may open {descriptors} files"
    fix = f"raise its open file limit to {wanted + RESERVED} (ulimit -n, LimitNOFILE=), or lower max_connections"
    return warned(detail, fix, **evidence)


def members_refused(_: Config, bus: CapabilityBus | None) -> CheckResult:
    """No request in the name of a member was refused for its signature in the last hour."""
    if bus is None:
        return skipped("the node is not running")
    refused = failed_signatures.of_members()
    reasons = Counter(reason for _, reason in refused)
    members = [short_id(member) for member, _ in Counter(member for member, _ in refused).most_common()]
    evidence: dict[str, Any] = {"reasons": dict(reasons), "members": members}
    if not refused:
        return found(True, "no member was refused in the last hour", **evidence)
    listed = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    requests = counted(len(refused), "request")
    detail = f"{requests} in the name of {format_names(members)} refused in the last hour: {listed}"
    return warned(detail, _FIXES.get(reasons.most_common(1)[0][0]), **evidence)

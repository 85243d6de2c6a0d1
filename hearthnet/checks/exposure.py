"""Checks of what of the node is reachable from where, of its certificate, and of whom it has to turn away."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from hearthnet.checks.results import few, found, skipped, warned
from hearthnet.config import Config
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
    """Only what is meant to be open is, and the certificate holds for more than 14 days."""
    # Late: the routes bring the framework along, and the other checks can begin meanwhile.
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
        return found(False, f"nothing is reachable, a node could not start: {error.message}", error.hint, **evidence)
    certificate = None if pair is None else pair.certificate
    if certificate is not None:
        evidence["certificate"] = _facts(certificate)
        if (trouble := certificate.trouble(now_utc())) is not None:
            detail = f"{trouble}: clients that check it turn away"
            return found(False, detail, _renewal(certificate, config), **evidence)
    detail = reach.summary(reaches, transport, certificate)
    doubts = [f"{route} answers strangers" for route in reach.unexpectedly_open(reaches)]
    fix = "hearthnet doctor --check exposure --json" if doubts else None
    if certificate is not None:
        assert transport.tls_key is not None
        if (mode := insecure_key_mode(transport.tls_key)) is not None:
            doubts.append(f"{transport.tls_key} has mode {mode}: others may use the key")
            fix = fix or f"chmod 600 {shlex.quote(str(transport.tls_key))}"
        if certificate.expires_soon(now_utc()):
            doubts.append(f"the certificate expires in {certificate.days_left(now_utc()):.0f} day(s)")
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
    """Returns what makes a certificate anew; where others signed it, what shows who."""
    cert, key = (shlex.quote(str(path)) for path in (config.transport.tls_cert, config.transport.tls_key))
    if not certificate.is_self_signed:
        return f"openssl x509 -in {cert} -noout -issuer -subject -enddate  # who signed it renews it"
    return f"openssl x509 -in {cert} -signkey {key} -days 825 -out {cert}"


_CLOCK: Final = "hearthnet doctor --check clock_sanity"
# What is wrong is with the caller, mostly; who reads this can tell its people.
_FIXES: Final[dict[failed_signatures.Reason, str]] = {
    "wrong": "have the caller sign what it sends, byte by byte: see docs/client.md; or others use its id",
    "replayed": "have the caller sign each try anew, with milliseconds: see docs/client.md; or others send it again",
    "closed": _CLOCK,
    "full": "have the caller wait as long as retry_after_ms says",
}


def connection_limit(config: Config, bus: CapabilityBus | None) -> CheckResult:
    """The node may open as many files as its `max_connections` need."""
    if bus is None:  # the limit is of the process that listens, not of this one
        return skipped("the node is not running")
    wanted = config.transport.max_connections
    most, descriptors = enough_for(wanted)
    evidence: dict[str, Any] = {"max_connections": wanted, "possible": most, "descriptors": descriptors}
    if most == wanted:
        return found(True, f"{wanted} connections at one time", **evidence)
    detail = f"{most} connections at one time, not {wanted}: the node may open {descriptors} files"
    fix = f"raise its limit of open files to {wanted + RESERVED} (ulimit -n, LimitNOFILE=), or lower max_connections"
    return warned(detail, fix, **evidence)


def members_refused(_: Config, bus: CapabilityBus | None) -> CheckResult:
    """No request in the name of a member was refused for its signature within the hour."""
    if bus is None:
        return skipped("the node is not running")
    refused = failed_signatures.of_members()
    reasons = Counter(reason for _, reason in refused)
    members = [short_id(member) for member, _ in Counter(member for member, _ in refused).most_common()]
    evidence: dict[str, Any] = {"reasons": dict(reasons), "members": members}
    if not refused:
        return found(True, "no member was refused within the hour", **evidence)
    told = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    detail = f"{len(refused)} request(s) in the name of {few(members)} refused within the hour: {told}"
    return warned(detail, _FIXES.get(reasons.most_common(1)[0][0]), **evidence)

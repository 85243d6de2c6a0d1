"""The check of what of the node is reachable from where, and of the certificate that it shows there."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hearthnet.checks.finding import found, warned
from hearthnet.config import Config
from hearthnet.errors import ConfigError
from hearthnet.observability.doctor import CheckResult
from hearthnet.transport.tls import Certificate, ServingPair, loose_key, now_utc

if TYPE_CHECKING:
    from hearthnet.bus.bus import CapabilityBus

__all__ = ["exposure"]


def exposure(config: Config, _: CapabilityBus | None) -> CheckResult:
    """Only what is meant to be open is, and the certificate holds for more than 14 days."""
    # Late: the routes bring the framework along, and the other checks can begin meanwhile.
    from hearthnet.transport import exposure as reach
    from hearthnet.transport.app import ROUTERS

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
    doubts = [f"{route} answers strangers" for route in reach.everybodys_mistakes(reaches)]
    fix = "hearthnet doctor --check exposure --json" if doubts else None
    if certificate is not None:
        assert transport.tls_key is not None
        if (mode := loose_key(transport.tls_key)) is not None:
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

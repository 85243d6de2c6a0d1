"""Certificates and keys as people have them: sound, old, early, encrypted, weak, of somebody else."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOSTS = ("localhost", "127.0.0.1")
PEM = serialization.Encoding.PEM


def write_pair(
    folder: Path,
    name: str = "node",
    *,
    since_days: float = -1,
    for_days: float = 90,
    hosts: tuple[str, ...] = HOSTS,
    issuer: str | None = None,
    password: bytes | None = None,
    key=None,
    signer=None,
) -> dict[str, Path]:
    """Writes a certificate (`name`.pem) and its key (`name`.key); returns them as settings of [transport].

    `signer` is the issuer's key; by default the certificate is signed with its own.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(_called(name))
        .issuer_name(_called(issuer or name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=since_days))
        .not_valid_after(now + timedelta(days=for_days))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if hosts:
        made = made.add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pair = {"tls_cert": folder / f"{name}.pem", "tls_key": folder / f"{name}.key"}
    pair["tls_cert"].write_bytes(made.sign(signer or key, hashes.SHA256()).public_bytes(PEM))
    pair["tls_key"].write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, hidden))
    pair["tls_key"].chmod(0o600)
    return pair


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)

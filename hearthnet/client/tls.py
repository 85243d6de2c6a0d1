"""Whom a connection trusts: the one certificate that it was told of, and no authority."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

__all__ = ["pinned"]

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python has no name for. A pin does not expire: the node's own tools must
# reach it to say that its certificate has.
_NO_CHECK_TIME: Final = 0x20_0000


def pinned(certificate: Path | None) -> ssl.SSLContext:
    """Returns a context that trusts the certificates in a PEM file alone, under whatever name the node is asked.

    Without a file, or with one that cannot be used, it trusts nobody: no TLS connection comes about.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # a node has many names and addresses, its certificate is known
    # A certificate that an authority signed is trusted by itself as well; the authority is not.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    if certificate is not None:
        try:
            context.load_verify_locations(certificate)
        except (OSError, ssl.SSLError):
            return context
    return context

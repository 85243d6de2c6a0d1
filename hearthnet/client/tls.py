"""Whom a connection trusts: the one certificate that it was told of, and no authority."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Final

__all__ = ["pinned"]

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python has no name for. A pin does not expire: the node's own tools must
# reach it to say that its certificate has.
_NO_CHECK_TIME: Final = 0x20_0000
_FIRST: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def pinned(certificate: Path | None) -> ssl.SSLContext:
    """Returns a context that trusts the first certificate of a PEM file alone, under whatever name the node is asked.

    What follows in the file is who signed it. An authority signs for others too, and no name is compared here: with it
    everybody who has a certificate of that authority would be trusted.

    Without a file, or with one that cannot be used, it trusts nobody: no TLS connection comes about.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # a node has many names and addresses, its certificate is known
    # A certificate that an authority signed is trusted by itself as well; the authority is not.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    if certificate is not None:
        try:
            own = _FIRST.search(certificate.read_text("ascii", "replace"))
            if own is not None:
                context.load_verify_locations(cadata=own[0])
        except OSError:  # not there, or no certificate: an SSLError is one too
            return context
    return context

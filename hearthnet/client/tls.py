"""TLS with one pinned certificate; no certificate authorities."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Final

from hearthnet.files import read_regular

__all__ = ["pinned"]

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python does not name. A pin does not expire: the node's own tools must be
# able to connect in order to report that its certificate has.
_NO_CHECK_TIME: Final = 0x20_0000
_FIRST: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def pinned(certificate: Path | None) -> ssl.SSLContext:
    """Returns a context that trusts only the first certificate of a PEM file, under any host name.

    Further certificates in the file belong to its issuers. An authority signs for others too, and host names are not
    compared here: trusting it would mean trusting everybody who has a certificate of that authority.

    Without a file, or with an unusable one, it trusts nothing: every TLS connection fails.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # a node has many names and addresses; its certificate identifies it
    # A certificate issued by an authority is trusted by itself as well; the authority is not.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    if certificate is not None:
        try:
            own = _FIRST.search(read_regular(certificate).decode("ascii", "replace"))
            if own is not None:
                context.load_verify_locations(cadata=own[0])
        except OSError:  # a missing file, or not a certificate: SSLError is an OSError
            return context
    return context

"""The frame of a record in a black box: magic, checksum, version of the payload, length, ordinal, payload.

The checksum covers all that follows it. The payload is a JSON array, whose columns are in `tables.FRAMES`. A module of
its own, because programs that make records import it, and read no box.
"""

from __future__ import annotations

import struct
from zlib import crc32

from hearthnet.forensics.tables import PAYLOAD_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["FRAME", "FRAME_FIELDS", "FRAME_MAGIC", "pack"]

FRAME_MAGIC: Final = b"\xf5HN\xfa"  # two of its bytes never occur in UTF-8
FRAME: Final = struct.Struct("<4sI16s")  # magic, checksum, and of the bytes that it covers:
# version of the payload; the bytes of its extras, the last value, if it is a trace that was encoded in one go, else 0;
# length of the payload, ordinal. The payload follows.
FRAME_FIELDS: Final = struct.Struct("<HHIQ")
_pack_fields: Final = FRAME_FIELDS.pack


def pack(payload: bytes, ordinal: int, extras_bytes: int = 0, version: int = PAYLOAD_VERSION) -> bytes:
    """Returns the frame of a payload.

    Args:
        payload: JSON.
        ordinal: of the frame in its ring, from 1.
        extras_bytes: of a trace that was encoded in one go.
        version: of the payload.
    """
    covered = _pack_fields(version, extras_bytes, len(payload), ordinal) + payload
    return FRAME_MAGIC + crc32(covered).to_bytes(4, "little") + covered

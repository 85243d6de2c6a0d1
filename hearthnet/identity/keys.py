"""Ed25519 device keys: generating, storing in two files, signing and verifying; and canonical JSON, which is signed.

A node's id is its public key. A signature is text, `ed25519:<base64url>`, over canonical JSON: the unique encoding of a
value. Keys sorted at every level, no white space, UTF-8 not escaped, and whole numbers without a fraction (1.0 is 1).
"""

from __future__ import annotations

import base64
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hearthnet.errors import IdentityError, missing_extra
from hearthnet.files import create_whole, hint_for, make_private_dir, read_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "PREFIX",
    "KeyPair",
    "canonical_json",
    "decode",
    "encode",
    "is_node_id",
    "is_signature",
    "normal",
    "read_public_id",
    "short_id",
    "verify",
]

PREFIX: Final = "ed25519:"
PRIVATE_FILE: Final = "device.ed25519"
PUBLIC_FILE: Final = "device.pub"
KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
# The y coordinates of all points whose order divides 8, including those encoded as y + p. As a key such a point
# accepts signatures that anyone can compute; the library does not reject it.
_P: Final = 2**255 - 19
_ORDER_8_Y: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER: Final = frozenset({0, 1, _P - 1, _P, _P + 1, _ORDER_8_Y, _P - _ORDER_8_Y})
_Y_BITS: Final = 2**255 - 1  # the bit above is the sign of x
# Up to here every whole float is exactly an integer; beyond, its digits would be arbitrary.
_MAX_EXACT: Final = 2.0**53
_MAX_DEPTH: Final = 64

_encode_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode(raw: bytes) -> str:
    """Returns `ed25519:` and unpadded base64url."""
    return PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode(text: str, length: int = KEY_BYTES) -> bytes:
    """Returns the bytes of `ed25519:<base64url>`.

    Raises:
        IdentityError: raised when the text is not the exact encoding of `length` bytes, or a key of small order.
    """
    try:
        body = text.removeprefix(PREFIX)
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (ValueError, UnicodeEncodeError) as error:
        raise IdentityError("not a base64url key or signature") from error
    if not text.startswith(PREFIX) or len(raw) != length or encode(raw) != text:
        raise IdentityError(f"not the encoding of {length} bytes as {PREFIX}<base64url>")
    if length == KEY_BYTES and int.from_bytes(raw, "little") & _Y_BITS in _SMALL_ORDER:
        raise IdentityError("a key of small order, for which anyone can sign")
    return raw


def is_node_id(text: str) -> bool:
    """Returns True if `text` is a full node id."""
    try:
        decode(text)
    except IdentityError:
        return False
    return True


def is_signature(text: str) -> bool:
    """Returns True if `text` has the form of a signature; `verify` checks its validity."""
    try:
        decode(text, _SIGNATURE_BYTES)
    except IdentityError:
        return False
    return True


def short_id(node_id: str) -> str:
    """Returns a short id for display: the first 8 bytes in base32, 16 characters with padding, in groups of four."""
    text = base64.b32encode(decode(node_id)[:8]).decode("ascii")
    return PREFIX + "-".join(text[start : start + 4] for start in range(0, 16, 4))


def read_public_id(directory: Path) -> str | None:
    """Returns the node id in the public file of `directory`; None if the file is missing or not a key.

    The file is only a copy. Where a wrong id matters, use `KeyPair.load`.
    """
    try:
        raw = read_regular(directory / PUBLIC_FILE)
    except OSError:
        return None
    return encode(raw) if len(raw) == KEY_BYTES else None


class KeyPair:
    """A signing key and its node id."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_bytes: bytes = private.public_key().public_bytes_raw()
        self.node_id = encode(self.public_bytes)

    @classmethod
    def generate(cls) -> KeyPair:
        """Returns a new random key pair."""
        return cls(_private_keys().generate())

    @classmethod
    def load(cls, directory: Path) -> KeyPair:
        """Returns the key pair stored in `directory`.

        Raises:
            IdentityError: raised when the key is missing, unreadable, or not 32 bytes.
        """
        path = directory / PRIVATE_FILE
        try:
            raw = read_regular(path)
        except FileNotFoundError as error:
            raise IdentityError(f"no device key at {path}", hint="create one with: hearthnet init") from error
        except OSError as error:
            hint = hint_for(error) or f"chmod 600 {path}"
            raise IdentityError(f"{path} cannot be read: {error.strerror}", hint=hint) from error
        if len(raw) != KEY_BYTES:
            never = "" if raw else f"; if `hearthnet init` never succeeded: rm {path}, and repeat it"
            raise IdentityError(
                f"{path} has {len(raw)} bytes, a key has {KEY_BYTES}",
                hint=f"restore it from a backup; without it this node is not a member of its community{never}",
            )
        return cls(_private_keys().from_private_bytes(raw))

    @property
    def private_bytes(self) -> bytes:
        """The 32 secret bytes, for excluding them from records; never write them anywhere."""
        return self._private.private_bytes_raw()

    def save(self, directory: Path) -> None:
        """Writes both files, the private one with mode 0600; each is whole, or absent.

        Raises:
            IdentityError: raised when there is already a key: it is never overwritten.
            OSError: raised when a file cannot be written.
        """
        make_private_dir(directory)
        present = [name for name in (PRIVATE_FILE, PUBLIC_FILE) if os.path.lexists(directory / name)]
        if present:
            # Checked for both before either is written: the next start would load half a pair.
            raise IdentityError(f"{directory / present[0]} already exists", hint="move it away first, if you are sure")
        create_whole(directory / PRIVATE_FILE, self.private_bytes)  # first: the public one can be made again from it
        self.save_public(directory)

    def save_public(self, directory: Path) -> None:
        """Writes the public file, unless there is one.

        Raises:
            OSError: raised when it cannot be written.
        """
        if not os.path.lexists(directory / PUBLIC_FILE):
            with suppress(FileExistsError):  # another process was faster
                create_whole(directory / PUBLIC_FILE, self.public_bytes, 0o644)

    def sign(self, payload: dict[str, Any]) -> str:
        """Returns the signature over the canonical JSON of `payload` without its `signature` field.

        Raises:
            ValueError: raised for a payload without a canonical encoding.
        """
        return encode(self._private.sign(_signed_bytes(payload)))


def _private_keys() -> type[Ed25519PrivateKey]:
    # Late: programs without `hearthnet[node]` read ids, file names and public keys.
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from error
    return Ed25519PrivateKey


def verify(payload: dict[str, Any], signature: str, node_id: str) -> bool:
    """Returns True if `signature` is `node_id`'s over the canonical JSON of `payload` without its `signature`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(decode(node_id))
        public.verify(decode(signature, _SIGNATURE_BYTES), _signed_bytes(payload))
    except (IdentityError, InvalidSignature, ValueError):
        return False
    return True


def _signed_bytes(payload: dict[str, Any]) -> bytes:
    return canonical_json({key: value for key, value in payload.items() if key != "signature"})


def canonical_json(value: Any) -> bytes:
    """Returns the canonical encoding of a JSON value.

    Raises:
        ValueError: raised for a value without one: NaN, infinities, lone surrogates, keys that are not strings, or
            nesting beyond 64.
    """
    return _encode_json(normal(value)).encode("utf-8")


def normal(value: Any, depth: int = 0) -> Any:
    """Returns the value that the canonical encoding of `value` decodes to: equal for all values encoded alike.

    Raises:
        ValueError: raised for a value without a canonical encoding, as by `canonical_json`.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("keys must be strings")
        return {key: normal(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [normal(item, depth + 1) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= _MAX_EXACT:
        return int(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{type(value).__name__} is not a JSON type")

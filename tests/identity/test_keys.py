"""Device keys: their encoding, their two files, and what a signature proves."""

from __future__ import annotations

import base64
import os
import re
import stat
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from hearthnet.errors import IdentityError
from hearthnet.identity.keys import KeyPair, canonical_json, decode, encode, is_node_id, short_id, verify

RAW = bytes(range(32))
ID = "ed25519:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


def mode(path: Path) -> int:
    """Returns the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def pair():
    """A new key pair."""
    return KeyPair.generate()


def test_spelling_of_a_node_id():
    """Keys are `ed25519:` and base64url without padding."""
    assert encode(RAW) == ID
    assert decode(ID) == RAW


def test_spelling_uses_the_url_alphabet():
    """Bytes that plain base64 encodes with + and / are encoded with - and _."""
    text = encode(b"\xfb\xff" * 16)

    assert set("+/=").isdisjoint(text)
    assert set("-_") <= set(text)
    assert decode(text) == b"\xfb\xff" * 16


@given(st.binary(min_size=64, max_size=64))
def test_spelling_is_read_back(raw):
    """All bytes have one encoding."""
    assert decode(encode(raw), 64) == raw


# Every encoding of a point whose order divides 8: the coordinate y, that of order 8 found as a root of the curve's
# equation, also encoded as y + p; each with either sign bit.
P = 2**255 - 19
ORDER_8_Y = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL_ORDER = [
    (y | sign << 255).to_bytes(32, "little")
    for y in (0, 1, P - 1, P, P + 1, ORDER_8_Y, P - ORDER_8_Y)
    for sign in (0, 1)
]


def test_small_order_is_what_the_curve_says():
    """Doubling the point gives y = 0, which is of order 4; there d*y^4 + 2*y^2 - 1 is 0."""
    d = -121665 * pow(121666, -1, P)
    assert (d * ORDER_8_Y**4 + 2 * ORDER_8_Y**2 - 1) % P == 0


@pytest.mark.parametrize("raw", SMALL_ORDER, ids=bytes.hex)
def test_key_that_anybody_can_sign_for_is_none(raw):
    """A key of small order, for which a signature can be guessed without a private key, is no node id."""
    payloads = [{"number": number} for number in range(200)]
    signature = SMALL_ORDER[2] + bytes(32)  # the neutral point and 0

    def is_forged(payload):
        try:
            Ed25519PublicKey.from_public_bytes(raw).verify(signature, canonical_json(payload))
        except InvalidSignature:
            return False
        return True

    assert any(is_forged(payload) for payload in payloads)
    assert not is_node_id(encode(raw))
    assert not any(verify(payload, encode(signature), encode(raw)) for payload in payloads)
    with pytest.raises(IdentityError, match="small order"):
        short_id(encode(raw))


@given(st.text())
def test_reading_any_text_is_safe(text):
    """Text that is not an encoding is refused, and everything else encodes to the same text again."""
    try:
        assert encode(decode(text)) == text
    except IdentityError:
        assert not is_node_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        ID.removeprefix("ed25519:"),
        ID.upper(),
        ID + "=",
        ID + "A",
        ID[:-1],
        ID[:-1] + "9",  # the same bytes, other unused bits
        " " + ID,
        ID + "\n",
        ID.replace("AAEC", "AA+C"),
        ID.replace("AAEC", "ÄÄEC"),
        "rsa:" + ID.removeprefix("ed25519:"),
        "ed25519:" + ID,
    ],
)
def test_other_spellings_are_refused(text):
    """One key has one id: padding, white space, other alphabets and lengths are refused."""
    assert not is_node_id(text)
    with pytest.raises(IdentityError):
        decode(text)


def test_length_is_checked():
    """A signature's 64 bytes are not a key, and a key's 32 not a signature."""
    with pytest.raises(IdentityError, match="32"):
        decode(encode(bytes(64)))
    with pytest.raises(IdentityError, match="64"):
        decode(ID, 64)


def test_short_id():
    """A short id has the first 8 bytes in base32, the first 16 characters in groups of four."""
    assert short_id(ID) == "ed25519:AAAQ-EAYE-AUDA-O==="
    assert short_id(ID).removeprefix("ed25519:").replace("-", "") == base64.b32encode(RAW[:8]).decode()[:16]


def test_short_id_of_no_id_is_refused():
    """An invalid id has no short form."""
    with pytest.raises(IdentityError):
        short_id("ed25519:short")


def test_node_id_is_the_public_key(pair):
    """The id is the encoding of the 32-byte public key."""
    assert decode(pair.node_id) == pair.public_bytes
    assert len(pair.public_bytes) == 32


def test_generated_pairs_differ():
    """Two nodes have different ids."""
    assert KeyPair.generate().node_id != KeyPair.generate().node_id


def test_signature_is_over_canonical_json_without_its_own_field(pair):
    """The format that other nodes verify: `ed25519:<base64url>` of Ed25519 over the canonical payload."""
    payload = {"b": 1.0, "a": "ä", "signature": "whatever"}
    signature = pair.sign(payload)

    assert re.fullmatch(r"ed25519:[A-Za-z0-9_-]{86}", signature)
    raw = decode(signature, 64)
    Ed25519PublicKey.from_public_bytes(pair.public_bytes).verify(raw, canonical_json({"a": "ä", "b": 1}))
    assert verify(payload, signature, pair.node_id)
    assert verify({"a": "ä", "b": 1}, signature, pair.node_id)


@pytest.mark.parametrize(
    "tampered", [{"a": 2}, {"a": 1, "b": 0}, {}, {"b": 1}, {"a": "1"}, {"a": True}, {"a": float("nan")}]
)
def test_signature_of_another_payload_is_none(pair, tampered):
    """Any change of the payload breaks the signature; a payload without an encoding never verifies."""
    assert not verify(tampered, pair.sign({"a": 1}), pair.node_id)


def test_signature_of_another_key_is_none(pair):
    """Only the key that signed verifies."""
    assert not verify({"a": 1}, KeyPair.generate().sign({"a": 1}), pair.node_id)


@pytest.mark.parametrize("signature", ["", "ed25519:", "garbage", ID, "ed25519:" + "A" * 86, "ed25519:é"])
def test_malformed_signature_is_none(pair, signature):
    """A malformed signature does not verify and raises nothing."""
    assert not verify({"a": 1}, signature, pair.node_id)


@pytest.mark.parametrize("node_id", ["", "ed25519:", "me", "ed25519:" + "A" * 44])
def test_malformed_id_verifies_nothing(pair, node_id):
    """An invalid id does not verify."""
    assert not verify({"a": 1}, pair.sign({"a": 1}), node_id)


def test_payload_without_spelling_cannot_be_signed(pair):
    """NaN has no canonical encoding."""
    with pytest.raises(ValueError, match="JSON"):
        pair.sign({"a": float("nan")})


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_key_files(tmp_path, pair, umask):
    """Raw 32 bytes each; the private one 0600, the public one 0644, the folder 0700, whatever the umask."""
    folder = tmp_path / "keys"
    before = os.umask(umask)
    try:
        pair.save(folder)
    finally:
        os.umask(before)

    private, public = folder / "device.ed25519", folder / "device.pub"
    assert (mode(private), mode(public), mode(folder)) == (0o600, 0o644, 0o700)
    assert len(private.read_bytes()) == 32
    assert public.read_bytes() == pair.public_bytes


def test_loaded_pair_is_the_saved_one(tmp_path, pair):
    """A loaded pair has the same id and the same signatures."""
    pair.save(tmp_path)
    loaded = KeyPair.load(tmp_path)

    assert loaded.node_id == pair.node_id
    assert loaded.sign({"a": 1}) == pair.sign({"a": 1})


def test_key_is_never_overwritten(tmp_path, pair):
    """A second save is refused and changes neither file."""
    pair.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("device*")}

    with pytest.raises(IdentityError, match="already exists"):
        KeyPair.generate().save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("device*")} == before


@pytest.mark.parametrize("name", ["device.ed25519", "device.pub"])
def test_refused_save_leaves_no_half_of_a_pair(tmp_path, pair, name):
    """If either file exists, nothing is written beside it."""
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / name).write_bytes(RAW)

    with pytest.raises(IdentityError, match="already exists"):
        pair.save(folder)
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [(name, RAW)]


def test_missing_key_is_refused(tmp_path):
    """The error for a missing key has its path and how to create one."""
    with pytest.raises(IdentityError, match=re.escape(str(tmp_path / "device.ed25519"))) as caught:
        KeyPair.load(tmp_path)
    assert "hearthnet init" in caught.value.hint


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_key_of_another_length_is_refused(tmp_path, length):
    """A truncated or padded key is an error with its length, and is left unchanged for repair."""
    path = tmp_path / "device.ed25519"
    path.write_bytes(bytes(length))

    with pytest.raises(IdentityError, match=f"{length} bytes") as caught:
        KeyPair.load(tmp_path)
    assert caught.value.hint
    assert path.read_bytes() == bytes(length)


def test_unreadable_key_is_refused(tmp_path):
    """An unreadable key is an error with a hint."""
    (tmp_path / "device.ed25519").mkdir()

    with pytest.raises(IdentityError, match="cannot be read") as caught:
        KeyPair.load(tmp_path)
    assert caught.value.hint.startswith("move it aside: mv ")


def test_private_key_is_not_shown(tmp_path, pair):
    """Neither the pair's text nor an error about it contains the private bytes."""
    pair.save(tmp_path)
    private = (tmp_path / "device.ed25519").read_bytes()

    assert private.hex() not in repr(pair)
    assert encode(private) not in repr(pair)

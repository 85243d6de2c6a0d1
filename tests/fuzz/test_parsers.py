"""What strangers and damaged disks hand to the parsers: whatever it is, they say what it is, and raise nothing else.

A file in `corpus/<parser>/` is something that was once hard, and is tried each time; its variations are what Hypothesis
makes of it. What fails is kept: as one more file there. A name that begins with `good` is taken, any other is refused
or read in part.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers
from support.longer import examples
from support.old_box import HEADER_BEFORE, packed_before

from hearthnet.errors import IdentityError, WireError
from hearthnet.forensics import box
from hearthnet.identity.keys import KeyPair, canonical_json
from hearthnet.identity.manifest import Manifest
from hearthnet.observability.records.ids import is_trace_id
from hearthnet.observability.traces import traceparent
from hearthnet.transport.api.routes import origin_of
from hearthnet.transport.auth import signing

CORPUS = Path(__file__).parent / "corpus"
MAX_FILE_BYTES = 12_000
CALLER = KeyPair(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
HOME = Manifest.genesis("home", CALLER, "2026-01-01T00:00:00.000Z")
SIGNED_AT_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z, when the signed requests of the corpus were made


def read_request(raw: bytes) -> bool:
    """A request that passes is one that a member signed; any other has a code of the wire. Each has a trace id."""
    head, _, content = raw.partition(b"\n\n")
    pairs = [line.partition(b": ")[::2] for line in head.split(b"\n")]
    headers = Headers(raw=[(name.lower(), value) for name, value in pairs])
    assert is_trace_id(origin_of(headers).trace_id)
    refused = None
    try:
        envelope = signing.verify_request(headers, orjson.loads(content), HOME, SIGNED_AT_S)
    except orjson.JSONDecodeError:
        return False
    except WireError as error:
        refused = error.code
    if refused is not None:
        assert refused in {"invalid_signature", "unauthorized", "expired", "revoked"}
        return False
    assert CALLER.sign(envelope.payload()) == headers[signing.SIGNATURE]
    return True


def read_ulid(raw: bytes) -> bool:
    """A request id is a ULID that has one spelling, or nothing."""
    found = signing.trace_id_of(raw.decode("latin-1"))
    if found is None:
        return False
    assert is_trace_id(found)
    assert signing.trace_id_of(found) == found
    hexadecimal = traceparent.to_w3c(found)
    assert hexadecimal == "0" * 32 or signing.trace_id_of(hexadecimal) == found
    return True


def read_traceparent(raw: bytes) -> bool:
    """A header that is read says the same when it is written again."""
    found = traceparent.parse(raw.decode("latin-1"))
    if found is None:
        return False
    again = traceparent.spell(*found[:2], is_sampled=found.is_sampled, is_random=found.is_random)
    assert traceparent.parse(again) == found
    return True


def read_canonical(raw: bytes) -> bool:
    """A value has one spelling, which is the spelling of what is read from it."""
    try:
        value = orjson.loads(raw)
        spelling = canonical_json(value)
    except ValueError:
        return False
    again = orjson.loads(spelling)
    assert again == value
    assert canonical_json(again) == spelling
    return True


def read_manifest(raw: bytes) -> bool:
    """A manifest can be written and read again; only what the root has signed is valid."""
    try:
        manifest = Manifest.parse(raw)
    except IdentityError:
        return False
    assert Manifest.parse(orjson.dumps(manifest.as_dict())) == manifest
    is_valid = manifest.is_valid()
    assert not is_valid or manifest.signed(CALLER) == manifest
    return is_valid


def read_black_box(raw: bytes) -> bool:
    """A box is read as far as it is whole; what is found in it stood there, under its checksum."""
    found = box.parse(raw)
    if found is None:
        return False
    for frame in (*found.traces, *found.logs):
        assert frame.payload in raw
        # Not its spare bytes, which the checksum covers and nobody reads.
        assert found.header.layout == 2 or packed_before(frame) in raw
        assert box.fields(frame, "traces") is None or frame.payload.strip().startswith(b"[")
    assert all(entry.span is not None or entry.span_started_ns is None for entry in found.in_flight)
    return found.damaged == 0 and len(raw) == found.header.total_bytes


PARSERS = {
    "black_box": read_black_box,
    "canonical_json": read_canonical,
    "headers": read_request,
    "manifest": read_manifest,
    "traceparent": read_traceparent,
    "ulid": read_ulid,
}
FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
CONTENTS = {name: [path.read_bytes() for path in FILES if path.parent.name == name] for name in PARSERS}
# What parsers stumble over: ends, repetitions, other spellings, things that are nearly numbers.
BAD = [
    b"", b"\0", b"\n", b"\r\n", b" ", b"\t", b'"', b"\\", b"\\ud800", b"\xff", b"\xdf", b"\xc3\x9f", b"\xe2\x84\xaa",
    b"-", b"-0", b"0.0", b"1e308", b"1e999", b"NaN", b"null", b"[]", b"{}", 70 * b"[", b"18446744073709551616",
    b"9" * 400,
    b"Z", b"\xff\xff\xff\xff", b"\x01\0\0\0", b"\x01\0\0\0\0\0\0\0", box.FRAME_MAGIC, b": ", b"=", b"ed25519:",
]  # fmt: skip


def varied(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """The content with pieces taken out and others put in, each at a share of its length."""
    for share, removed, put in changes:
        at = int(share * len(content))
        content = content[:at] + put + content[at + removed :]
    return content


def sealed(content: bytes) -> bytes:
    """A box whose header's checksum is right again: what a stranger made, not what a disk has damaged."""
    size = box.HEADER.size if content[8:9] == b"\2" else HEADER_BEFORE.size
    return content[:size] + box.CRC.pack(zlib.crc32(content[:size])) + content[size + box.CRC.size :]


def variations(name: str) -> st.SearchStrategy[bytes]:
    """What comes near to the files of a corpus, and what does not."""
    pieces = st.sampled_from(BAD) | st.binary(min_size=1, max_size=8) | st.integers(33, 126).map(lambda at: b"%c" % at)
    change = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 16), pieces)
    near = st.builds(varied, st.sampled_from(CONTENTS[name]), st.lists(change, min_size=1, max_size=4))
    if name == "black_box":
        near |= near.map(sealed)
    return near | near | near | st.binary(max_size=200)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_once_hard(path):
    """Each file of the corpora is taken if it is good, and refused if not."""
    assert PARSERS[path.parent.name](path.read_bytes()) == path.name.startswith("good")


@pytest.mark.hypothesis  # so that scripts/soak properties tries more of them
@pytest.mark.parametrize("name", PARSERS)
def test_variations(name):
    """Whatever is made of the files, the parser says what it is."""

    @settings(
        max_examples=examples(4),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(variations(name))
    def read(raw):
        PARSERS[name](raw)

    read()


def test_corpora_are_kept():
    """Each parser has a corpus of both kinds, each corpus a parser, and no file is large."""
    assert {path.parent.name for path in FILES} == set(PARSERS)
    for name in PARSERS:
        good = {path.name.startswith("good") for path in FILES if path.parent.name == name}
        assert good == {True, False}, name
    assert [path.name for path in FILES if not re.fullmatch(r"[a-z0-9_]+", path.name)] == []
    assert max(path.stat().st_size for path in FILES) <= MAX_FILE_BYTES


def test_altered_character_of_a_signed_header_is_refused():
    """A signed request with any one character of any header changed is another request, and refused."""
    raw = (CORPUS / "headers" / "good_call").read_bytes()
    head = raw.partition(b"\n\n")[0]
    refused = 0
    for line in re.finditer(rb"(?m)^[^:\n]+: (.+)$", head):
        for at in range(*line.span(1)):
            other = b"0" if raw[at : at + 1] != b"0" else b"1"
            refused += not read_request(raw[:at] + other + raw[at + 1 :])
    assert refused == sum(len(match[1]) for match in re.finditer(rb"(?m)^[^:\n]+: (.+)$", head))

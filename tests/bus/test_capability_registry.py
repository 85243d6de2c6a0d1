"""The registry: names, versions, schemas, and the choice of an entry."""

from __future__ import annotations

import pytest
from jsonschema import SchemaError

from hearthnet.bus.capability import CapabilityDescriptor, Registry, is_capability_name, parse_version
from hearthnet.errors import WireError

NAME = "experimental.thing"


async def answer(_request):
    """A handler with an empty response."""
    return {}


def offered(*versions: tuple[int, int]) -> Registry:
    """A registry with one capability in these versions."""
    registry = Registry()
    for version in versions:
        registry.add(CapabilityDescriptor(NAME, version), answer)
    return registry


@pytest.mark.parametrize(
    ("wanted", "served"),
    [
        ((1, 0), (1, 4)),
        ((1, 4), (1, 4)),
        ((2, 0), (2, 0)),
        ((1, 3), (1, 4)),
    ],
)
def test_newest_minor_of_the_same_major_serves(wanted, served):
    """An offered X.Y serves a request for A.B when X = A and Y >= B; of several the newest."""
    registry = offered((1, 0), (2, 0), (1, 4), (1, 2))

    assert registry.find(NAME, wanted).descriptor.version == served


@pytest.mark.parametrize("wanted", [(1, 5), (2, 1), (3, 0), (0, 0)])
def test_version_that_nothing_serves_is_not_found(wanted):
    """A newer minor or another major version is refused; the message lists the offered ones."""
    with pytest.raises(WireError, match=r"1\.4") as caught:
        offered((1, 0), (1, 4), (2, 0)).find(NAME, wanted)
    assert (caught.value.code, caught.value.status) == ("not_found", 404)


@pytest.mark.parametrize("name", ["experimental.other", "", "experimental.thin"])
def test_unknown_name_is_not_found(name):
    """The message does not repeat the caller's text."""
    with pytest.raises(WireError, match="no such capability") as caught:
        offered((1, 0)).find(name, (1, 0))
    assert caught.value.code == "not_found"


def test_same_version_twice_is_refused():
    """One version cannot have two handlers."""
    registry = offered((1, 0))

    with pytest.raises(ValueError, match="already offered"):
        registry.add(CapabilityDescriptor(NAME, (1, 0)), answer)
    assert len(registry) == 1


def test_entries_are_counted_and_listed():
    """Every version is an entry; a name is in the registry with any version."""
    registry = offered((1, 0), (2, 0))

    assert len(registry) == 2
    assert {entry.descriptor.version for entry in registry} == {(1, 0), (2, 0)}
    assert NAME in registry
    assert "experimental.other" not in registry


@pytest.mark.parametrize("which", ["request_schema", "response_schema", "stream_schema"])
def test_invalid_schema_is_refused(which):
    """An invalid descriptor fails when offered, not when called; the name stays free."""
    registry = Registry()

    with pytest.raises(SchemaError):
        registry.add(CapabilityDescriptor(NAME, (1, 0), **{which: {"type": "objekt"}}), answer)
    assert len(registry) == 0


def test_capability_that_was_refused_is_unknown():
    """A refused descriptor leaves no name behind."""
    registry = Registry()
    with pytest.raises(SchemaError):
        registry.add(CapabilityDescriptor(NAME, (1, 0), request_schema={"type": 5}), answer)

    assert NAME not in registry


@pytest.mark.parametrize(
    "name", ["llm.chat", "embed.text", "rag.query", "file.get", "market.list", "chat.send", "community.join"]
)
def test_reserved_prefixes_may_be_offered(name):
    """The protocol's own names, and all below `experimental.`, are valid."""
    assert CapabilityDescriptor(name, (1, 0)).name == name


@pytest.mark.parametrize(
    "name",
    ["", "llm", "LLM.chat", "llm.", ".chat", "llm..chat", "llm.Chat", "llm chat", "llm.chat\n", "llm.1", "weather.now"],
)
def test_other_names_are_refused(name):
    """Malformed names, and names outside the prefixes, are refused."""
    with pytest.raises(ValueError, match="name"):
        CapabilityDescriptor(name, (1, 0))


def test_name_is_bounded():
    """Names are limited to 64 characters."""
    longest = "experimental." + "a" * (64 - len("experimental."))

    assert is_capability_name(longest)
    assert not is_capability_name(longest + "a")


@pytest.mark.parametrize(("text", "version"), [("1.0", (1, 0)), ("0.9", (0, 9)), ("12.345", (12, 345))])
def test_version_is_read(text, version):
    """`X.Y` is parsed into two numbers."""
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "1", "1.", ".1", "1.0.0", "v1.0", "1.0\n", " 1.0", "-1.0", "1.x", "99999.0"])
def test_other_versions_are_refused(text):
    """Any other form is a bad request."""
    with pytest.raises(WireError, match=r"X\.Y") as caught:
        parse_version(text)
    assert caught.value.code == "bad_request"


def test_descriptor_has_the_defaults_of_the_protocol():
    """The defaults: experimental, for members, one call at a time, within 30 s."""
    descriptor = CapabilityDescriptor(NAME, (1, 2))

    assert (descriptor.stability, descriptor.trust_required, descriptor.max_concurrent) == ("experimental", "member", 1)
    assert (descriptor.timeout_seconds, descriptor.idempotent, descriptor.version_text) == (30, False, "1.2")

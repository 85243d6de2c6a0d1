"""A real node asked at random by its own OpenAPI document: no answer that the document does not tell of, and no 500."""

from __future__ import annotations

from collections import Counter

import pytest

from hearthnet.errors import HTTP_STATUS
from hearthnet.transport.api import openapi


@pytest.fixture(scope="module")
def document():
    """What asks: imported late, for not every process that collects these tests runs them."""
    import document as asking

    return asking


def kinds(answered, route: str) -> set[int]:
    """The statuses that routes have answered with."""
    return {int(answer.rpartition(" ")[2]) for answer in answered if route in answer}


def test_every_answer_is_in_the_document(node, document):
    """Right requests and wrong ones, signed by the node's own key, are answered as the document says."""
    # It must reach what it is for: requests that are served, and each kind of refusal that comes before.
    wanted = {200, 400, 401, 404}
    answered: Counter[str] = Counter()
    for number in range(4):
        answered += document.fuzz(node, 120, number)
        if wanted <= kinds(answered, "POST /bus/v1/call ") & kinds(answered, " /page/v1/"):
            break

    assert wanted <= kinds(answered, "POST /bus/v1/call ")
    assert wanted <= kinds(answered, " /page/v1/")
    assert 500 not in kinds(answered, " ")
    assert node.stop() == 0
    assert [line["msg"] for line in node.log_lines() if line["level"] in ("error", "critical")] == []


def test_answer_beside_the_document_is_found(shared_node, document):
    """A document that lacks the refusals does not pass."""
    from schemathesis.core.failures import FailureGroup

    lacking = without_refusals(document.read_document(shared_node.url))
    with pytest.raises(FailureGroup, match=r"Undocumented status code"):
        document.fuzz(shared_node, count=60, document=lacking)


def without_refusals(found: dict) -> dict:
    """A document, as if nothing were ever refused."""
    for operations in found["paths"].values():
        for operation in operations.values():
            operation["responses"] = {"200": operation["responses"]["200"]}
    return found


def test_every_status_of_the_wire_is_in_the_document(shared_node, document):
    """A call tells of every status that a code has, each with the wire's error, and of no 422."""
    found = document.read_document(shared_node.url)

    responses = found["paths"]["/bus/v1/call"]["post"]["responses"]
    assert set(responses) == {"200", *(str(status) for status in openapi.STATUSES)}
    assert set(HTTP_STATUS.values()) <= set(openapi.STATUSES)
    for operations in found["paths"].values():
        for operation in operations.values():
            assert "422" not in operation["responses"]
            assert all("X-HearthNet-From" in answer["headers"] for answer in operation["responses"].values())
    assert set(found["components"]["schemas"]["ErrorOut"]["properties"]["error"]["enum"]) == set(HTTP_STATUS)

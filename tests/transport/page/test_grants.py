"""Tokens, secrets and sharing: what is granted, how long, and to whom it is not."""

from __future__ import annotations

import stat
import threading

import pytest

from hearthnet.transport.page import grants as module
from hearthnet.transport.page.grants import GRANTS_FILE, MAX_SHARE_S, SECRET_S, TOKEN_S, Grants


@pytest.fixture
def clock(monkeypatch):
    """The clock of the grants, in seconds: set by the test."""
    now = {"s": 1_000_000.0}
    monkeypatch.setattr(module, "_now_us", lambda: int(now["s"] * 1_000_000))
    return now


@pytest.fixture(params=["file", "memory"])
def grants(request, tmp_path):
    """Grants that are kept in a file, or in memory."""
    return Grants(tmp_path / "data" if request.param == "file" else None)


def test_token_gives_a_secret_once(grants):
    """The second claim of the same token gets nothing; the secret goes on."""
    token = grants.offer()
    secret = grants.claim(token).secret

    assert grants.claim(token) is None
    assert grants.has(grants.holder(secret))
    assert len(token) == len(secret) == 43  # 256 bits


@pytest.mark.parametrize("wrong", ["", "x", 43 * "A", "\udcff", 10_000 * "x"])
def test_wrong_texts_get_nothing(grants, wrong):
    """Neither as a token nor as a secret, whatever they are."""
    grants.claim(grants.offer())
    grants.offer()

    assert (grants.claim(wrong), grants.holder(wrong)) == (None, None)


def test_token_is_no_secret_and_secret_no_token(grants):
    """Each is good for its own purpose alone."""
    token = grants.offer()
    secret = grants.claim(token).secret

    assert (grants.holder(token), grants.claim(secret), grants.holder(grants.offer())) == (None, None, None)


def test_both_end_by_time(grants, clock):
    """A token after ten minutes, a secret after thirty days, to the microsecond."""
    late, in_time = grants.offer(), grants.offer()
    clock["s"] += TOKEN_S - 0.001
    granted = grants.claim(in_time)
    clock["s"] += 0.001

    assert grants.claim(late) is None
    clock["s"] += SECRET_S - 0.002
    holder = grants.holder(granted.secret)
    assert grants.has(holder)
    clock["s"] += 0.001
    assert (grants.holder(granted.secret), grants.has(holder)) == (None, False)


def test_sharing_ends_by_time(grants, clock):
    """It is bounded by a day, and by what was asked for."""
    assert grants.shared_until_us() is None
    assert grants.share(60) == grants.shared_until_us() == 1_000_060_000_000
    clock["s"] += 60
    assert grants.shared_until_us() is None
    grants.share(10 * MAX_SHARE_S)
    clock["s"] += MAX_SHARE_S
    assert grants.shared_until_us() is None


def test_revoking_ends_all(grants):
    """Tokens, secrets and sharing; it says how many browsers had access."""
    secret, other, token = grants.claim(grants.offer()).secret, grants.claim(grants.offer()).secret, grants.offer()
    holder = grants.holder(secret)
    grants.share(60)

    assert grants.revoke() == 2
    assert (grants.has(holder), grants.holder(other), grants.claim(token)) == (False, None, None)
    assert grants.shared_until_us() is None
    assert grants.revoke() == 0


def test_file_is_private_and_has_no_token(tmp_path):
    """Mode 0600, hashes alone: the file does not help to get in."""
    grants = Grants(tmp_path)
    token = grants.offer()
    secret = grants.claim(token).secret
    path = tmp_path / GRANTS_FILE

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token not in path.read_text()
    assert secret not in path.read_text()


def test_processes_see_each_others_changes(tmp_path):
    """A command offers, the node's grants claim, a restarted node knows the secret, a command revokes."""
    command, node = Grants(tmp_path), Grants(tmp_path)
    secret = node.claim(command.offer()).secret
    restarted = Grants(tmp_path)

    assert restarted.holder(secret) is not None
    assert restarted.holder(secret) == node.holder(secret)
    command.revoke()
    assert (node.holder(secret), restarted.holder(secret)) == (None, None)


def test_removed_file_grants_nothing(tmp_path):
    """Also not to those whose secret was read before."""
    grants = Grants(tmp_path)
    secret = grants.claim(grants.offer()).secret
    (tmp_path / GRANTS_FILE).unlink()

    assert grants.holder(secret) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"tokens": 1, "secrets": {}, "shared_until_us": 0}',
        b'{"tokens": {"a": "b"}}',
        b"\xff",
    ],
)
def test_damaged_file_grants_nothing_and_is_replaced(tmp_path, content):
    """The next link works again."""
    (tmp_path / GRANTS_FILE).write_bytes(content)
    grants = Grants(tmp_path)

    assert (grants.holder("x"), grants.shared_until_us()) == (None, None)
    assert grants.claim(grants.offer()) is not None


def test_token_is_claimed_once_by_many_at_once(tmp_path):
    """Of twenty browsers that claim at the same moment one gets a secret."""
    token = Grants(tmp_path).offer()
    found, barrier = [], threading.Barrier(20)

    def claim():
        own = Grants(tmp_path)
        barrier.wait()
        found.append(own.claim(token))

    threads = [threading.Thread(target=claim) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len([granted for granted in found if granted is not None]) == 1


def test_numbers_are_bounded(tmp_path):
    """A script that makes links for ever keeps the newest; a browser's secret outlives them."""
    grants = Grants(tmp_path)
    secret = grants.claim(grants.offer()).secret
    tokens = [grants.offer() for _ in range(40)]

    assert grants.holder(secret) is not None
    assert grants.claim(tokens[0]) is None
    assert grants.claim(tokens[-1]) is not None
    assert (tmp_path / GRANTS_FILE).stat().st_size < 10_000


def test_file_that_cannot_be_read_for_a_moment_is_read_again(tmp_path, monkeypatch):
    """Too many open files, say: nothing is granted meanwhile, and all of it afterwards."""
    grants = Grants(tmp_path)
    secret = Grants(tmp_path).claim(Grants(tmp_path).offer()).secret
    with monkeypatch.context() as patched:
        patched.setattr("hearthnet.transport.page.grants.open_file", _refuse)
        assert grants.holder(secret) is None

    assert grants.holder(secret) is not None


def _refuse(_):
    raise OSError(24, "Too many open files")


def test_page_in_memory_keeps_what_was_granted_while_another_browser_claims():
    """Whoever looks meanwhile sees the state before or after, never half of it."""
    grants = Grants(None)
    first = grants.claim(grants.offer())
    seen = grants._seen[1]
    second = grants.claim(grants.offer())

    assert list(seen.secrets) == [grants.holder(first.secret)]
    assert grants.holder(second.secret) is not None

"""What an attack is measured by: a member that calls all the while, what the node has grown, and what it has logged."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import httpx
import overload

MAX_WAIT_S = 2.0
MAX_GROWTH_BYTES = 10_000_000
MAX_LOG_BYTES = 1_000_000


class Member(threading.Thread):
    """Calls the node again and again, on a new connection each time; keeps how long the worst call took."""

    def __init__(self, node) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.is_over = threading.Event()
        self.worst_s = 0.0
        self.served = 0
        self.failed: list[str] = []

    def run(self) -> None:
        """Calls until it is over."""
        with httpx.Client(verify=False, limits=httpx.Limits(max_keepalive_connections=0)) as client:
            while not self.is_over.wait(0.05):
                self._call(client)

    def _call(self, client) -> None:
        began = time.monotonic()
        try:
            answer = self.node.echo(client=client)
            if answer.status_code == 200:
                self.served += 1
            else:
                self.failed.append(answer.text)
        except httpx.HTTPError as error:
            self.failed.append(repr(error))
        self.worst_s = max(self.worst_s, time.monotonic() - began)


@contextmanager
def siege(node, max_growth_bytes=MAX_GROWTH_BYTES):
    """What happens within is an attack: a member is served all the while, and the node hardly notices."""
    rss, logged = overload.rss_bytes(node.process.pid), log_bytes(node)
    member = Member(node)
    member.start()
    try:
        yield member
        served = member.served
        node.wait_a_while_for(lambda: member.served >= served + 5 or member.failed, "the member is not served")
    finally:
        member.is_over.set()
        member.join()
    assert member.failed == []
    assert member.worst_s < MAX_WAIT_S
    assert overload.rss_bytes(node.process.pid) - rss < max_growth_bytes
    assert log_bytes(node) - logged < MAX_LOG_BYTES
    assert node.process.poll() is None


def log_bytes(node) -> int:
    """What has been logged, and printed."""
    return sum(path.stat().st_size for path in [*node.log_dir.glob("*"), node.home / "run.out"])

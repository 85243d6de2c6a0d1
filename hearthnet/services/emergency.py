"""Emergency mode: detects a loss of internet access by probing `emergency.probe_targets`.

Off unless `emergency.enabled`. A round connects by TCP to one target after the other, sending nothing, until one
accepts. It runs in its own thread: an unresponsive name server blocks for many seconds, and would block the event
loop's executor and so the program's exit.
"""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from hearthnet.config import EmergencyConfig
from hearthnet.observability import get_logger, metrics

__all__ = ["EMERGENCY", "NORMAL", "OFF", "EmergencyProbe"]

log = get_logger(__name__)

OFF: Final = "off"  # not probing
NORMAL: Final = "normal"
EMERGENCY: Final = "emergency"  # no target responded in two successive rounds
_STATES: Final = (OFF, NORMAL, EMERGENCY)
_ROUNDS: Final = 2  # a single failed round is no outage: a router restarts, a packet is dropped
_EVERY_S: Final = 30.0
_TIMEOUT_S: Final = 3.0
_PORT: Final = 443  # for targets without a port; all default targets listen there
_STOP_TIMEOUT_S: Final = 0.5


class EmergencyProbe:
    """A context manager that probes while it is open.

    Args:
        config: with no target there is nothing to probe, and the state is `off`.
        every_s: seconds between two rounds.
        timeout_s: the longest wait for one target.

    Attributes:
        state: `off`, `normal` or `emergency`; `normal` until two rounds have failed.
    """

    def __init__(self, config: EmergencyConfig, *, every_s: float = _EVERY_S, timeout_s: float = _TIMEOUT_S) -> None:
        self._targets = config.probe_targets if config.enabled else ()
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._failed_rounds = 0
        self._stopping = threading.Event()
        # A daemon: a hanging name server must not block the program's exit.
        self._thread = threading.Thread(target=self._run, name="hearthnet-emergency", daemon=True)
        self.state = NORMAL if self._targets else OFF

    def __enter__(self) -> Self:
        if self._targets:
            self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._targets:
            self._thread.join(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.check()
            self._stopping.wait(self._every_s)

    def check(self) -> None:
        """Runs one round and updates the state."""
        self._failed_rounds = 0 if any(map(self._is_reachable, self._targets)) else self._failed_rounds + 1
        state = EMERGENCY if self._failed_rounds >= _ROUNDS else NORMAL
        if state == self.state or (state == NORMAL and self._failed_rounds):
            return
        self.state = state
        if state == EMERGENCY:
            log.warning("emergency mode entered", extra={"targets": len(self._targets)})
        else:
            log.info("emergency mode left")

    def _is_reachable(self, target: str) -> bool:
        try:
            url = urlsplit(f"//{target}")
            address = (url.hostname or "", url.port or _PORT)
            socket.create_connection(address, self._timeout_s).close()
        except (OSError, ValueError):  # ValueError: not a valid name
            return False
        return True

    def refresh_metrics(self) -> None:
        """Sets the gauge of each state for a scrape."""
        now = self.state
        for state in _STATES:
            metrics.emergency_mode.labels(state).set(state == now)

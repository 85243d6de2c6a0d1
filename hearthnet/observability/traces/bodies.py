"""Recording of the bodies of calls: off, except for single capabilities for a limited time.

Prompts, messages and responses are private, so the node records none of them. To find out why a capability responds
wrongly, an operator may switch recording on for it, for an hour at most. The switch is in memory only and has no
setting: a restart or the end of the time switches it off, so it cannot be left on by mistake.

Bodies are bounded and scrubbed like every other text; a secret that a stream splits over frames is not recognised.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from hearthnet.constants import MAX_STRING_BYTES
from hearthnet.observability.logging import get_logger
from hearthnet.observability.records.record import encode, safe_text
from hearthnet.observability.redaction.rules import scrub

__all__ = ["MAX_FOR_S", "Bodies", "KeptBodies"]

log = get_logger(__name__)

MAX_FOR_S: Final = 3_600.0
_MAX_CAPABILITIES: Final = 16  # at once
_SCRUBBED_CHARS: Final = 8 * MAX_STRING_BYTES  # far more than is kept, so that no half of a secret remains


class Bodies:
    """The capabilities whose bodies are recorded.

    Args:
        clock: monotonic seconds; tests pass their own.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def allow(self, capability: str, for_s: float) -> None:
        """Records the bodies of a capability's calls that begin within `for_s` seconds from now.

        Raises:
            ValueError: raised for no time, more than an hour, or too many capabilities at once.
        """
        if not 0 < for_s <= MAX_FOR_S:
            raise ValueError(f"bodies are recorded for {MAX_FOR_S:g} seconds at most")
        if capability not in self._until and len(self.current()) >= _MAX_CAPABILITIES:
            raise ValueError(f"the bodies of {_MAX_CAPABILITIES} capabilities are recorded already")
        self._until[capability] = self._clock() + for_s
        log.warning("bodies are recorded", extra={"capability": capability, "for_s": for_s})

    def refuse(self, capability: str | None = None) -> None:
        """Ends the recording of one capability's bodies, or of all."""
        for name in [capability] if capability is not None else list(self._until):
            if self._until.pop(name, None) is not None:
                log.info("bodies are no longer recorded", extra={"capability": name})

    def is_allowed(self, capability: str) -> bool:
        """Returns whether this capability's bodies are recorded."""
        until = self._until.get(capability)
        if until is None:
            return False
        if self._clock() < until:
            return True
        self.refuse(capability)
        return False

    def current(self) -> dict[str, float]:
        """Returns the capabilities whose bodies are recorded, with the seconds left."""
        allowed = {name: until for name, until in list(self._until.items()) if self.is_allowed(name)}
        now = self._clock()
        return {name: max(0.0, until - now) for name, until in allowed.items()}

    def keep(self, capability: str, extras: dict[str, Any], body: dict[str, Any]) -> KeptBodies | None:
        """Puts a request's body into the extras of its trace or span; returns what records the response, or None."""
        if not self.is_allowed(capability):
            return None
        return KeptBodies(extras, body)


class KeptBodies:
    """The bodies of one call: `request_body` and `answer_body`, JSON cut to what a text may have."""

    def __init__(self, extras: dict[str, Any], body: dict[str, Any]) -> None:
        self._extras = extras
        self._frames = ""
        extras["request_body"] = safe_text(_as_json(body))

    def take(self, answer: dict[str, Any]) -> None:
        """Records the response."""
        self._extras["answer_body"] = safe_text(_as_json(answer))

    def checking(self, check: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        """Returns a check of a stream's frames that records each before checking: the wrong one matters most."""

        def take_and_check(frame: dict[str, Any]) -> None:
            if len(self._frames) <= MAX_STRING_BYTES:
                self._frames += _as_json(frame) + "\n"
                self._extras["answer_body"] = safe_text(self._frames)
            check(frame)

        return take_and_check


def _as_json(value: object) -> str:
    """Returns a body as JSON without secrets. Never raises."""
    text = encode(value if isinstance(value, dict) else {"value": value}).decode()
    return scrub(text[:_SCRUBBED_CHARS])

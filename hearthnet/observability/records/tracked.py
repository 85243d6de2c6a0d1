"""Objects that a forked child must renew: they hold a lock, a descriptor or a mapping that is its parent's.

`runtime` calls them in its fork hook. They are kept here, below it, because what the runtime holds is tracked too.
"""

from __future__ import annotations

from weakref import WeakSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Protocol

__all__ = ["tracked"]


if TYPE_CHECKING:

    class Renewable(Protocol):
        """Holds something that two processes cannot share."""

        def renew_in_child(self) -> None:
            """Replaces it. Called in a forked child, which has one thread."""


tracked: Final[WeakSet[Renewable]] = WeakSet()

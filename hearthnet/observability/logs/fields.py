"""Fields of a context: on each record that is made inside, and on each trace that begins inside.

    with fields(job="nightly"):
        log.info("started")             has job

They follow the context, as traces do: tasks and `asyncio.to_thread` have them, and threads and pools that get their
work by `traces.propagation`. The nearest to the record counts: the call's own fields, then those of a bound logger,
then the inner block's, then the outer block's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType

from hearthnet.observability.logs.context_fields import Fields, context_fields, copied, current_fields, swap_fields
from hearthnet.observability.records.results import OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ParamSpec, Self, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

__all__ = ["fields"]


class fields:  # noqa: N801  # used like a function
    """Adds fields to the records and traces of a block, `with` or `async with`, or of each call of a function.

    One object may serve any number of blocks, nested or at once.

        with fields(job="nightly", attempt=2): …            @fields(job="nightly")
                                                            def work(): …
    """

    __slots__ = ("_values",)

    def __init__(self, /, **values: object) -> None:
        self._values = copied(values)

    def __enter__(self) -> Self:
        outer = current_fields()
        values = self._values if outer is None else {**outer.values, **self._values}
        swap_fields(Fields(values, outer, self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # By what opened it, not by a token: the block may be left in another context, in another order, or twice.
        found = context_fields.get()
        while found is not None and (found.owner is not self or found.is_over):
            found = found.outer
        if found is not None:
            found.is_over = True
            swap_fields(found.outer)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Returns `function`, of any kind, with these fields in each of its calls; see `traces.decorator`."""
        from hearthnet.observability.traces.decorator import decorate  # late: it imports `inspect`

        decorated: Callable[P, R] = decorate(partial(_Call, self), function)
        return decorated


class _Call:
    """The block of one call, in the place of the span that the decorator opens."""

    __slots__ = ("_block", "status")

    span_id = "a block"  # it counts, also outside any trace

    def __init__(self, block: fields) -> None:
        self._block = block
        self.status = OK

    def __enter__(self) -> Self:
        self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._block.__exit__(kind, error, traceback)

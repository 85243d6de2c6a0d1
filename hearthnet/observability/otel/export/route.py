"""The way of a signal: from rows of the store to the body of a request, and to its sender."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from hearthnet.errors import HearthNetError, missing_extra
from hearthnet.observability.otel.export import mapping, otlp_json
from hearthnet.observability.otel.export.delivery import MAX_BYTES
from hearthnet.observability.otel.pace import Pace
from hearthnet.observability.process.program import program_name
from hearthnet.observability.store.query import unsent
from hearthnet.observability.store.reader import Reader

if TYPE_CHECKING:
    from hearthnet.observability.otel.export.sender import Sender
    from hearthnet.observability.otel.export.settings import LogsOrTraces, Settings

__all__ = ["Route", "Serial", "adds_of", "routes"]

_ROWS_A_STATEMENT: Final = 8  # a twentieth of a millisecond of work
_ROW_BYTES: Final = 300  # ids and numbers of a record, besides its texts


class Serial:
    """How the records of one signal become requests.

    Args:
        signal: `traces` or `logs`.
        adds: further attributes of each resource.
        reader: of the store.
        is_json: whether requests are JSON, not protobuf.
        rest: called after each record, and after few rows.
    """

    def __init__(
        self,
        signal: LogsOrTraces,
        adds: mapping.Sender,
        reader: Reader,
        *,
        is_json: bool,
        rest: Callable[[], object] = lambda: None,
    ) -> None:
        self.signal = signal
        self.is_json = is_json
        self._adds = adds
        self._reader = reader
        self._rest = rest

    def encode(self, records: Sequence[Any], unmapped: list[int]) -> bytes | None:
        """Returns the body of a request, None if none of these has a form; appends the seq of each that has none.

        That of no records is an empty request.

        Raises:
            StoreError: raised when the store cannot be read.
        """
        origins = unsent.origins(self._reader, {record.run_id for record in records})
        given = (self.signal, self._paced(records), origins, self._adds, unmapped)
        if self.is_json:
            body = otlp_json.encode(*given)
        else:
            from hearthnet.observability.otel.export.protobuf import encode  # late: of hearthnet[otlp]

            body = encode(*given)
        self._rest()
        return None if records and len(unmapped) == len(records) else body

    def _paced(self, records: Sequence[Any]) -> Iterator[Any]:
        for record in records:
            yield record
            self._rest()

    def let_go(self, records: list[Any]) -> None:
        """Empties a list, as it was filled: to free half a thousand records at once takes several pieces of work."""
        while records:
            del records[-_ROWS_A_STATEMENT:]
            self._rest()

    def read(self, after: int, last: int, limit: int, wanted: unsent.Selected = unsent.ALL) -> list[Any]:
        """Returns the next records, at most about as many as a request takes.

        Raises:
            StoreError: raised when the store cannot be read.
        """
        read = unsent.traces_after if self.signal == "traces" else unsent.logs_after
        records: list[Any] = []
        size = 0
        while (most := min(limit - len(records), _ROWS_A_STATEMENT)) and (
            some := read(self._reader, after, last, most, wanted)
        ):
            for record in some:
                size += _ROW_BYTES + sum([len(part) for part in record if isinstance(part, str | bytes)])
                if size > MAX_BYTES and records:
                    return records
                records.append(record)
            after = records[-1].seq
            self._rest()
        return records


class Route(Serial):
    """The same with the sender of the requests, and their pace."""

    def __init__(self, sender: Sender, adds: mapping.Sender, reader: Reader, pace: Pace) -> None:
        super().__init__(sender.signal, adds, reader, is_json=sender.target.is_json, rest=pace.rest)
        self.sender = sender
        self.pace = pace


def adds_of(settings: Settings | None) -> mapping.Sender:
    """Returns what this machine and the settings add to each resource."""
    if settings is None:
        return mapping.Sender(socket.gethostname(), program_name())
    return mapping.Sender(
        socket.gethostname(), program_name(), settings.service_name, settings.resource, settings.has_exception_events
    )


def routes(settings: Settings, reader: Reader, is_urgent: Callable[[], bool] = lambda: True) -> list[Route]:
    """Returns the route of each signal, which makes no pause while there is no time for it.

    Raises:
        MissingExtraError: raised when a package of `hearthnet[otlp]` is not installed.
        HearthNetError: raised when a certificate cannot be used.
    """
    try:
        from hearthnet.observability.otel.export.sender import Sender

        if not all(target.is_json for target in settings.targets.values()):
            import hearthnet.observability.otel.export.protobuf  # noqa: F401  # now, for its error
    except ModuleNotFoundError as error:
        raise missing_extra(error, "otlp") or error from error
    adds = adds_of(settings)
    try:
        paces = {signal: Pace(is_urgent) for signal in settings.targets}
        return [
            Route(Sender(signal, target, paces[signal].rest), adds, reader, paces[signal])
            for signal, target in settings.targets.items()
        ]
    except OSError as error:
        raise HearthNetError(f"a certificate of the export cannot be used: {error}") from error

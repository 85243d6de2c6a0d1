"""A node of which one capability is careless: it tells the planted secrets in every way that a program has.

Run as a program it is the node. `planted_cases` are the secrets, for the node and for who looks for them afterwards.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import threading
import traceback
import warnings
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.planted import PLANTED, Planted

from hearthnet.bus.capability import CapabilityDescriptor
from hearthnet.config import load, resolve_paths
from hearthnet.errors import WireError
from hearthnet.node import open_node
from hearthnet.observability import get_logger, trace
from hearthnet.observability.logging import RateLimitedLogger
from hearthnet.transport.server import bind

NAME = "experimental.leaky"
MARKER = "ordinary-marker-4815"  # harmless, and told in the same ways: it must be found again
# Too short to be told from the bytes of a number or an id: they become these.
_LONGER = {
    "abcd": "zq7-abcd-zq7",
    "efgh": "zq7-efgh-zq7",
    "48213377": "4821337790441526",
    "90871234": "9087123455667788",
}

log = get_logger("hearthnet.leaky")


def planted_cases() -> list[Planted]:
    """Every planted secret, long enough to be looked for in any bytes, and the marker as the last."""
    return [*map(_lengthened, PLANTED), Planted("marker", MARKER, f"it was {MARKER} here")]


def _lengthened(case: Planted) -> Planted:
    short, long = case.secret, _LONGER.get(case.secret, case.secret)
    fields = {"pin": int(long)} if case.fields == {"pin": 90871234} else case.fields
    if "value" in fields:  # a text in a list in a dictionary
        fields = {"value": {"deep": [item.replace(short, long) for item in fields["value"]["deep"]]}}
    text = case.text
    if short != long or "token=abcd" in text:
        for before, after in _LONGER.items():
            text = text.replace(before, after)
    return case._replace(secret=long, text=text, fields=fields)


class Careless:
    """An object that shows what it holds."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<Careless {self.text}>"

    def __del__(self) -> None:
        if self.text:
            raise ValueError(self.text)


class FailingError(Exception):
    """An error of a careless program, with a cause and a note."""


def failing(text: str) -> Exception:
    """An error that has the text in its message, in its cause's, in what came before, and in a note."""
    try:
        try:
            try:
                raise KeyError(text)
            except KeyError as first:
                raise OSError(5, text, text) from first
        except OSError as second:
            error = FailingError(f"could not: {text}", second)
            error.add_note(f"note: {text}")
            raise error from second
    except FailingError as error:
        return error


def tell(case: Planted) -> None:
    """Tells a text, and fields, in every way that a log, a span or a trace has."""
    text, fields = case.text or MARKER, case.fields or {"value": case.text}
    _log_texts(text)
    _log_fields(text, fields)
    _log_errors(text)
    with trace.span(text, value=text, fields=fields, headers=_headers(text)) as made, suppress(FailingError):
        made.extras[text] = text
        raise failing(text)
    with trace.new_trace(text) as inner:
        inner.extras.update(fields=fields, note=text, **{text: MARKER})
        inner.fail("internal_error", text)


def _headers(text: str) -> list:
    return [(b"host", b"h"), (b"cookie", text.encode()), ("Authorization", text), ["x-api-key", text]]


def _log_texts(text: str) -> None:
    log.debug(text)
    log.info("told %s", text)
    log.warning("told %r", text)
    log.error("told", text)  # noqa: PLE1205  # an argument too many is the mistake
    log.info(Careless(""), extra={"more": text})
    log.info("stack", stack_info=True, extra={"more": text})
    RateLimitedLogger(log).warning(f"limited {text}", extra={"more": text})
    get_logger(f"hearthnet.leaky.{text}").warning("by a logger of that name")
    for name in ("httpx", "uvicorn.error", "some.library"):
        library = logging.getLogger(name)
        library.warning('HTTP Request: %s %s "%s %d"', "GET", text, text, 200)
        library.warning("by name %(what)s", {"what": text})
        library.error("of a library", extra={"detail": text, "headers": _headers(text)})


def _log_fields(text: str, fields: dict) -> None:
    log.info("planted", extra=fields)
    log.info("planted text", extra={"more": text})
    log.info("planted deep", extra={"more": {"fields": fields, "list": [{"text": text}], "tuple": (1, (text,))}})
    log.info("planted bytes", extra={"raw": text.encode(), "array": bytearray(text.encode()), "set": {text}})
    log.info("planted headers", extra={"headers": _headers(text), "scope": {"headers": tuple(_headers(text))}})
    log.info("planted keys", extra={text: 1, "deep": {text: 1, text.encode(): 2}})
    log.info("planted objects", extra={"space": SimpleNamespace(text=text), "error": ValueError(text)})
    log.info("planted long", extra={"long": "x " * 1_020 + text, "longer": text + " y" * 5_000})


def _log_errors(text: str) -> None:
    error = failing(text)
    try:
        raise error
    except FailingError:
        log.exception("planted error", extra={"why": text})
    log.error("planted group", exc_info=ExceptionGroup(text, [ValueError(text), error]))
    log.error("planted trace", extra={"formatted": traceback.format_exception(error)})


def tell_outside(number: int, case: Planted) -> None:
    """Tells a text where nobody catches it: warnings, a thread, a callback, a task, an object that goes."""
    text = case.text or MARKER
    warnings.warn_explicit(text, UserWarning, f"place_{number}.py", number + 1)
    thread = threading.Thread(target=_raise, args=(text,), name=text)
    thread.start()
    thread.join()
    loop = asyncio.get_running_loop()
    loop.call_soon(_raise, text)
    loop.create_task(_raise_later(text), name=text)  # noqa: RUF006  # nobody holds it: that is the mistake
    careless = Careless(text)
    del careless


def _raise(text: str) -> None:
    raise failing(text)


async def _raise_later(text: str) -> None:
    await asyncio.sleep(0)
    _raise(text)


async def leaky(request):
    """Tells a case; then answers, refuses, fails, waits, or streams and does one of these."""
    wanted = request.body["input"]
    number, how = wanted["case"], wanted["how"]
    case = planted_cases()[number]
    text = case.text or MARKER
    if how == "tell":
        tell(case)
        tell_outside(number, case)
        if number % 10 == 0:
            gc.collect()  # errors and their frames go in circles
    elif request.stream:
        return _frames(text, how)
    elif how == "wait":
        with trace.span(text, value=text):
            await asyncio.sleep(60)
    else:
        _end(text, how)
    return {"told": MARKER}


async def _frames(text, how):
    yield {"told": MARKER}
    _end(text, how)


def _end(text: str, how: str) -> None:
    if how == "refuse":
        raise WireError("bad_request", f"cannot use it: {text}")
    if how == "fail":
        raise failing(text)


async def main() -> None:
    """Runs the node until SIGTERM, with debug on."""
    config = resolve_paths(load())
    with closing(bind(config.transport)) as listening:
        async with open_node(config) as node:
            node.bus.register(CapabilityDescriptor(NAME, (1, 0), max_concurrent=16), leaky)
            stop = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            print(MARKER, flush=True)
            await node.serve(listening, stop)


if __name__ == "__main__":
    asyncio.run(main())

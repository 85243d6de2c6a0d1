"""Tracebacks within the bounds of a line and of a row.

Whatever is long (a message, a note, a recursion, a chain of causes), these are kept: types of the errors, the frames
nearest to the fault, and the root cause. Cuts are marked. A traceback is a text of sections, one for each
error of a chain or group; each has frames, then the error. Sections share the space, and within one the error has at
most half of it where frames need the rest. What fits is shown as the interpreter shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dis import opmap
from traceback import StackSummary, TracebackException, walk_tb
from types import CodeType, FrameType, TracebackType

from hearthnet.constants import MAX_JSON_LINE_BYTES
from hearthnet.observability.records.record import encode_value, one_line, safe_text
from hearthnet.observability.redaction.expressions import Expression
from hearthnet.observability.redaction.rules import scrub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Protocol

__all__ = ["Error", "ExcInfo", "Texts", "error_text", "passed_by", "recorders", "shorten", "texts_of"]

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
Texts = tuple[str, str]  # for the line, and for the row

EXC_LINE_BYTES: Final = MAX_JSON_LINE_BYTES // 4
EXC_ROW_BYTES: Final = 1_024
_MAX_FRAMES: Final = 64  # of one error; more do not fit into a line
_MAX_ERRORS: Final = 16  # of a chain; formatting thousands would take the caller's time
_LEAST_BYTES: Final = 256  # of a section: an error and the frame nearest to it
_SCRUBBED_BYTES: Final = (
    16 * EXC_LINE_BYTES
)  # cut to so much before secrets are searched; the edges are cut off after it

_CUT: Final = "…[cut]…"
_FRAMES_CUT: Final = "  [frames cut]\n"
_TRACEBACK: Final = "Traceback (most recent call last):\n"
_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"
# Between two errors of a chain, or before the next one of a group, and before a requested stack.
_BETWEEN: Final = Expression(
    r"\n(?=\n(?:The above exception was the direct|During handling of the above exception|Stack \(most recent))"
    r"|\n(?=[ |]*\+[-+]*-{9,} )"
)
_LINES: Final = Expression(r"[^\n]*\n|[^\n]+")
_MEMBER: Final = Expression(r"[ |]*\+[-+]*-{9,} ")
_FRAME: Final = Expression(r'(?: *\| )?(?:(?P<first>  File ")|    |  \[Previous )')


class Error:
    """What a record says of an error.

    Attributes:
        exc_info: the exception.
        text: the traceback as others have formatted or rewritten it; it counts, as for any handler.
        stack: the requested stack.
        shown: the traceback as `error_text` returned it, if it is known.
        is_recorded: whether the traceback was recorded before; it is not a second time.
    """

    __slots__ = ("exc_info", "is_recorded", "shown", "stack", "text")

    def __init__(
        self, exc_info: ExcInfo | None, text: str | None = None, stack: str | None = None, shown: str | None = None
    ) -> None:
        self.exc_info = exc_info
        self.text = text
        self.stack = stack
        self.shown = shown
        self.is_recorded = False

    def recorded(self) -> Error:
        """Returns the same, as recorded before."""
        again = Error(self.exc_info, self.text, self.stack, self.shown)
        again.is_recorded = True
        return again


if TYPE_CHECKING:

    class Recorder(Protocol):
        """What logs each exception that passes it, such as a request."""

        def note_logged(self) -> None:
            """Notes that the exception was taken with its traceback."""

        def trace_to_tell(self, trace_id: str | None) -> str | None:
            """Returns the id of the trace that has the traceback already, for a record made in a trace (None: in none).

            None: it has not, or the record is about something else.
            """


# Code that logs each exception that passes it, with a function that finds what does so in a frame of it.
recorders: Final[dict[CodeType, Callable[[FrameType], Recorder | None]]] = {}
_RAISE: Final = opmap["RAISE_VARARGS"]


def passed_by(exc_info: ExcInfo) -> Recorder | None:
    """Returns what an exception has passed that logs it, on its way from where it was last raised; None: nothing.

    Its traceback tells it: nothing need be kept of an exception that may never be seen again.
    """
    at, outer = exc_info[2], 0
    while at is not None and outer < _MAX_FRAMES:
        find = recorders.get(at.tb_frame.f_code)
        if find is not None and (found := find(at.tb_frame)) is not None:
            return None if _is_raised_anew(exc_info[2], outer) else found
        at, outer = at.tb_next, outer + 1
    return None


def _is_raised_anew(at: TracebackType | None, count: int) -> bool:
    """Returns whether one of the first frames has raised an exception that was kept: the others are of another time.

    A frame that raises what it has caught is there twice.
    """
    for _ in range(count):
        if at is None or at.tb_next is None:
            break
        frame = at.tb_frame
        if frame.f_code.co_code[at.tb_lasti] == _RAISE and at.tb_next.tb_frame is not frame:
            return True
        at = at.tb_next
    return False


def texts_of(error: Error) -> Texts | None:
    """Returns traceback and stack for the line and for the row, redacted; None if there is neither."""
    text = None if error.is_recorded else error.text
    if text is None and error.exc_info is not None and not error.is_recorded:
        text = error.shown or error_text(error.exc_info)
    whole = "\n\n".join(part for part in (text, error.stack) if part)
    if not whole:
        return None
    if not whole.isascii():
        whole = whole.encode("utf-8", "backslashreplace").decode()
    clean = scrub(shorten(whole, _SCRUBBED_BYTES))
    return _encodable(clean), shorten(clean, EXC_ROW_BYTES)


def _encodable(text: str) -> str:
    """Returns a traceback that fits a line as JSON, where a quote is two bytes and a control character six."""
    room = EXC_LINE_BYTES
    short = shorten(text, room)
    while (size := len(one_line(encode_value(short)))) > EXC_LINE_BYTES:
        room = room * EXC_LINE_BYTES // size - 16
        short = shorten(text, room)
    return short


def error_text(exc_info: ExcInfo) -> str:
    """Returns the traceback as the interpreter shows it; of a long chain the newest errors and the oldest ones."""
    kind, error, found = exc_info
    if kind is None or error is None:
        return ""
    try:
        chain = _chain(error)
        if len(chain) > _MAX_ERRORS:
            return "".join(_both_ends(chain)).rstrip("\n")
        # Source lines are looked up for those frames alone that are shown.
        shown = TracebackException(kind, error, found, limit=-_MAX_FRAMES, lookup_lines=False, compact=True)
        return "".join(shown.format()).rstrip("\n")
    except Exception as raised:  # an error whose own methods raise  # noqa: BLE001
        return f"{type(error).__name__}: [{type(raised).__name__} while formatting]"


def _chain(error: BaseException) -> list[tuple[BaseException, str]]:
    """Returns the errors, the newest first, each with the heading between it and the one that it brought about."""
    chain = [(error, "")]
    seen = {id(error)}
    while True:
        is_cause = error.__cause__ is not None
        earlier = error.__cause__ if is_cause or error.__suppress_context__ else error.__context__
        if earlier is None or id(earlier) in seen:
            return chain
        seen.add(id(earlier))
        chain.append((earlier, _CAUSE if is_cause else _CONTEXT))
        error = earlier


def _both_ends(chain: list[tuple[BaseException, str]]) -> Iterator[str]:
    """Yields the texts of the oldest and the newest errors, the oldest first; formatting all would take long."""
    half = _MAX_ERRORS // 2
    for error, heading in reversed(chain[-half:]):
        yield _alone(error) + heading
    yield f"[{len(chain) - 2 * half} errors cut]\n"
    for error, heading in reversed(chain[:half]):
        yield _alone(error) + heading


def _alone(error: BaseException) -> str:
    """Returns the text of an error without those before it, which the standard library always visits."""
    frames = StackSummary.extract(walk_tb(error.__traceback__), limit=-_MAX_FRAMES, lookup_lines=False).format()
    return "".join((_TRACEBACK, *frames, f"{type(error).__qualname__}: {safe_text(error)}\n"))


def shorten(text: str, limit: int) -> str:
    """Returns a traceback within `limit` bytes. The time is linear in its length."""
    if _size(text) <= limit:
        return text
    sections = _BETWEEN.split(text)
    # The root cause, the newest error that is no member of a group, and of the rest the last ones.
    newest = max(at for at, section in enumerate(sections) if at == 0 or not _MEMBER.match(section))
    wanted = list(dict.fromkeys([0, newest, *reversed(range(len(sections)))]))[: max(2, limit // _LEAST_BYTES)]
    is_cut = len(wanted) < len(sections)
    sections = [sections[at] for at in sorted(wanted)]
    mark = "\n[errors cut]" if is_cut else ""
    room = limit - len(mark) - len(sections)
    # The short ones leave the rest to the long ones.
    for left, at in enumerate(sorted(range(len(sections)), key=lambda at: _size(sections[at]))):
        sections[at] = _section(sections[at], room // (len(sections) - left))
        room -= _size(sections[at])
    return "\n".join([sections[0] + mark, *sections[1:]])


def _section(text: str, room: int) -> str:
    """Returns one error within `room` bytes: its head, the frames nearest to the fault, the beginning of its text."""
    if _size(text) <= room:
        return text
    head, frames, error = _parse(text)
    head = _cut(head, room // 2)
    room -= _size(head)
    error = _cut(error, max(room // 2, room - sum(map(_size, frames)) - len(_FRAMES_CUT)))
    room -= _size(error) + len(_FRAMES_CUT)
    kept: list[str] = []
    for frame in reversed(frames):
        if _size(frame) > room:
            break
        kept.insert(0, frame)
        room -= _size(frame)
    if frames and not kept:
        place = frames[-1].partition("\n")[0]
        kept = [_cut(place, room - 1, 0.2) + "\n"]  # behind the path are the line and the function
    return "".join((head, _FRAMES_CUT if len(kept) < len(frames) else "", *kept, error))


def _parse(text: str) -> tuple[str, list[str], str]:
    """Returns the head, the frames and the error of a section."""
    lines = _LINES.findall(text)
    head: list[str] = []
    frames: list[str] = []
    for number, line in enumerate(lines):
        match = _FRAME.match(line)
        if match is not None and match["first"] is not None:
            frames.append(line)
        elif match is not None and frames:
            frames[-1] += line
        elif frames:
            return "".join(head), frames, "".join(lines[number:])
        else:
            head.append(line)
    return ("".join(head), frames, "") if frames else ("", [], text)


def _cut(text: str, room: int, ahead: float = 0.75) -> str:
    """Returns the two ends of a text within `room` bytes; the share `ahead` of them is the beginning."""
    raw = text.encode()
    if len(raw) <= room:
        return text
    room -= len(_CUT.encode())
    if room <= 0:
        return ""
    first = int(ahead * room)
    return raw[:first].decode(errors="ignore") + _CUT + raw[len(raw) - (room - first) :].decode(errors="ignore")


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())

"""The type of an exception, from the texts that records have of it."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["type_in", "type_of"]

_NAME: Final = r"(?:[\w<>]+\.)*[A-Z]\w*"
_ERROR: Final = re.compile(rf"({_NAME})(?:: |$)")  # `TimeoutError: late`; a text that a program made up has none
# In a traceback it may be in lower case, like `zlib.error`, where it is of a module.
_LAST_LINE: Final = re.compile(rf"({_NAME}|(?:[\w<>]+\.)+\w+)(?::|$)")
_BEGIN: Final = "Traceback (most recent call last):"
_GROUP: Final = re.compile(r"  [+|] ?")  # before the lines of a group of exceptions


def type_of(error: object) -> str | None:
    """Returns the type that an error's text begins with."""
    match = _ERROR.match(error) if isinstance(error, str) else None
    return None if match is None else match[1]


def type_in(traceback: str) -> str | None:
    """Returns the type of a traceback's exception, of a chain the last one's.

    It is in the first line that is not indented behind the frames: a message may have several.
    """
    lines = [_GROUP.sub("", line, count=1) if _GROUP.match(line) else line for line in traceback.splitlines()]
    begins = [at for at, line in enumerate(lines) if _BEGIN in line and not line[0].isspace()]
    for line in lines[begins[-1] + 1 if begins else 0 :]:
        if match := _LAST_LINE.match(line):
            return match[1]
    return None

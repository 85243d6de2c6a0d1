"""Links with a token, opened in a browser without it among its arguments, which all users of a machine see."""

from __future__ import annotations

from pathlib import Path

from hearthnet.files import replace_private
from hearthnet.transport.page.grants import OPENING_FILE

__all__ = ["open_link"]


def open_link(link: str, directory: Path | None) -> bool:
    """Opens a browser with a private file that goes on to the link; returns whether there is one.

    Args:
        link: works once, so the file may stay.
        directory: of the file; None: a new one.

    Raises:
        OSError: raised when the file cannot be written.
    """
    import webbrowser
    from html import escape
    from tempfile import mkdtemp

    path = (directory or Path(mkdtemp(prefix="hearthnet-"))) / OPENING_FILE
    goes_on = f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={escape(link)}">HearthNet'
    replace_private(path, goes_on.encode())
    return webbrowser.open(path.resolve().as_uri())

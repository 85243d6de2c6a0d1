"""Links with a token, opened in a browser without it among its arguments, which all users of a machine see."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["open_link"]


def open_link(link: str, directory: Path | None) -> None:
    """Opens a browser with a private file that goes on to the link, and says so where no browser can be opened.

    Args:
        link: works once, so the file may stay.
        directory: of the file; None: a new one.

    Raises:
        OSError: raised when the file cannot be written.
    """
    import webbrowser
    from html import escape
    from tempfile import mkdtemp

    from hearthnet.files import replace_private
    from hearthnet.transport.page.grants import OPENING_FILE

    path = (directory or Path(mkdtemp(prefix="hearthnet-"))) / OPENING_FILE
    goes_on = f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={escape(link)}">HearthNet'
    replace_private(path, goes_on.encode())
    if not webbrowser.open(path.resolve().as_uri()):
        click.echo("no browser could be opened", err=True)

"""`hearthnet page`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hearthnet.cli.main import where_option

if TYPE_CHECKING:
    from hearthnet.locations import Locations


@click.command("page")
@where_option
def command(where: Locations) -> None:
    """Open the page of the running node in a browser.

    \b
    Example: hearthnet page
    """
    from hearthnet.cli.client import url_of
    from hearthnet.transport.page.grants import Grants

    click.echo(f"{url_of(where)}/#token={Grants(where.data_dir).offer()}")

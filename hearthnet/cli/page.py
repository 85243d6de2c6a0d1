"""`hearthnet page`."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from hearthnet import moments
from hearthnet.cli.main import config_option, json_option, print_json
from hearthnet.cli.options import folder_of_store, seconds_of
from hearthnet.display import counted

if TYPE_CHECKING:
    from hearthnet.config import Config
    from hearthnet.transport.page.grants import Grants

_MAX_SHARE_S: Final = 86_400
_ANY: Final = "0.0.0.0"  # noqa: S104  # bound only if the page is shared
_ELSEWHERE: Final = ("192.0.2.1", 9)  # of a network for documentation; nothing is sent there


@click.command("page")
@click.option("--open", "is_opened", is_flag=True, help="Open the link in this machine's browser.")
@click.option(
    "--share",
    "share_s",
    metavar="DURATION",
    callback=seconds_of("30m or 2h", _MAX_SHARE_S, "24 hours"),
    help="Let other machines use links for this long: 30m, 2h.",
)
@click.option("--revoke", is_flag=True, help="End all links, browsers' access and sharing, within seconds.")
@click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path, exists=True),
    metavar="DIR",
    callback=folder_of_store,
    help="Serve this folder with a telemetry.db, read only, until Ctrl-C.",
)
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Port of a page without a node; 0: a free one.")
@click.option("--url", metavar="URL", help="Where a program serves the page, for the link.")
@config_option
@json_option
def command(
    config: Config,
    is_opened: bool,
    share_s: float | None,
    revoke: bool,
    data_dir: Path | None,
    port: int,
    url: str | None,
    as_json: bool,
) -> None:
    """Print a link to the page of the running node.

    The link works once, within ten minutes, on this machine alone; the browser that opens it then has access for 30
    days. If no node runs, this command serves the page of its files itself until Ctrl-C. With --url the link is to a
    page that a program of yours serves (docs/page.md).

    \b
    Example: hearthnet page --open
             hearthnet page --share 1h
             hearthnet page --revoke
             hearthnet page --data /media/stick/hearthnet
             hearthnet page --url http://127.0.0.1:8000/telemetry/

    Exits with 1 when the link cannot be recorded, or nothing can be served.
    """
    from hearthnet.cli.client import NodeClient, url_of
    from hearthnet.locations import locations_of
    from hearthnet.transport.page.grants import Grants

    if revoke and (share_s is not None or is_opened or url is not None):
        raise click.UsageError("--revoke ends all access; it cannot be combined with --share, --open or --url")
    where = locations_of(config)
    folder = data_dir or where.data_dir
    if revoke:
        _revoke(Grants(folder), as_json=as_json)
    elif url is not None:
        _print_link(Grants(folder), _checked(url), share_s, is_opened=is_opened, as_json=as_json)
    elif data_dir is None and NodeClient(where).is_running():
        if port:
            click.secho(f"--port is ignored: the node serves the page on port {where.port}", fg="yellow", err=True)
        if share_s is not None and _is_loopback(where.host):
            click.secho(f"the node listens on {where.host} alone: set [transport] host", fg="yellow", err=True)
        _print_link(Grants(folder), url_of(where), share_s, is_opened=is_opened, as_json=as_json)
    else:
        _serve(config, data_dir, port, share_s, is_opened=is_opened, as_json=as_json)


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise click.BadParameter(f"{url!r} is not an http or https URL without query and fragment", param_hint="--url")
    return url.removesuffix("/")


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _revoke(grants: Grants, *, as_json: bool) -> None:
    count = grants.revoke()
    if as_json:
        print_json({"revoked": count})
    else:
        browsers = counted(count, "browser")
        click.echo(f"links and sharing have ended, and access for {browsers}; open pages close within seconds")


def _print_link(grants: Grants, base: str, share_s: float | None, *, is_opened: bool, as_json: bool) -> None:
    """Prints a new link, and opens it on request. The token is in the fragment, which browsers do not send."""
    from hearthnet.transport.page.grants import TOKEN_S

    shared_until_us = None if share_s is None else grants.share(share_s)
    link = f"{base}/#token={grants.offer()}"
    if shared_until_us is not None:
        link = _from_elsewhere(link)
    until_us = time.time_ns() // 1_000 + int(TOKEN_S * 1_000_000)
    is_encrypted = base.startswith("https:")
    if as_json:
        print_json(_document(link, until_us, shared_until_us, is_encrypted=is_encrypted))
    else:
        click.echo(link)
        click.echo("works once, within ten minutes; the browser that opens it keeps access for 30 days", err=True)
        if shared_until_us is not None:
            said = "encrypted" if is_encrypted else "NOT encrypted: who can read this network sees all of it"
            click.secho(f"shared until {moments.local(shared_until_us)}, {said}", fg="yellow", err=True)
    if is_opened:
        from hearthnet.transport.page.opening import open_link

        if not open_link(link, grants.directory):
            click.echo("no browser could be opened", err=True)


def _from_elsewhere(link: str) -> str:
    """Returns a link that other machines can follow: one to loopback gets this machine's address."""
    parts = urlsplit(link)
    if not _is_loopback(parts.hostname or ""):
        return link
    port = "" if parts.port is None else f":{parts.port}"
    return parts._replace(netloc=f"{_address()}{port}").geturl()


def _document(link: str, until_us: int, shared_until_us: int | None, *, is_encrypted: bool) -> dict[str, Any]:
    return {"url": link, "until_us": until_us, "shared_until_us": shared_until_us, "is_encrypted": is_encrypted}


def _address() -> str:
    """Returns this machine's address in its network, or its name if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _serve(
    config: Config, data_dir: Path | None, port: int, share_s: float | None, *, is_opened: bool, as_json: bool
) -> None:
    """Serves the page of a folder until it is interrupted; who may use it is kept in memory alone."""
    import asyncio
    from contextlib import closing

    from hearthnet.config import TransportConfig
    from hearthnet.errors import HearthNetError
    from hearthnet.observability import doctor
    from hearthnet.observability.telemetry import DATABASE
    from hearthnet.page import page_of, serve
    from hearthnet.transport.page.grants import Grants
    from hearthnet.transport.server import bind

    settings = config.observability
    folder = data_dir or settings.data_dir
    assert folder is not None
    if not (folder / DATABASE).is_file():
        hint = "name a folder that has one" if data_dir else "start the node once: hearthnet run"
        raise HearthNetError(f"there is no {DATABASE} in {folder}", hint=hint)
    grants = Grants(None)
    checks = None if data_dir is not None else lambda: [result.as_dict() for result in doctor.run_all(config)]
    page = page_of(folder, None if data_dir else settings.log_dir, grants, settings, checks)
    page.check_schema()
    host = "127.0.0.1" if share_s is None else _ANY
    transport = TransportConfig.model_construct(**{**dict(TransportConfig()), "host": host, "port": port})
    with closing(bind(transport)) as listening:
        listening.listen()  # before the link is printed: a browser that follows it at once must not be refused
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if not as_json:
            why = "" if data_dir else "no node is running: "
            click.echo(f"{why}serving {folder}, read only; stop with Ctrl-C", err=True)
        _print_link(grants, base, share_s, is_opened=is_opened, as_json=as_json)
        asyncio.run(serve(page, listening, transport))

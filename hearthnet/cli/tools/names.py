"""What a shell may complete behind an option: names and ids from the store, without a node.

A prompt is no place for errors: where a store or the settings cannot be read, nothing is completed.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hearthnet.constants import DATABASE, LEVELS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from hearthnet.observability.store.values import Kind

    Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

__all__ = ["CHECKS", "capabilities", "checks", "level_changes", "loggers", "programs", "runs", "traces"]

# The doctor's own, in the order of its report: to import the checks takes longer than a prompt may wait.
CHECKS: Final = (
    "keys_present", "keys_loadable", "community_present", "event_log_writable", "mdns_socket", "udp_multicast",
    "transport_port", "at_least_one_capability", "disk_space", "clock_sanity", "llm_backend_reachable",
    "recent_error_rate", "telemetry_store", "telemetry_export", "orphan_spans", "last_run", "restart_loop",
    "log_directory", "file_modes", "config_file", "exposure", "connection_limit", "members_refused",
)  # fmt: skip

_SAFE: Final = frozenset(string.ascii_letters + string.digits + "._-/@+")  # what no shell takes for syntax
_OWN: Final = "hearthnet."


def _found(context: click.Context, kind: Kind, start: str) -> list[tuple[str, str | None]]:
    """Returns values of the store that the command line is about, and that a shell can take unquoted."""
    from hearthnet.observability.store.values import values

    given = context.params.get("config") or context.params.get("where")
    try:
        found = values(_data_dir(given if isinstance(given, Path) else None) / DATABASE, kind, start)
    except Exception:  # whatever is wrong with them, the doctor says it  # noqa: BLE001
        return []
    return [(value, words) for value, words in found if value and _SAFE.issuperset(value)]


def _data_dir(path: Path | None) -> Path:
    """Returns the folder of the store, whatever else the settings say: to check all of them takes too long."""
    from hearthnet.config_file import absolute, expand, read_tree, standard_paths

    tree = expand(read_tree(path) or {})
    return absolute(Path(tree.get("observability", {}).get("data_dir") or standard_paths().data_dir))


def _items(found: list[tuple[str, str | None]]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from hearthnet.cli.main import printable

    return [CompletionItem(value, help=printable(words) if words else None) for value, words in found]


def traces(context: click.Context, _: click.Parameter | None, incomplete: str) -> list[CompletionItem]:
    """Completes ids of the newest traces."""
    return _items(_found(context, "trace", incomplete.upper()))


def runs(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes ids of the newest runs."""
    return _items(_found(context, "run", incomplete.upper()))


def programs(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes programs that have recorded."""
    return _items(_found(context, "program", incomplete))


def capabilities(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes names of capabilities that were called."""
    return _items(_found(context, "capability", incomplete))


def loggers(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes names of loggers that have logged; without `hearthnet.` where it is not typed."""
    is_short = not incomplete.startswith(_OWN[: len(incomplete)] or _OWN)
    found = _found(context, "logger", f"{_OWN}{incomplete}" if is_short else incomplete)
    return _items([(name.removeprefix(_OWN) if is_short else name, words) for name, words in found])


def level_changes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes LOGGER=LEVEL: the logger, then the level."""
    name, sign, start = incomplete.partition("=")
    if not sign:
        return loggers(context, parameter, incomplete)
    return _items([(f"{name}={level}", None) for level in LEVELS if level.startswith(start)])


def checks(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes names of the doctor's checks."""
    return _items([(name, None) for name in CHECKS if name.startswith(incomplete)])

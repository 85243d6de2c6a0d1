"""`hearthnet trace`: the group of its commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from hearthnet.cli.main import Group
from hearthnet.cli.tools import names
from hearthnet.cli.trace.bodies import bodies
from hearthnet.cli.trace.importing import import_command
from hearthnet.cli.trace.recent import recent
from hearthnet.cli.trace.show import is_reference, show

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_HELP: Final = """Show traces of calls and where their time went.

\b
Example: hearthnet trace recent 20 --failed
         hearthnet trace show last
         hearthnet trace 01HXR4Z6W5S9
         hearthnet trace --data runs
         hearthnet trace import kitchen.jsonl
"""


class TraceGroup(Group):
    """The group; a trace instead of a command shows that trace, and `--data` alone the newest ones of that store."""

    def instead_of(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Returns the arguments of `show` if they begin with a reference to a trace, of `recent` if with `--data`."""
        if args[0] == "--data" or args[0].startswith("--data="):
            count = 1 if "=" in args[0] else 2
            given, rest = args[:count], args[count:]
            if rest and (rest[0] in self.commands or is_reference(rest[0])):
                return [*(rest if rest[0] in self.commands else ["show", *rest]), *given]
            return ["recent", *rest, *given]
        return ["show", *args] if is_reference(args[0]) else super().instead_of(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Returns commands, and traces where their id is begun."""
        found = super().shell_complete(ctx, incomplete)
        return found + names.traces(ctx, None, incomplete) if is_reference(incomplete) else found


# So that -2 is taken for a trace, not for an option.
command: Final = TraceGroup("trace", help=_HELP, context_settings={"ignore_unknown_options": True})
for _command in (bodies, import_command, recent, show):
    command.add_command(_command)

"""`hearthnet completion`: prints what makes a shell complete this program's commands, options, names and ids.

`click` has the completion itself. Added are a script for bash that takes `--option=VALUE` and `LOGGER=LEVEL` for one
word and prints no errors, and completions of `--option=VALUE` that zsh and fish take for the whole word.
"""

from __future__ import annotations

import os
from typing import Final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    split_arg_string,
)

from hearthnet.cli.output import COMPLETE_VARIABLE
from hearthnet.errors import EXIT_ERROR

__all__ = ["command", "complete"]

_PROGRAM: Final = "hearthnet"

# Words are split by click, not by bash, which would split at `=` and `:` too. Bash replaces only the rest.
_BASH: Final = """\
%(complete_func)s() {
    local kind value word=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                [[ $COMP_WORDBREAKS == *=* && $value == *=* ]] && value=${value#*=}
                COMPREPLY+=("$value")
                ;;
        esac
    done < <(COMP_WORDS=${COMP_LINE:0:COMP_POINT} %(complete_var)s=bash_complete command "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """Gets the line up to the cursor."""

    source_template = _BASH

    def source(self) -> str:
        """Returns the script, for any bash: one that is too old says so itself."""
        return ShellComplete.source(self)

    def get_completion_args(self) -> tuple[list[str], str]:
        """Returns the words before the one to complete, and that."""
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        return (words, "") if not words or line[-1:].isspace() else (words[:-1], words[-1])


class _WholeWord(ShellComplete):
    """Completes `--option=VALUE` by whole words: these shells replace all of it."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Returns the completions."""
        found = super().get_completions(args, incomplete)
        name, sign, _ = incomplete.partition("=")
        if sign and name.startswith("--"):
            for item in found:
                item.value = f"{name}={item.value}"
        return found


class _Zsh(_WholeWord, ZshComplete):
    pass


class _Fish(_WholeWord, FishComplete):
    pass


_SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def complete(cli: click.Command, instruction: str) -> int:
    """Prints the completions that a shell asks for by `SHELL_complete`, and no error: a prompt is no place for one."""
    shell, _, what = instruction.partition("_")
    try:
        asked = _SHELLS[shell](cli, {}, _PROGRAM, COMPLETE_VARIABLE)
        click.echo(asked.complete() if what == "complete" else asked.source())
    except Exception:  # noqa: BLE001
        return EXIT_ERROR
    return 0


@click.command("completion")
@click.argument("shell", type=click.Choice(tuple(_SHELLS)))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, options, names and ids.

    Put it where the shell finds it, and open a new one. Print it again after an upgrade.

    \b
    Example: hearthnet completion bash > \\
               ~/.local/share/bash-completion/completions/hearthnet
             hearthnet completion zsh > ~/.zfunc/_hearthnet
             hearthnet completion fish > \\
               ~/.config/fish/completions/hearthnet.fish

    In zsh, ~/.zshrc needs before that: fpath+=(~/.zfunc); autoload -Uz compinit; compinit
    Without bash-completion, ~/.bashrc needs: eval "$(hearthnet completion bash)"
    """
    asked = _SHELLS[shell](context.find_root().command, {}, _PROGRAM, COMPLETE_VARIABLE)
    click.echo(asked.source(), nl=False)

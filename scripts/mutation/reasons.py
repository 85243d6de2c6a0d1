"""Changes that no test need notice, each with the reason: `survivors.toml`."""

from __future__ import annotations

import difflib
import tomllib
from functools import cache

from mutation.subjects import ROOT, path_of

__all__ = ["change_of", "reason_for", "reasons"]


def change_of(source: str, mutated: str) -> tuple[str, str]:
    """Returns the lines that differ, before and after, without what surrounds their text."""
    lines = [line for line in difflib.ndiff(source.splitlines(), mutated.splitlines()) if line[0] in "-+"]
    before, after = ([line[2:].strip() for line in lines if line[0] == sign] for sign in "-+")
    return "\n".join(before), "\n".join(after)


@cache
def reasons() -> dict[tuple[str, str, str], str]:
    """Returns why no test need notice a change: by module, lines before, and lines after or the name of an operator."""
    listed = tomllib.loads((ROOT / "scripts/survivors.toml").read_text("utf-8"))["survivor"]
    return {(path_of(one["module"]), one["before"], one.get("after") or one["operator"]): one["why"] for one in listed}


def reason_for(module: str, change: tuple[str, str], operator: str) -> str | None:
    """Returns why no test need notice this change of a module; None if one should."""
    before, after = change
    return reasons().get((module, before, after)) or reasons().get((module, before, operator))

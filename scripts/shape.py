"""Counts what keeps the package easy to find one's way in, and compares it with goals.

    scripts/shape           a table, and the words to replace
    scripts/shape --json    one document, with the modules of each walk

`GOALS` are what the design asks for. `CEILINGS` are where they are not met yet: tests/test_shape.py holds the ceiling,
so that a count can only fall. Lower a ceiling when a count falls; remove it when the goal is met.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import sys
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Final

import walks

__all__ = ["CEILINGS", "GOALS", "count", "quick_counts"]

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = ROOT / "hearthnet"

GOALS: Final[dict[str, int]] = {
    "modules in the largest folder": 15,
    "global statements": 3,
    "fork hooks": 1,
    "words to replace": 0,
    "walk: log record to row and line": 12,
    "walk: trace to `trace show`": 20,
    "walk: HTTP call to its handler": 14,
    "walk: recovery": 10,
    "files of a new column": 4,
}
CEILINGS: Final[dict[str, int]] = {
    # One more than when it was shortened: the handler, for which the loggers' module has no space.
    "walk: log record to row and line": 15,
    # Three more than when it was shortened: what the terminal can show; the one way in which times are printed; what
    # SQLite keeps beside a database, for which the module of databases has no space.
    "walk: trace to `trace show`": 27,
    "walk: HTTP call to its handler": 23,
    # Three more than when it was shortened: the kernel is asked before its counters are gone; the last sign of life is
    # found as by autopsy, so that both say the same; what SQLite keeps beside a database.
    "walk: recovery": 16,
    "files of a new column": 9,
}

# In docstrings, comments and messages: what to write instead. Names that users know (metrics, columns, JSON keys, wire
# words) are single words in code, and are not counted.
SYNONYMS: Final[dict[str, str]] = {
    r"shed|pushed out|given up|held back|suppressed|unseen|left out": "dropped",
    r"turn(s|ed|ing)? away|den(y|ies|ied)": "refuse",
    r"tells? whether": "returns whether",
    r"(is|are|was|were) told|announces?d?": "log",
    r"tak(e|es|en|ing) in|took in|absorb(s|ed)?|adopt(s|ed)?|refill(s|ed)?": "recover",
    r"look(s|ed|ing)? at|judged|examine(s|d)?": "check",
    r"(its|their|own|earlier|last|whole|next|other) (life|lives)": "run",
    r"strangers?|somebody|nobody|whoever|anybody": "caller",
    r"urgent|hurry": "wake",
    r"what is|of what": "the noun itself",
    r"stands?": "is, lies",
    r"(has|have|is|are) room|makes? room": "evict, or free slots",
    r"answers?": "response (HTTP), result (query)",
}
OLD_MESSAGES: Final = ("event loop answers again",)  # of records that an older version made: they are still read


def modules() -> list[Path]:
    """Returns the package's modules."""
    return sorted(PACKAGE.rglob("*.py"))


def lines_by_folder() -> dict[str, int]:
    """Returns the lines of each first folder of the package, those of `observability` by room."""
    found: Counter[str] = Counter()
    for path in modules():
        folders = path.relative_to(PACKAGE).parent.parts
        found["/".join(folders[:2] if folders[:1] == ("observability",) else folders[:1]) or "."] += len(
            path.read_text("utf-8").splitlines()
        )
    return dict(found.most_common())


def modules_by_folder() -> dict[str, int]:
    """Returns how many modules each folder has beside its sub-folders and its `__init__`."""
    found = Counter(os.fspath(path.parent.relative_to(PACKAGE)) for path in modules() if path.name != "__init__.py")
    return dict(found.most_common())


def global_statements() -> int:
    """Returns how many `global` statements there are."""
    trees = (ast.parse(path.read_text("utf-8")) for path in modules())
    return sum(isinstance(node, ast.Global) for tree in trees for node in ast.walk(tree))


def fork_hooks() -> int:
    """Returns how many calls of `os.register_at_fork` there are."""
    return sum(path.read_text("utf-8").count("register_at_fork(") for path in modules())


def prose(text: str) -> list[str]:
    """Returns the comments of a source, and its strings of several words: docstrings, messages, help texts."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.string for token in tokens if token.type in kinds and " " in token.string.strip()]


def synonyms() -> dict[str, dict[str, int]]:
    """Returns, by the word to write, the words found in its stead and how often."""
    whole = "\n".join(part for path in modules() for part in prose(path.read_text("utf-8")))
    for message in OLD_MESSAGES:
        whole = whole.replace(message, "")
    found = {}
    for pattern, word in SYNONYMS.items():
        matches = re.finditer(rf"(?<![\w`])(?:{pattern})(?![\w`])", whole, re.IGNORECASE)
        found[word] = dict(Counter(" ".join(match[0].lower().split()) for match in matches).most_common())
    return {word: counts for word, counts in found.items() if counts}


@cache
def quick_counts() -> dict[str, int]:
    """Returns the counts that need nothing but the source."""
    return {
        "modules in the largest folder": max(modules_by_folder().values()),
        "global statements": global_statements(),
        "fork hooks": fork_hooks(),
        "words to replace": sum(sum(counts.values()) for counts in synonyms().values()),
        "files of a new column": len(walks.column()),
    }


def count() -> tuple[dict[str, int], dict[str, list[str]]]:
    """Returns all counts by the names of `GOALS`, and the modules of each walk."""
    found = {name: walks.walk(name) for name in walks.WALKS}
    return quick_counts() | {f"walk: {name}": len(files) for name, files in found.items()}, found


def show(counts: dict[str, int]) -> None:
    """Prints the tables."""
    lines = lines_by_folder()
    print(f"{sum(lines.values()):>7,} lines in {len(modules())} modules")
    for folder, number in lines.items():
        print(f"{number:>7,}   {folder}")
    print(f"\n{'count':>7} {'goal':>7}")
    for name, goal in GOALS.items():
        print(f"{counts[name]:>7,} {goal:>7,}   {name}{'' if counts[name] <= goal else '   <- not met'}")
    for word, found in synonyms().items():
        print(f"\n{word}: {', '.join(f'{name} {number}' for name, number in found.items())}")


def main() -> None:
    """Prints the counts."""
    parser = argparse.ArgumentParser(prog="scripts/shape", description="Counts the shape of the package.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    counts, found = count()
    if not chosen.json:
        show(counts)
        return
    document = {
        "lines": lines_by_folder(), "modules": modules_by_folder(), "counts": counts, "goals": GOALS,
        "walks": found | {"a new column": walks.column()}, "words": synonyms(),
    }  # fmt: skip
    json.dump(document, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()

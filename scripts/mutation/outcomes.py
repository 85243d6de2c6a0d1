"""What became of each change, kept in a file, so that a run which was ended goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from mutation.mutants import Mutant

__all__ = ["Outcome", "Outcomes", "digest"]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        module: its path.
        source: the digest of the module as it was.
        line: where it was changed.
        operator: how.
        occurrence: at which of the positions of the operator.
        tests: the digest of all tests.
        killer: the test that noticed it; None if none did.
    """

    module: str
    source: str
    line: int
    operator: str
    occurrence: int
    tests: str
    killer: str | None


class Outcomes:
    """The outcomes in the file at `path`, a line of JSON each; without a path they last as long as the program."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[tuple[str, str, str, int], Outcome] = {}
        if path is not None and path.exists():
            for line in path.read_text("utf-8").splitlines():
                self._remember(Outcome(**json.loads(line)))

    def _remember(self, outcome: Outcome) -> None:
        self._known[outcome.module, outcome.source, outcome.operator, outcome.occurrence] = outcome

    def find(self, module: str, source: str, mutant: Mutant, tests: str) -> Outcome | None:
        """Returns the outcome of a mutant of this module; one that survived is tried again when tests have changed."""
        found = self._known.get((module, source, mutant.operator, mutant.occurrence))
        return found if found and (found.killer or found.tests == tests) else None

    def add(self, outcome: Outcome) -> None:
        """Keeps an outcome."""
        self._remember(outcome)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")


def digest(texts: Iterable[str]) -> str:
    """Returns a few characters that differ where the texts do."""
    made = hashlib.sha256()
    for text in texts:
        made.update(text.encode() + b"\0")
    return made.hexdigest()[:12]

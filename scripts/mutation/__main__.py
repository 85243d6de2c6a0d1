"""Changes the code of a subject in small ways, one at a time, and tells which changes its nearest tests do not notice.

    scripts/mutate ring writer                 every mutant of these subjects
    scripts/mutate ../bus/ratelimit.py         of one module
    scripts/mutate --sample 40 --seed 5        40 of each module of all subjects, the same for a seed
    scripts/mutate ring --outcomes FILE        goes on where a run with this file was ended; tries survivors again
                                               where tests have changed
    scripts/mutate ring --json                 the scores as JSON

All of it happens in a copy of the working tree, below TMPDIR: quickest in memory. What a test must notice, and what
need not be: see `unmutated`. Survivors that are right are in `survivors.toml`, each with the reason.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mutation.copies import NO_TEST, Copy
from mutation.mutants import Mutant, sample
from mutation.nearest import Runs, nearest
from mutation.outcomes import Outcome, Outcomes, digest
from mutation.reasons import change_of, reason_for
from mutation.subjects import SUBJECTS, TESTS, Subject, path_of

_TELL_EVERY = 20


@dataclass
class Score:
    """What became of the mutants of a module; `excused` survived for a reason that is known."""

    module: str
    killed: int = 0
    excused: int = 0
    survived: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """How many mutants there were."""
        return self.killed + self.excused + len(self.survived)

    def line(self, name: str = "") -> str:
        """Returns it in words; the part is that of the killed among all that need a test."""
        part = self.killed / (self.tried - self.excused) if self.tried > self.excused else 1
        kinds = f"{self.killed} killed, {self.excused} excused, {len(self.survived)} survived"
        return f"{name or self.module}: {kinds} of {self.tried} ({part:.1%})"


class Run:
    """A run of the program: its copy of the tree, what is known of mutants, and which ones to try."""

    def __init__(self, copy: Copy, outcomes: Outcomes, count: int, seed: int) -> None:
        self.copy, self.outcomes, self.count, self.seed = copy, outcomes, count, seed
        tests = sorted((copy.folder / "tests").rglob("*.py"))
        self.tests = digest(path.read_text("utf-8") for path in tests)

    def subject(self, subject: Subject) -> Iterator[Score]:
        """Yields the score of each module.

        Raises:
            SystemExit: all tests fail as they are.
        """
        modules = [path_of(module) for module in subject.modules]
        runs = self.copy.watch([os.path.normpath(f"{TESTS}/{test}") for test in subject.tests], modules)
        if not runs.tests:
            sys.exit(f"error: without any change these tests fail: {' '.join(subject.tests)}\n{self.copy.output()}")
        for module in modules:
            yield self._module(module, runs)

    def _module(self, module: str, runs: Runs) -> Score:
        source = (self.copy.folder / module).read_text("utf-8")
        score = Score(module)
        mutants = sample(source, self.count, self.seed)
        for mutant, mutated in mutants:
            if self._outcome(module, source, mutant, mutated, runs).killer:
                score.killed += 1
            elif reason_for(module, change_of(source, mutated), mutant.operator):
                score.excused += 1
            else:
                score.survived.append(_difference(module, source, mutated, mutant.operator))
                print(score.survived[-1], file=sys.stderr, flush=True)
            if score.tried % _TELL_EVERY == 0:
                print(f"... {score.line()}; {len(mutants)} in all", file=sys.stderr, flush=True)
        self.copy.write(module, source)
        return score

    def _outcome(self, module: str, source: str, mutant: Mutant, mutated: str, runs: Runs) -> Outcome:
        now = digest([source])
        if found := self.outcomes.find(module, now, mutant, self.tests):
            return found
        self.copy.write(module, mutated)
        killer = self.copy.killer(nearest(runs, module, source, mutant.start[0]))
        if killer == NO_TEST:
            print(f"{module}:{mutant.start[0]}: {mutant.operator}: {killer}", file=sys.stderr, flush=True)
        outcome = Outcome(module, now, mutant.start[0], mutant.operator, mutant.occurrence, self.tests, killer)
        self.outcomes.add(outcome)
        return outcome


def _difference(module: str, source: str, mutated: str, operator: str) -> str:
    lines = difflib.unified_diff(source.splitlines(), mutated.splitlines(), module, operator, lineterm="", n=1)
    return "\n".join(lines)


def subjects_of(names: list[str]) -> list[Subject]:
    """Returns the subjects of these names, all if there is none; for the name of a module, that module alone.

    Raises:
        KeyError: there is no such subject or module.
    """
    found = []
    for name in names or SUBJECTS:
        holder = next((subject for subject in SUBJECTS.values() if name in subject.modules), None)
        found.append(holder._replace(modules=(name,)) if holder else SUBJECTS[name])
    return found


def total(scores: list[Score]) -> Score:
    """Returns the scores of all modules as one."""
    survived = [difference for score in scores for difference in score.survived]
    return Score("", sum(score.killed for score in scores), sum(score.excused for score in scores), survived)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/mutate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"a module, or of: {', '.join(SUBJECTS)}")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="mutants a module (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default: 1)")
    parser.add_argument("--outcomes", type=Path, metavar="FILE", help="what is known already, and what is found")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    options = parser.parse_args()
    try:
        options.subjects = subjects_of(options.subjects)
    except KeyError as error:
        parser.error(f"no such subject: {error}")
    return options


def main() -> int:
    """Prints the scores, and on stderr how far it is and each survivor as it is found; returns 1 if there are any."""
    options = _options()
    os.nice(19)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scores = []
    with tempfile.TemporaryDirectory(prefix="mutate-", ignore_cleanup_errors=True) as folder:
        run = Run(Copy(Path(folder)), Outcomes(options.outcomes), options.sample, options.seed)
        for subject in options.subjects:
            for score in run.subject(subject):
                scores.append(score)
                print(score.line(), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps([asdict(score) for score in scores], indent=2))
    else:
        print("\n".join([*total(scores).survived, *(score.line() for score in scores), total(scores).line("all")]))
    return int(any(score.survived for score in scores))


if __name__ == "__main__":
    sys.exit(main())

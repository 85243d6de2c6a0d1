"""Changes the code of a subject in small ways, one at a time, and tells which changes its nearest tests do not notice.

    scripts/mutate ring writer         every mutant of these subjects
    scripts/mutate --sample 40         40 mutants of each module of all subjects, the same ones for the same --seed
    scripts/mutate ring --json         the result as JSON

All of it happens in a copy of the working tree, below TMPDIR: quickest in memory. What a test must notice, and what
need not be: see `unmutated`. Survivors that are right are in `survivors.toml`, each with the reason.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mutation.copies import Copy, nearest
from mutation.mutants import sample
from mutation.reasons import change_of, reason_for
from mutation.subjects import PACKAGE, ROOT, SUBJECTS, TESTS


@dataclass(frozen=True)
class Score:
    """What became of the mutants of a module; `excused` survived for a reason that is known."""

    module: str
    killed: int
    excused: int
    survived: list[str]


def run(copy: Copy, name: str, count: int, seed: int) -> Iterator[Score]:
    """Yields the score of each module of a subject.

    Raises:
        SystemExit: all tests fail as they are.
    """
    subject = SUBJECTS[name]
    modules = [f"{PACKAGE}/{module}" for module in subject.modules]
    started = time.monotonic()
    tests = copy.watch([f"{TESTS}/{test}" for test in subject.tests], modules)
    if not tests:
        sys.exit(f"error: the tests of {name} fail without any change")
    within_s = 20 + 3 * (time.monotonic() - started)
    for module in modules:
        source = (ROOT / module).read_text("utf-8")
        killed, excused, survived = 0, 0, []
        for mutant, mutated in sample(source, count, seed):
            copy.write(module, mutated)
            if not copy.passes(nearest(tests, module, source, mutant.start[0]), within_s):
                killed += 1
            elif reason_for(module, change_of(source, mutated), mutant.operator):
                excused += 1
            else:
                survived.append(_difference(module, source, mutated, mutant.operator))
                print(survived[-1], file=sys.stderr, flush=True)
        copy.write(module, source)
        yield Score(module, killed, excused, survived)


def _difference(module: str, source: str, mutated: str, operator: str) -> str:
    lines = difflib.unified_diff(source.splitlines(), mutated.splitlines(), module, operator, lineterm="", n=1)
    return "\n".join(lines)


def _line(score: Score) -> str:
    return f"{score.module}: {score.killed} killed, {score.excused} excused, {len(score.survived)} survived"


def main() -> int:
    """Prints the scores, and on stderr each survivor as it is found; returns 1 if there are any."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"all, or some of: {', '.join(SUBJECTS)}")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="mutants a module (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    if unknown := set(options.subjects) - set(SUBJECTS):
        parser.error(f"no such subject: {', '.join(sorted(unknown))}")
    scores = []
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copy = Copy(Path(folder))
        for name in options.subjects or SUBJECTS:
            for score in run(copy, name, options.sample, options.seed):
                scores.append(score)
                print(_line(score), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps([asdict(score) for score in scores], indent=2))
    else:
        for score in scores:
            print(_line(score))
            print("\n".join(score.survived))
    return int(any(score.survived for score in scores))


if __name__ == "__main__":
    sys.exit(main())

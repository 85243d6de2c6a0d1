"""`hearthnet doctor --fix`: shows the repair plan, asks, carries it out, and checks again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

import click

from hearthnet.checks.support.repair import Outcome, Step, plan_repairs
from hearthnet.cli.main import print_json, printable
from hearthnet.config import Config

__all__ = ["fix"]

Results = Sequence[dict[str, Any]]


def fix(
    config: Config,
    results: Results,
    check_again: Callable[[Collection[str]], Results],
    *,
    is_sure: bool,
    only_plan: bool,
    as_json: bool,
) -> bool:
    """Carries out the repair plan; returns True if no check and no repair fails.

    Args:
        config: the node's settings.
        results: of the checks that were run.
        check_again: runs the given checks again.
        is_sure: do not ask.
        only_plan: change nothing.
        as_json: print one JSON document instead of text.

    Raises:
        click.UsageError: raised when stdin is not a terminal.
        click.Abort: raised when the user declines.
    """
    unhealthy = [result["name"] for result in results if result["status"] in ("fail", "warn")]
    plan = plan_repairs(config, unhealthy)
    if not as_json:
        _print_plan(plan, [result for result in results if result["name"] in unhealthy])
    outcomes: list[Outcome] = []
    after = results
    if plan and not only_plan:
        _ask(is_sure=is_sure)
        outcomes = [step.run() for step in plan]
        names = sorted({*unhealthy, *(step.check for step in plan)})
        again = {result["name"]: result for result in check_again(names)}
        after = [again.get(result["name"], result) for result in results]
    if as_json:
        _print_json(plan, outcomes, after)
    elif outcomes:
        _print_outcomes(outcomes, results, after)
    return all(result["ok"] for result in after) and not any(outcome.error for outcome in outcomes)


def _ask(*, is_sure: bool) -> None:
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(
            "stdin is not a terminal; pass --yes to repair without asking, --dry-run to show the plan"
        )
    click.confirm("carry out this plan?", abort=True, err=True)


def _print_plan(plan: Sequence[Step], unhealthy: Results) -> None:
    if not plan:
        click.echo(f"nothing that can be repaired automatically{'; to fix by hand:' if unhealthy else ''}")
        for result in unhealthy:
            click.echo(f"  {result['name']}: {printable(result['fix'] or result['detail'])}")
        return
    click.echo("The plan:")
    for number, step in enumerate(plan, 1):
        click.echo(f"  {number}. {printable(step.what)}")
        click.secho(f"     undo: {printable(step.undo)}", dim=True)


def _print_outcomes(outcomes: Sequence[Outcome], before: Results, after: Results) -> None:
    for number, outcome in enumerate(outcomes, 1):
        text = "done" if outcome.error is None else f"failed: {printable(outcome.error)}"
        click.secho(f"  {number}. {text}", fg=None if outcome.error is None else "red")
    click.echo("Checked again:")
    for old, new in zip(before, after, strict=True):
        if old is not new:
            click.echo(f"  {new['name']}: {old['status']} -> {new['status']}  {printable(new['detail'])}")


def _print_json(plan: Sequence[Step], outcomes: Sequence[Outcome], after: Results) -> None:
    print_json(
        {
            "version": 1,
            "plan": [step.as_dict() for step in plan],
            "outcomes": [outcome.as_dict() for outcome in outcomes],
            "checks": list(after),
        }
    )

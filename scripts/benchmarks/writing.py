"""How fast traces are written: by batch size against the floor, and by ring size against the ring of a node."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from benchmarks.contenders import Contender, Floor, Ours
from benchmarks.progress import scratch, tell
from benchmarks.records import template
from benchmarks.report import Aim, Line, Section
from benchmarks.stats import Spread
from hearthnet.constants import TRACE_RING_BUFFER

__all__ = ["batches", "rings"]

# Rows a commit, and commits a turn: a turn is long enough for its checkpoints to be in it.
_BATCHES: Final = {10: 200, 100: 100, 1_000: 20, 10_000: 4}
_AIMED_BATCH: Final = 1_000
_RINGS: Final = {"10 k": TRACE_RING_BUFFER, "100 k": 100_000, "1 M": 1_000_000}
_RING_BATCHES: Final = 20
_LARGE_MB: Final = 8_192  # of disk allowed: a million rows take half a gigabyte


def batches(is_quick: bool) -> Section:
    """Returns rows a second by batch size, ours with the ring full, against the floor."""
    return asyncio.run(_batches(3 if is_quick else 11))


async def _batches(turns: int) -> Section:
    section = Section(f"write, ring of {TRACE_RING_BUFFER:,} full", "bare sqlite3")
    with scratch() as folder:
        async with AsyncExitStack() as stack:
            pair = await _pair(folder, stack)
            for batch_rows, count in _BATCHES.items():
                tell(f"write: batches of {batch_rows:,}")
                seconds = await _take_turns(pair, batch_rows, count, turns)
                speeds = {name: [batch_rows * count / each for each in spent] for name, spent in seconds.items()}
                section.lines.append(_batch_line(batch_rows, speeds))
    section.notes.append("ours commits at most 1,000 rows in one transaction, the floor the whole batch")
    return section


async def _pair(folder: Path, stack: AsyncExitStack) -> dict[str, Contender]:
    record = template()
    ours = Ours(folder / "ours.db", record, TRACE_RING_BUFFER)
    floor = Floor(folder / "floor.db", record, TRACE_RING_BUFFER)
    await ours.open()
    stack.push_async_callback(ours.close)
    stack.push_async_callback(floor.close)
    return {"ours": ours, "floor": floor}


def _batch_line(batch_rows: int, speeds: dict[str, list[float]]) -> Line:
    return Line(
        f"batches of {batch_rows:,}",
        Spread.of(speeds["ours"]),
        "rows/s",
        Spread.of(speeds["floor"]),
        Spread.of_ratios(speeds["ours"], speeds["floor"]),
        Aim(0.75, at_least=True) if batch_rows == _AIMED_BATCH else None,
    )


def rings(is_quick: bool) -> Section:
    """Returns the cost of a row by ring size, against the ring that a node has."""
    return asyncio.run(_rings(3 if is_quick else 60))


async def _rings(turns: int) -> Section:
    section = Section("cost of a row by size of the ring", "10 k ring")
    with scratch() as folder:
        async with AsyncExitStack() as stack:
            contenders: dict[str, Contender] = {}
            for name, size in _RINGS.items():
                tell(f"rings: filling the one of {name}")
                ours = Ours(folder / f"{size}.db", template(), size, _LARGE_MB)
                await ours.open()
                stack.push_async_callback(ours.close)
                contenders[name] = ours
            tell("rings: writing")
            seconds = await _take_turns(contenders, _AIMED_BATCH, _RING_BATCHES, turns)
    costs = {name: [each / (_AIMED_BATCH * _RING_BATCHES) * 1e6 for each in spent] for name, spent in seconds.items()}
    first = next(iter(_RINGS))
    for name in list(_RINGS)[1:]:
        ratio = Spread.of_ratios(costs[name], costs[first])
        section.lines.append(
            Line(f"ring of {name}", Spread.of(costs[name]), "us/row", Spread.of(costs[first]), ratio, Aim(1.1))
        )
    return section


async def _take_turns(
    contenders: Mapping[str, Contender], batch_rows: int, count: int, turns: int
) -> dict[str, list[float]]:
    """Returns the seconds that each took in each turn; who begins changes from turn to turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for contender in contenders.values():
        await contender.write(batch_rows, max(1, count // 4))  # to warm up
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(await contenders[name].write(batch_rows, count))
    return seconds

"""How many bytes go to the disk for one trace: an SD card's life is counted in them."""

from __future__ import annotations

import asyncio
from typing import Final

from benchmarks.contenders import Contender, Floor, Ours
from benchmarks.machine import file_system, written_bytes
from benchmarks.progress import scratch, tell
from benchmarks.records import template
from benchmarks.report import Line, Section
from benchmarks.stats import Spread
from hearthnet.constants import TRACE_RING_BUFFER

__all__ = ["wear"]

# Rows a commit, and commits a turn: many checkpoints are in a turn, so that their share is even.
_PACES: Final = {1_000: 100, 20: 1_000}
_NAMES: Final = {1_000: "busy: 1,000 traces a commit", 20: "at home: 20 traces a commit"}


def wear(is_quick: bool) -> Section:
    """Returns the bytes written a trace, as the kernel counts them for this process; no lines where it does not."""
    section = Section("written to disk for one trace", "bare sqlite3")
    if written_bytes() is None:
        section.notes.append("not measured: this system does not count what a process writes")
        return section
    return asyncio.run(_wear(section, 1 if is_quick else 3))


async def _wear(section: Section, turns: int) -> Section:
    with scratch() as folder:
        record = template()
        ours = Ours(folder / "ours.db", record, TRACE_RING_BUFFER)
        floor = Floor(folder / "floor.db", record, TRACE_RING_BUFFER)
        await ours.open()
        try:
            for batch_rows, count in _PACES.items():
                tell(f"wear: {_NAMES[batch_rows]}")
                pairs = [
                    (await _cost(ours, batch_rows, count), await _cost(floor, batch_rows, count)) for _ in range(turns)
                ]
                section.lines.append(_line(_NAMES[batch_rows], *map(list, zip(*pairs, strict=True))))
        finally:
            await ours.close()
            await floor.close()
        kind = file_system(folder)
    row = sum(len(str(value)) for value in record)
    section.notes.append(f"{kind}; ring full; a row's values take about {row} bytes")
    if not any(line.measured.median for line in section.lines):
        section.notes.append("nothing reached a disk: the folder for temporary files is in memory")
    return section


async def _cost(contender: Contender, batch_rows: int, count: int) -> float:
    """Returns the bytes a trace that a turn had written."""
    before = written_bytes() or 0
    await contender.write(batch_rows, count)
    return ((written_bytes() or 0) - before) / (batch_rows * count)


def _line(name: str, ours: list[float], floor: list[float]) -> Line:
    ratio = Spread.of_ratios(ours, floor) if all(floor) else None
    return Line(name, Spread.of(ours), "bytes", Spread.of(floor), ratio)

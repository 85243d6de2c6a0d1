"""Checks of the machine: its disk and its clock."""

from __future__ import annotations

import shutil
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import httpx

from hearthnet.bus.bus import CapabilityBus
from hearthnet.checks.finding import found, skipped
from hearthnet.config import Config
from hearthnet.observability.doctor import CheckResult

__all__ = ["clock_sanity", "disk_space"]

MIN_FREE_BYTES: Final = 1_000_000_000
MAX_CLOCK_OFFSET_S: Final = 60.0
_ANCHOR_TIMEOUT_S: Final = 1.0  # four anchors that swallow packets must fit into the check's deadline


def disk_space(config: Config, _: CapabilityBus | None) -> CheckResult:
    """1 GB free or more where our files lie."""
    data_dir = config.observability.data_dir or Path.home()
    while not data_dir.exists():
        data_dir = data_dir.parent
    free = shutil.disk_usage(data_dir).free
    detail = f"{free / 1e9:.1f} GB free at {data_dir}"
    return found(free >= MIN_FREE_BYTES, detail, f"du -xh --max-depth=2 {data_dir} | sort -h", free_bytes=free)


def clock_sanity(config: Config, _: CapabilityBus | None) -> CheckResult:
    """The clock is within 60 s of an anchor that is reachable over HTTP."""
    for target in config.emergency.probe_targets:
        try:
            started = time.time()
            answer = httpx.head(f"http://{target}/", timeout=_ANCHOR_TIMEOUT_S, trust_env=False)
            anchor_s = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (httpx.HTTPError, KeyError, ValueError):
            continue
        offset_s = (started + time.time()) / 2 - anchor_s
        detail = f"{offset_s:+.1f} s against {target}"
        return found(abs(offset_s) <= MAX_CLOCK_OFFSET_S, detail, "sudo timedatectl set-ntp true", offset_s=offset_s)
    return skipped("no anchor answers: the internet is down, or none is configured")

"""A real node called at four times its capacity: it refuses the excess, and serves the rest as usual."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import orjson
import overload
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import forkserver

from hearthnet.config import load, save

ROOT = Path(__file__).parent.parent.parent


async def test_overload(stopped_node):
    """Accepted calls stay correct and fast, refused ones get a time to retry, and all of it is counted."""
    node, config = stopped_node, load()
    save(config.model_copy(update={"transport": overload.with_room(config.transport)}))
    node.start()
    figures = await overload.overload(node, seconds=1.0, probe_calls=400, share=0.5)  # others use the machine too

    refused = figures["refused 429 capacity_exceeded"]
    assert refused > 0
    assert not [name for name in figures if name.startswith(("refused 401", "refused 5"))]
    # In an unbounded queue every connection would wait, as long as it takes to serve one call of each.
    assert figures["accepted_p50_ms"] < 0.6 * 1_000 * overload.PACED_CONNECTIONS / figures["accepted_per_s"]
    assert figures["rss_after_mb"] - figures["rss_before_mb"] < 50
    page = node.get("/metrics").text
    counts = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    # Probes are refused at times too, where the machine is otherwise busy.
    assert counts["hearthnet_rate_limited_total", "other", "overload"] >= refused
    assert counts["hearthnet_requests_total", "other", "capacity_exceeded"] >= refused
    served = counts["hearthnet_requests_total", "experimental.echo", "ok"]
    assert served >= figures["accepted_per_s"] * 0.9
    assert node.stop() == 0
    lines = [line for line in node.log_lines() if line["msg"] == "calls refused"]
    assert 1 <= len(lines) <= 60  # one a second at most
    assert {line["reason"] for line in lines if "reason" in line} == {"overload"}


@pytest.mark.long
def test_soak_prints_its_figures(home):
    """The soak runs on its own and prints one document."""
    script = [sys.executable, ROOT / "tests" / "e2e" / "overload.py"]
    done = forkserver.run(
        [*script, "--seconds", "0.3", "--probe-calls", "100", "--share", "0.1", "--json"],  # others use the machine too
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])},
        check=True,
    )

    found = orjson.loads(done.stdout)
    assert (found["wrong"], found["lost"], found["exit_code"]) == (0, 0, 0)

"""All checks together."""

from __future__ import annotations

from hearthnet import checks
from hearthnet.observability import doctor


def test_doctor_all_pass_on_default_config(node):
    """On a new node every check is ok, from disk and with a bus."""
    config, bus = node
    for results in (doctor.run_all(config, bus, deadline_s=60), doctor.run_all(config, deadline_s=60)):
        assert [result.name for result in results] == doctor.names()
        assert len(results) == len(checks.ALL)
        assert [(result.name, result.detail) for result in results if not result.ok] == []

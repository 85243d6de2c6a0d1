"""Metrics of a program that nothing scrapes, for the textfile collector of node_exporter."""

from __future__ import annotations

import stat
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hearthnet.observability import metrics


@pytest.fixture
def jobs():
    """A metric of a program, on the page."""
    metrics.configure(SimpleNamespace(metrics_enabled=True))
    yield metrics.gauge("test_textfile_last_success_seconds", "When it last ended well.")
    metrics._instruments.pop("test_textfile_last_success_seconds")


def test_own_metrics_are_in_the_file(jobs, tmp_path):
    """Not HearthNet's or the process's: other programs have those too, and the collector refuses a series twice."""
    path = tmp_path / "nightly.prom"
    path.write_text("old")
    jobs.set(1.5)

    assert metrics.write_textfile(path) is True

    families = {family.name: family for family in text_string_to_metric_families(path.read_text())}
    assert families["test_textfile_last_success_seconds"].samples[0].value == 1.5
    assert families["test_textfile_last_success_seconds"].samples[0].timestamp is None
    assert [name for name in families if name.startswith(("hearthnet_", "process_", "python_"))] == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [found.name for found in tmp_path.iterdir()] == ["nightly.prom"]


@pytest.mark.parametrize("path", ["{}/nightly.txt", "{}/missing/nightly.prom", "{}", None, b"\x00.prom"])
def test_file_that_cannot_be_written(jobs, tmp_path, path, logged):
    """Is logged, and the program goes on."""
    given = path.format(tmp_path) if isinstance(path, str) else path

    assert metrics.write_textfile(given) is False

    assert [record.getMessage() for record in logged] == ["metrics cannot be written"]
    assert list(tmp_path.iterdir()) == []


def test_name_that_is_a_folder(jobs, tmp_path):
    """Nothing stays of the attempt."""
    (tmp_path / "x.prom").mkdir()

    assert metrics.write_textfile(tmp_path / "x.prom") is False

    assert [found.name for found in tmp_path.iterdir()] == ["x.prom"]


def test_metrics_that_are_off(tmp_path):
    """There is nothing to write, and an old file stays."""
    path = tmp_path / "x.prom"
    path.write_text("old")

    assert metrics.write_textfile(path) is False
    assert path.read_text() == "old"

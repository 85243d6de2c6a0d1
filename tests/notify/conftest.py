"""The state of the messages, in places of a test's own."""

from __future__ import annotations

import pytest

from hearthnet.notify import kept


@pytest.fixture(autouse=True)
def no_other_place(home, monkeypatch):
    """The machine's folders in memory are shared: a doctor that another test runs would hold their lock."""
    monkeypatch.setattr(kept, "UNIT_FOLDER", home / "unit")
    monkeypatch.setattr(kept, "MEMORY", home / "memory")
    kept.MEMORY.mkdir(mode=0o700)

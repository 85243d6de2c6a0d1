"""Fixture: a browser for the tests of this folder and of those below it."""

from __future__ import annotations

import pytest
from support.browser import chromium


@pytest.fixture(scope="package")
def browser():
    """One browser for all of them: to start it costs more than most tests."""
    with chromium() as started:
        yield started

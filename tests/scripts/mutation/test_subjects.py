"""The table of what is changed is true."""

from __future__ import annotations

import pytest
from mutation import subjects


@pytest.mark.parametrize("name", subjects.SUBJECTS)
def test_table_names_modules_and_tests_that_exist(name):
    """Also a module that was renamed would have no survivors."""
    subject = subjects.SUBJECTS[name]

    for module in subject.modules:
        assert (subjects.ROOT / subjects.PACKAGE / module).is_file(), module
    for tests in subject.tests:
        assert (subjects.ROOT / subjects.TESTS / tests).exists(), tests
    assert subject.modules


def test_every_module_of_recovery_is_in_the_table():
    """A folder that is listed by name must be listed in full."""
    package = subjects.ROOT / subjects.PACKAGE
    listed = {package / module for subject in subjects.SUBJECTS.values() for module in subject.modules}
    modules = set((package / "store/recovery").glob("*.py"))

    assert {path.name for path in modules - listed} == {"__init__.py"}

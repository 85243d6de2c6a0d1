"""How much of what there is to try the suite tries: `scripts/soak long` and `scripts/soak properties` try all of it.

@pytest.mark.parametrize("kind", few(KINDS, "pipe", "folder"))
@pytest.mark.parametrize(("text", "found"), few(CASES, every=8))
@settings(max_examples=examples(4))
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings


def few(values: Iterable[Any], *kept: Any, every: int = 0) -> list[Any]:
    """Returns the values, marked as `long` but for those that are kept: some by name, or one in `every`.

    A value of a test with several parameters is a tuple; what is kept of these is named by their first.
    """
    given = list(values)
    names = [value[0] if isinstance(value, tuple) else value for value in given]
    is_kept = [name in kept or (every > 0 and place % every == 0) for place, name in enumerate(names)]
    assert any(is_kept), "the suite has none"
    assert all(name in names for name in kept), "a value that is kept is not there"
    return [
        value if stays else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.long)
        for value, stays in zip(given, is_kept, strict=True)
    ]


def examples(times: float) -> int:
    """Returns how many examples to try of a property that needs so many times the usual number."""
    return int(settings.default.max_examples * times)

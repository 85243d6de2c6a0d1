"""The palette: every colour of text and of shapes can be seen on its backgrounds, in both looks."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

BLOCKS = re.findall(
    r":root \{(.*?)\}", (files("hearthnet.forensics.report") / "draw" / "draw.css").read_text(), re.DOTALL
)
COLOURS = [dict(re.findall(r"--(\w+): #(\w+);", block)) for block in BLOCKS]
TEXT = ("ink", "soft", "ok", "bad", "warn", "accent", "open")
SHAPES = ("edge", "span", "span2", "log")


def luminance(colour):
    """The relative luminance of a colour in hexadecimal."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    """The contrast of two colours, 1 to 21."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("look", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(look):
    """At least 4.5 for text, 3 for shapes, on panels and on the page."""
    colours = COLOURS[look]
    for names, least in ((TEXT, 4.5), (SHAPES, 3.0)):
        for name in names:
            found = min(contrast(colours[name], colours[ground]) for ground in ("bg", "panel"))
            assert found >= least, (name, round(found, 2))


def test_forced_colours_are_the_systems():
    """Each colour of the palette is replaced by one of the system."""
    names = set(re.findall(r"--(\w+): (?:Canvas|CanvasText|GrayText|Highlight);", BLOCKS[2]))

    assert names == set(COLOURS[0]) == set(COLOURS[1])

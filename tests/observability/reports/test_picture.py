"""A trace as a picture: static, escaped, with every span."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from support.web import only

from hearthnet.observability import trace
from hearthnet.observability.reports.picture import picture

HOSTILE = "<script>alert(1)</script>&'\"\x1b[31m\u202e"


def svg_of(html):
    """The SVG in it, parsed."""
    return ET.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])


def test_spans_are_bars():
    """Each after its parent, within the picture; what failed has another colour."""
    with trace.new_trace("shop.order") as made:
        with trace.span("load"), trace.span("read"):
            pass
        with pytest.raises(ValueError, match="no"), trace.span("pay", amount=3):
            raise ValueError("no")
    html = only()._repr_html_()
    svg = svg_of(html)

    names = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert [name for name in names if not name.endswith("ms")] == ["load", "read", "pay"]
    bars = [element.attrib for element in svg.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars[0]["fill"] == bars[1]["fill"] != bars[2]["fill"]
    assert all(float(bar["x"]) + float(bar["width"]) <= float(svg.get("width")) for bar in bars)
    assert made.trace_id in html
    assert "amount = 3" in html
    assert "<script" not in html


def test_hostile_text_is_escaped():
    """In names, fields and errors."""
    with pytest.raises(ValueError, match="script"), trace.new_trace(HOSTILE), trace.span(HOSTILE, field=HOSTILE):
        raise ValueError(HOSTILE)

    html = picture(only())

    assert "<script" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert len(list(svg_of(html).iter("{http://www.w3.org/2000/svg}rect"))) == 1


def test_trace_that_has_not_ended_or_has_no_spans():
    """Has a picture, too."""
    running = trace.new_trace("shop.order")
    with trace.span("load"):
        assert "running" in picture(running)
        assert "aria-label='1 span'" in picture(running)
        assert len(list(svg_of(picture(running)).iter("{http://www.w3.org/2000/svg}rect"))) == 1
    trace.detach()
    with trace.new_trace("empty"):
        pass

    assert "shop.order" in picture(running)

"""The real node of the end-to-end tests."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_SPEC = spec_from_file_location("nodes_of_e2e", Path(__file__).parent.parent / "e2e" / "conftest.py")
_NODES = module_from_spec(_SPEC)
_SPEC.loader.exec_module(_NODES)

stopped_node = _NODES.stopped_node
node = _NODES.node

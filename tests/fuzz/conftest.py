"""The real node of the end-to-end tests."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_FOLDER = Path(__file__).parent.parent / "e2e"
sys.path.append(str(_FOLDER))  # its modules import each other, also where no test of theirs is collected
# By its file: this module has the name `conftest` here.
_SPEC = spec_from_file_location("nodes_of_e2e", _FOLDER / "conftest.py")
_NODES = module_from_spec(_SPEC)
_SPEC.loader.exec_module(_NODES)

stopped_node = _NODES.stopped_node
node = _NODES.node

#!/usr/bin/env python3
"""Finds how a node's run ended. Needs a bare Python 3.11, and the folder `hearthnet` in or beside this script's folder.

python3 -I -S scripts/forensics.py /path/to/copied/files
"""

import sys
from pathlib import Path

sys.dont_write_bytecode = True  # the folder may be evidence, or read-only
if sys.version_info < (3, 11):  # noqa: UP036  # runs without installation, so pip has not checked this
    sys.exit("error: Python 3.11 or newer is needed")

_here = Path(__file__).resolve().parent
_home = next((folder for folder in (_here, _here.parent) if (folder / "hearthnet" / "forensics").is_dir()), None)
if _home is None:
    sys.exit(f"error: the folder hearthnet/forensics is neither in {_here} nor beside it")
sys.path.insert(0, str(_home))

from hearthnet.forensics.main import main  # noqa: E402  # found by the lines above

sys.exit(main())

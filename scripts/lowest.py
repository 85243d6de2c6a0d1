"""Prints the lower bounds of pyproject.toml as exact requirements, or checks that they are what is installed.

    scripts/lowest.py               name==version, a line for each dependency of the package, its extras and `test`
    scripts/lowest.py --installed   fails where this environment has another version

schemathesis, datasette and mcp are not there: they need newer versions of other packages.
"""

import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
extras = project["optional-dependencies"]
wanted = [*project["dependencies"], *(line for name in ("node", "otel", "otlp", "test") for line in extras[name])]
wanted = [line for line in dict.fromkeys(wanted) if not line.startswith(("hearthnet", "schemathesis"))]
bounds = dict(re.findall(r"^([\w.-]+)>=([\d.]+)", "\n".join(wanted), re.MULTILINE))
if len(bounds) != len(wanted):
    sys.exit(f"error: {len(wanted) - len(bounds)} dependencies have no lower bound")
if "--installed" not in sys.argv:
    print("\n".join(f"{name}=={bound}" for name, bound in bounds.items()))
    sys.exit()


def numbers(text: str) -> list[int]:
    """Returns the parts of a version, without zeros at its end: 4 is 4.0.0."""
    return [int(part) for part in re.sub(r"(\.0+)*$", "", text).split(".")]


others = {name: version(name) for name, bound in bounds.items() if numbers(version(name)) != numbers(bound)}
if others:
    sys.exit(f"error: not the lower bound: {others}")

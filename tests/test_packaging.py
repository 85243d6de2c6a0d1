"""A wheel is complete: migrations and scripts are where the code looks for them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hearthnet.tools.files import FILES

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from the source tree."""
    target = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(target.glob("*.whl"))


def test_wheel_has_the_migrations_and_the_types(wheel):
    """The wheel has every migration, `py.typed`, the schema of the doctor's report, and what pages consist of."""
    names = set(zipfile.ZipFile(wheel).namelist())
    migrations = {path.relative_to(ROOT / "migrations").as_posix() for path in (ROOT / "migrations").rglob("*.sql")}

    assert migrations
    assert {f"hearthnet/_migrations/{name}" for name in migrations} <= names
    assert {"hearthnet/py.typed", "hearthnet/schemas/doctor.json"} <= names
    assert not any(name.startswith("tests") for name in names)
    tools = {f"hearthnet/tools/{file.name}" for file in FILES.values()}
    assert tools <= names
    shown = [*(ROOT / "hearthnet").rglob("*.js"), *(ROOT / "hearthnet").rglob("*.css")]
    assert "hearthnet/forensics/report/draw/waterfall.js" in names
    assert {path.relative_to(ROOT).as_posix() for path in shown} <= names


def test_package_runs_from_a_zip_file(wheel, tmp_path):
    """As a zipapp has it: the store is opened, and the files of pages and tools are found."""
    script = f"""
import sys
sys.path.insert(0, {str(wheel)!r})
import hearthnet
from hearthnet import get_recent, telemetry, trace
from hearthnet.forensics.main import SCHEMA, packaged
from hearthnet.forensics.report.page_parts import script, style
from hearthnet.observability.store.query.relations import questions
from hearthnet.tools.files import FILES
assert hearthnet.__file__.startswith({str(wheel)!r}), hearthnet.__file__
with telemetry.open("runs") as opened, trace("work"):
    print(opened.error)
print([one.capability for one in get_recent(1)])
print(all([script(), style(), questions(), packaged(SCHEMA), *[file.text() for file in FILES.values()]]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert done.stdout.splitlines() == ["None", "['work']", "True"]


def test_installed_wheel_makes_a_database(wheel, tmp_path):
    """Unpacked without the source tree beside it, the package opens a store."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
from pathlib import Path
import hearthnet
from hearthnet.database import TELEMETRY, migrations_dir, open_database
assert Path(hearthnet.__file__).is_relative_to({str(tmp_path)!r}), hearthnet.__file__
assert migrations_dir().name == "_migrations"
connection = open_database(Path({str(tmp_path / "t.db")!r}), TELEMETRY)
print(connection.execute("SELECT count(*) FROM timeline").fetchone())
connection.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert done.stdout == "(0,)\n"

"""All checks together."""

from __future__ import annotations

import shutil
import sys
import threading

import pytest
from support.limits import no_file_left

from hearthnet import checks
from hearthnet.cli.main import main
from hearthnet.observability import doctor, telemetry


def test_doctor_all_pass_on_default_config(node):
    """On a new node every check is ok, from disk and with a bus."""
    config, bus = node
    for results in (doctor.run_all(config, bus, deadline_s=60), doctor.run_all(config, deadline_s=60)):
        assert [result.name for result in results] == doctor.names()
        assert len(results) == len(checks.ALL)
        assert [(result.name, result.detail) for result in results if not result.ok] == []


def test_process_without_a_file_left_blames_nothing_else(node):
    """A port that is free, an event log that is whole and its folder's modes are no fault of `ulimit -n`."""
    config, bus = node
    with telemetry.open(config.observability):
        pass
    doctor.run_all(config, bus, deadline_s=60)  # what is imported late is there
    with no_file_left():
        results = [doctor.run_one(name, config, bus) for name in doctor.names()]

    failed = {result.name: result for result in results if not result.ok}
    assert {"telemetry_store", "transport_port", "last_run"} <= failed.keys()
    for name, result in failed.items():
        assert "open no more files" in result.detail or "Too many open files" in result.detail, (name, result.detail)
        assert "chmod" not in result.fix, (name, result.fix)
        assert "address" not in result.fix, (name, result.fix)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package with these entry points and this module `acme_checks`."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def install(points: str, module: str = "") -> None:
        info = tmp_path / "site" / "acme-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{checks.GROUP}]\n{points}\n")
        (tmp_path / "site" / "acme_checks.py").write_text(module)
        monkeypatch.setattr(doctor, "_checks", {})
        monkeypatch.setattr(doctor, "_is_standard_known", threading.Event())

    yield install
    sys.modules.pop("acme_checks", None)
    shutil.rmtree(tmp_path / "site", ignore_errors=True)


GOOD = """
from hearthnet.observability.doctor import CheckResult

def well(config, bus):
    return CheckResult("", ok=True, detail=f"bus: {bus}, port {config.transport.port}")
"""


def test_other_package_adds_a_check(package, config, capsys):
    """It is among the others, by its name, with the settings; --list says whose it is."""
    package("acme_well = acme_checks:well", GOOD)

    assert doctor.names() == [*(check.__name__ for check in checks.ALL), "acme_well"]
    result = doctor.run_one("acme_well", config)
    assert (result.name, result.status, result.detail) == ("acme_well", "pass", "bus: None, port 7080")
    with pytest.raises(SystemExit, match="0"):
        main(["doctor", "--list"])
    assert "acme_well" in (listed := capsys.readouterr().out)
    assert "A check of acme: acme_checks:well." in listed


@pytest.mark.parametrize(
    ("point", "module", "said"),
    [
        ("acme = acme_checks:gone", "", "AttributeError"),
        ("acme = acme_nowhere:check", "", "No module named 'acme_nowhere'"),
        ("acme = acme_checks:well", "raise RuntimeError('at import')", "RuntimeError: at import"),
        ("acme = acme_checks:well", "import sys\nsys.exit(3)", "SystemExit"),
        ("acme = acme_checks:well", "def well(config): return None", "TypeError"),
        ("acme = acme_checks:well", "def well(config, bus): return 'fine'", "returned str, no CheckResult"),
        ("acme = acme_checks:well", "well = 5", "TypeError"),
        ("acme = acme_checks:well", "def well(:", "SyntaxError"),
    ],
)
def test_broken_check_of_another_package_is_its_own_finding(package, config, point, module, said):
    """The others are as they were."""
    package(point, module)

    results = {result.name: result for result in doctor.run_all(config, only=["acme", "keys_present"], deadline_s=60)}
    assert (results["acme"].ok, said in results["acme"].detail) == (False, True), results["acme"].detail
    assert "no device key" in results["keys_present"].detail


def test_check_with_a_name_that_is_taken_does_not_replace_ours(package, config):
    """It is told, under its package's name."""
    package("disk_space = acme_checks:well", GOOD)

    assert doctor.run_one("disk_space", config).detail != "bus: None, port 7080"
    result = doctor.run_one("acme.disk_space", config)
    assert not result.ok
    assert "acme adds a check named disk_space" in result.detail


def test_metadata_that_cannot_be_read_is_a_finding(package, config, monkeypatch):
    """All other checks are run."""

    def damaged() -> None:
        raise ValueError("bad metadata")

    package("")
    monkeypatch.setattr(checks, "_entry_points", damaged)

    assert doctor.names() == [*(check.__name__ for check in checks.ALL), checks.GROUP]
    assert "ValueError: bad metadata" in doctor.run_one(checks.GROUP, config).detail

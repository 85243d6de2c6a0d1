"""The check of file modes; each fix is run in a shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hearthnet.config import save
from hearthnet.files import create_private
from hearthnet.observability import doctor, get_logger, telemetry, trace
from hearthnet.observability.otel.export.status import FILE as STATUS_FILE
from hearthnet.observability.otel.export.status import LOCK_FILE, write_status
from hearthnet.observability.process.fault_file import FaultFile
from hearthnet.observability.reports.report_file import MEMORY_FILE, recall, remember
from hearthnet.transport.page.grants import GRANTS_FILE, Grants


@pytest.fixture
def written(node):
    """The settings of a node that has written each kind of file."""
    config, _ = node
    data_dir = config.observability.data_dir
    save(config)
    with FaultFile(data_dir), telemetry.open(config.observability), trace.new_trace("a.b"):
        get_logger("hearthnet.test").warning("hello")
    report = {"ts": "2026-05-26T08:14:22.281Z", "program": "1", "source": "disk", "ok": True, "checks": []}
    remember(data_dir, report)
    assert len(recall(data_dir)) == 1
    Grants(data_dir).offer()
    write_status(data_dir, {})
    os.close(create_private(data_dir / LOCK_FILE))
    return config


def check(config):
    """Runs the check."""
    return doctor.run_one("file_modes", config)


def tree(config) -> dict[Path, int]:
    """All files and folders of the node with their modes."""
    roots = (config.observability.data_dir, config.observability.log_dir)
    return {path: path.stat().st_mode & 0o7777 for root in roots for path in (root, *root.rglob("*"))}


def test_all_that_a_node_writes_is_for_its_owner_alone(written):
    """Key, store, boxes, logs, reports, community and settings are all checked, and pass."""
    result = check(written)

    assert (result.status, result.evidence["deviations"]) == ("pass", [])
    modes = tree(written)
    assert {mode for path, mode in modes.items() if path.name != "device.pub"} == {0o600, 0o700}
    assert result.evidence["looked_at"] == len(modes) + 1  # and the settings


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_file_that_others_may_use_fails(written, mode):
    """Any deviating file is named with its mode, and the fix corrects it."""
    data_dir = written.observability.data_dir
    names = ("telemetry.db", "telemetry.lock", MEMORY_FILE, GRANTS_FILE, STATUS_FILE, LOCK_FILE, "keys/device.ed25519")
    paths = [data_dir / name for name in names]
    paths += [*data_dir.glob("communities/*/events.sqlite"), *written.observability.log_dir.glob("*.log")]
    assert len(paths) == 9
    for path in paths:
        path.chmod(mode)
        result = check(written)
        assert (result.status, result.ok) == ("fail", False)
        assert result.detail == f"{path} has mode {mode:04o}, not 0600"
        assert result.fix == f"chmod 600 {path}"
        subprocess.run(result.fix, shell=True, check=True)
        assert check(written).status == "pass"


def test_what_opens_nothing_that_is_recorded_is_a_warning(written, home):
    """A loose folder of private files, loose settings, and a file too restrictive warn."""
    data_dir = written.observability.data_dir
    settings = home / ".config" / "hearthnet" / "config.toml"
    for path, mode in ((data_dir / "keys", 0o750), (settings, 0o640), (data_dir / "telemetry.lock", 0o400)):
        path.chmod(mode)
        result = check(written)
        assert (result.status, result.ok) == ("warn", True)
        assert f"{path} has mode {mode:04o}" in result.detail
        subprocess.run(result.fix, shell=True, check=True)
        assert check(written).status == "pass"


def test_many_deviations_are_bounded_and_fixed_step_by_step(written):
    """All deviations are counted, worst first; the report lists some, and each fix ends with the next check."""
    folder = next(written.community.state_dir.iterdir()) / "a folder; with 'odd' $(name)"
    folder.mkdir(mode=0o755)
    for number in range(30):
        (folder / f"{number}.json").write_text("{}")
        (folder / f"{number}.json").chmod(0o644)
    folder.chmod(0o755)
    result = check(written)

    assert (result.status, result.evidence["count"], result.evidence["loose"]) == ("fail", 31, 31)
    assert len(result.evidence["deviations"]) == 20
    assert result.evidence["deviations"][0]["is_open"]
    assert len(result.fix) < 2_048
    for _ in range(4):
        assert check(written).status in ("fail", "warn")
        subprocess.run(
            check(written).fix.replace("hearthnet doctor --check file_modes", "true"), shell=True, check=True
        )
    assert check(written).status == "pass"


def test_links_and_what_is_not_ours_stay_out(written, tmp_path):
    """Links are not followed, and a shared folder is not reported."""
    shared = tmp_path / "var log"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    (shared / "syslog").write_text("")
    (shared / "2026-01-02.log").write_text("")
    (shared / "2026-01-02.log").chmod(0o600)
    public = tmp_path / "public"
    public.write_text("")
    public.chmod(0o666)
    (written.identity.keys_dir / "link").symlink_to(public)
    observability = written.observability.model_copy(update={"log_dir": shared})
    config = written.model_copy(update={"observability": observability})
    assert check(config).status == "pass"

    (shared / "2026-01-02.log").chmod(0o644)
    assert [item["path"] for item in check(config).evidence["deviations"]] == [str(shared / "2026-01-02.log")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_file_of_another_owner_is_a_warning(written):
    """Files left by a node run with `sudo` are reported."""
    path = written.observability.data_dir / "telemetry.db"
    os.chown(path, 12_345, 12_345)
    result = check(written)

    assert (result.status, result.evidence["deviations"][0]["uid"]) == ("warn", 12_345)
    assert f"{path} belongs to uid 12345" in result.detail
    subprocess.run(result.fix.replace("sudo ", ""), shell=True, check=True)
    assert check(written).status == "pass"


def test_node_that_was_never_set_up_passes(config):
    """Without files the check passes."""
    assert (check(config).status, check(config).evidence["looked_at"]) == ("pass", 0)

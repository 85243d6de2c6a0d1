"""`hearthnet doctor --fix` and `--bundle` as run by people and scripts."""

from __future__ import annotations

import json
import zipfile


def test_fix_shows_its_plan_repairs_and_checks_again(stopped_node):
    """--dry-run changes nothing; without a terminal --yes is required; it repairs, and then nothing is left to do."""
    key = stopped_node.keys and stopped_node.data_dir / "keys" / "device.ed25519"
    key.chmod(0o644)

    shown = stopped_node.cli("doctor", "--fix", "--dry-run")
    assert shown.returncode == 1
    assert f"set the mode of {key} from 0644 to 0600" in shown.stdout
    assert f"undo: chmod 0644 {key}" in shown.stdout
    assert key.stat().st_mode & 0o777 == 0o644

    asked = stopped_node.cli("doctor", "--fix", input="")
    assert (asked.returncode, key.stat().st_mode & 0o777) == (2, 0o644)
    assert "--yes" in asked.stderr

    mended = stopped_node.cli("doctor", "--fix", "--yes")
    assert (mended.returncode, key.stat().st_mode & 0o777) == (0, 0o600)
    assert "keys_present: fail -> pass" in mended.stdout

    again = stopped_node.cli("doctor", "--fix", "--yes", "--json")
    document = json.loads(again.stdout)
    assert (again.returncode, document["plan"], document["outcomes"]) == (0, [], [])
    assert {check["status"] for check in document["checks"]} <= {"pass", "skip", "warn"}


def test_bundle_of_a_running_node(node, tmp_path):
    """The bundle lists its files, has the present run, and is not overwritten by accident."""
    assert node.echo("a secret recipe").status_code == 200
    path = tmp_path / "bundle.zip"

    assert node.cli("doctor", "--bundle", str(path), input="").returncode == 2
    made = node.cli("doctor", "--bundle", str(path), "--yes")
    assert made.returncode == 0, made.stderr
    assert "nothing was sent anywhere" in made.stdout
    with zipfile.ZipFile(path) as packed:
        content = {name.rpartition("/")[2]: packed.read(name) for name in packed.namelist()}
    (calls,) = json.loads(content["calls.json"])["present"]
    assert (calls["kind"], calls["results"]) == ("experimental.echo", {"ok": 1})
    assert json.loads(content["runs.json"])["present"]["verdict"] == "running"
    assert json.loads(content["doctor.json"])["source"] == "node"
    whole = b"".join(content.values())
    for private in (node.keys.node_id.encode(), str(node.data_dir).encode(), b"recipe"):
        assert private not in whole

    nowhere = node.cli("doctor", "--bundle", "/proc/bundle.zip", "--yes")
    assert nowhere.returncode == 1
    assert "error: /proc/bundle.zip cannot be written" in nowhere.stderr
    refused = node.cli("doctor", "--bundle", str(path), "--yes")
    assert (refused.returncode, "--force" in refused.stderr) == (2, True)
    listed = json.loads(node.cli("doctor", "--bundle", str(path), "--yes", "--force", "--json").stdout)
    assert {part["name"] for part in listed["parts"]} == set(content)


def test_options_that_exclude_each_other_are_refused(stopped_node):
    """Inconsistent options are refused before anything is checked or changed."""
    for wrong in (("--dry-run",), ("--fix", "--bundle", "x.zip")):
        done = stopped_node.cli("doctor", *wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--fix" in done.stderr
    assert not (stopped_node.data_dir / "doctor.jsonl").exists()


def test_what_cannot_be_repaired_is_listed_with_its_fix(stopped_node):
    """So nothing has to be looked up."""
    key = stopped_node.data_dir / "keys" / "device.ed25519"
    key.rename(key.with_name("away"))

    shown = stopped_node.cli("doctor", "--check", "keys_present", "--fix", "--yes")

    assert shown.returncode == 1
    assert "repaired automatically; to fix by hand:\n  keys_present: hearthnet init\n" in shown.stdout

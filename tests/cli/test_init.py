"""`hearthnet init`: the settings that a profile writes."""

from __future__ import annotations

import tomllib

import pytest

from hearthnet.cli.main import _run
from hearthnet.config import default_path, load
from hearthnet.config_sections import PROFILES
from hearthnet.observability.store.budget import Budget


@pytest.mark.parametrize("profile", PROFILES)
def test_profile_fits_its_machine(profile, capsys):
    """The file sets what the profile wants, whose community it is, and nothing else."""
    assert _run(["init", "--non-interactive", "--profile", profile]) == 0
    written = tomllib.loads(default_path().read_text("utf-8"))

    assert written["community"].keys() == {"community_id"}
    wanted = {name: values for name, values in written.items() if values and name != "community"}
    assert wanted == PROFILES[profile]
    assert load().observability.model_dump().items() >= PROFILES[profile].get("observability", {}).items()
    assert capsys.readouterr().err == ""


def test_small_machine_has_small_files():
    """A Raspberry Pi commits rarely, and its database and black boxes take half of what a laptop's may."""
    assert _run(["init", "--non-interactive", "--profile", "spark"]) == 0
    settings = load().observability
    small, usual = Budget(settings.max_disk_mb), Budget(256)

    assert settings.eco
    assert 2 * small.database == usual.database
    assert 2 * small.boxes == usual.boxes


def test_profile_of_a_node_that_exists_is_said_to_be_ignored(capsys):
    """With what to write into the file by hand."""
    assert _run(["init", "--non-interactive"]) == 0
    before = default_path().read_bytes()
    capsys.readouterr()

    assert _run(["init", "--profile", "spark"]) == 0
    assert capsys.readouterr().err == (
        f"note: --profile spark is ignored: {default_path()} exists:"
        " set [observability] eco = true, max_disk_mb = 128 there\n"
    )
    assert default_path().read_bytes() == before

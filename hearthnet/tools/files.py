"""The files, each by the name that `hearthnet tools` has for it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from hearthnet.files import packaged

__all__ = ["FILES", "ToolFile"]


class ToolFile(NamedTuple):
    """A file of this folder.

    Attributes:
        name: of the file.
        purpose: a sentence, in the imperative, of at most 70 characters.
        examples: commands that put it to use, each of at most 70 characters.
    """

    name: str
    purpose: str
    examples: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(__file__).with_name(self.name)

    def text(self) -> str:
        """Returns its content."""
        return packaged(f"tools/{self.name}")


FILES: Final = {
    "lnav": ToolFile(
        "lnav.json",
        "Print the format by which lnav reads the JSON logs.",
        ("hearthnet tools lnav --out hearthnet.json", "lnav -i hearthnet.json", 'lnav "$(hearthnet paths logs)"'),
    ),
    "prometheus": ToolFile(
        "prometheus.yml",
        "Print a configuration by which Prometheus scrapes nodes.",
        ("hearthnet tools prometheus --out prometheus.yml", "promtool check config prometheus.yml"),
    ),
    "alerts": ToolFile(
        "alerts.yml",
        "Print alert rules for Prometheus.",
        ("hearthnet tools alerts --out hearthnet-alerts.yml", "promtool check rules hearthnet-alerts.yml"),
    ),
    "grafana": ToolFile(
        "grafana.json",
        "Print a dashboard, to import in Grafana from a file.",
        ("hearthnet tools grafana --out hearthnet.json",),
    ),
}

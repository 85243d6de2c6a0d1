"""Prometheus takes the rules, the configuration and the dashboard's expressions; all name metrics that a node has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from hearthnet.observability import metrics
from hearthnet.tools.files import FILES
from hearthnet.transport.api import routes

FOLDER = Path(__file__).parent
RULES = yaml.safe_load(FILES["alerts"].text())["groups"][0]["rules"]
CASES = yaml.safe_load((FOLDER / "alerts_test.yml").read_text("utf-8"))["tests"]
DASHBOARD = json.loads(FILES["grafana"].text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# What Grafana replaces in an expression.
REPLACED = {"$__rate_interval": "1m", "$__range": "1h", "$job": ".*", "$instance": "a|b", "$capability": ".*"}
OF_PROMETHEUS = {"job", "instance", "le"}
OF_EACH_PROCESS = {
    "up", "process_start_time_seconds", "process_open_fds", "process_max_fds", "process_cpu_seconds_total",
    "process_resident_memory_bytes",
}  # fmt: skip
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here (on Debian: apt-get install prometheus)"
)


def promtool(*arguments: object) -> str:
    """Runs it, and returns what it says."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def expressions() -> list[str]:
    """Every expression of the dashboard as Prometheus gets it."""
    found = [target["expr"] for panel in PANELS for target in panel["targets"]]
    found += [note["expr"] for note in DASHBOARD["annotations"]["list"]]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found.append(re.fullmatch(r"label_values\((.+), \w+\)", variable["definition"])[1])
    for name, value in REPLACED.items():
        found = [expression.replace(name, value) for expression in found]
    return found


def wrong_names(expression: str) -> set[str]:
    """What an expression names that no node has: metrics, and labels that its metric lacks."""
    wrong = set()
    for name, matchers in re.findall(
        r"\b((?:hearthnet|process|up)\w*)\b(?:\{([^}]*)\})?", re.sub(r'"[^"]*"', '""', expression)
    ):
        if name in OF_EACH_PROCESS:
            continue
        declared = metrics._instruments.get(
            re.sub(r"_(bucket|count|sum|total)$", "", name)
        ) or metrics._instruments.get(name)
        if declared is None:
            wrong.add(name)
            continue
        labels = set(re.findall(r"(\w+)\s*[!=]~?", matchers))
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        wrong |= {f"{name}.{label}" for label in (labels | grouped) - OF_PROMETHEUS - set(declared.label_names)}
    return wrong


@needs_promtool
def test_rules_are_rules():
    """`promtool check rules`, and its tests of each alert."""
    promtool("check", "rules", FILES["alerts"].path)
    promtool("test", "rules", FOLDER / "alerts_test.yml")


def test_each_alert_has_a_case_that_fires_and_one_that_does_not():
    """So that none is too deaf or too loud unnoticed."""
    cases = [case for test in CASES for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in RULES}

    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names
    assert {case["alertname"] for case in CASES[0]["alert_rule_test"]} == names


@needs_promtool
def test_test_would_notice(tmp_path):
    """A rule that is never true, and one that always is, fail these cases."""
    cases = {"rule_files": ["alerts.yml"], "evaluation_interval": "30s", "tests": CASES[:2]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(cases))
    for wrong in ("up == 7", "up >= 0"):
        rules = [{**RULES[0], "expr": wrong}, *RULES[1:]]
        (tmp_path / "alerts.yml").write_text(yaml.safe_dump({"groups": [{"name": "hearthnet", "rules": rules}]}))
        done = subprocess.run(["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True)
        assert done.returncode != 0


@needs_promtool
def test_configuration_is_one(tmp_path):
    """With the rules beside it under the name that the help has."""
    (tmp_path / "prometheus.yml").write_text(FILES["prometheus"].text())
    (tmp_path / "hearthnet-alerts.yml").write_text(FILES["alerts"].text())

    assert f"{len(RULES)} rules found" in promtool("check", "config", tmp_path / "prometheus.yml")


@needs_promtool
def test_each_expression_of_the_dashboard_parses(tmp_path):
    """As Grafana sends it, in Prometheus's own parser."""
    rules = [{"record": f"panel_{number}", "expr": expression} for number, expression in enumerate(expressions())]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    assert f"{len(rules)} rules found" in promtool("check", "rules", path)
    assert "$" not in path.read_text()


def test_names_are_those_of_a_node():
    """Metrics and labels of rules and dashboard exist."""
    assert routes.operations  # its import declares metrics
    asked = expressions() + [rule["expr"] for rule in RULES]

    assert {name for expression in asked for name in wrong_names(expression)} == set()
    assert wrong_names('rate(hearthnet_requests_total{colour="red"}[1m])') == {"hearthnet_requests_total.colour"}
    assert wrong_names("hearthnet_nonsense > 1") == {"hearthnet_nonsense"}


def test_panels_do_not_overlap():
    """Each has a number, a title, a unit, and a place of its own within 24 columns."""
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert taken.isdisjoint(cells), panel["title"]
        taken |= cells
    rows = [panel["gridPos"]["y"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert all(above < below for above, below in pairwise(rows))


def test_dashboard_is_for_several_nodes_and_any_prometheus():
    """Every panel follows the variables; none names a data source of its own."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}

    assert {name for name, variable in variables.items() if variable.get("multi")} == {"job", "instance", "capability"}
    for panel in PANELS:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert 'instance=~"$instance"' in target["expr"]
            assert 'job=~"$job"' in target["expr"]

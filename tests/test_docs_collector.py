"""The Collector's configuration in the documents: what it names exists, by the keys that the Collector documents.

A Collector itself is in no package registry that the tests use, so nothing here has run one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

PAGE = Path(__file__).parent.parent / "docs" / "opentelemetry.md"
QUEUE = {"sending_queue": {"storage": str}}
# Of the keys that each component has, those of use here, with the type of their value.
KEYS: dict[str, dict[str, Any]] = {
    "receivers.otlp": {"protocols": {"http": {"endpoint": str}, "grpc": {"endpoint": str}}},
    "extensions.file_storage": {"directory": str, "timeout": str},
    "exporters.clickhouse": {"endpoint": str, "database": str, "create_schema": bool, "ttl": str, **QUEUE},
    "exporters.otlp_grpc": {"endpoint": str, "tls": {"insecure": bool}, **QUEUE},
    "exporters.otlp_http": {"endpoint": str, "encoding": str, "tls": {"insecure": bool}, **QUEUE},
}
SECTIONS = {"receivers", "processors", "exporters", "connectors", "extensions", "service"}
SIGNALS = {"traces", "metrics", "logs"}


@pytest.fixture
def config():
    """The configuration, as a Collector would read it."""
    return yaml.safe_load(re.search(r"```yaml\n(.+?)```", PAGE.read_text("utf-8"), re.DOTALL)[1])


def kind(name):
    """The component that a name is one of: `otlp_grpc/tempo` is an `otlp_grpc`."""
    return name.partition("/")[0]


def strange_keys(where, fields, known):
    """What is no key, or has a value of another type."""
    if not isinstance(known, dict):
        return [] if isinstance(fields, known) else [where]
    if not isinstance(fields, dict):
        return [where]
    found = [f"{where}.{key}" for key in fields.keys() - known.keys()]
    return found + [
        one for key in fields.keys() & known for one in strange_keys(f"{where}.{key}", fields[key], known[key])
    ]


def defined(config, section):
    """The components of a section."""
    return set(config.get(section, {}))


def problems(config):
    """What a Collector would refuse to start with, and what it would ignore."""
    service = config["service"]
    found = [f"section {name}" for name in config.keys() - SECTIONS]
    for section in sorted(SECTIONS - {"service"} & config.keys()):
        for name, fields in config.get(section, {}).items():
            found += strange_keys(f"{section}.{name}", fields, KEYS.get(f"{section}.{kind(name)}", {}))
    found += [f"signal {signal}" for signal in service["pipelines"] if kind(signal) not in SIGNALS]
    pipelines = service["pipelines"].values()
    for section in ("receivers", "exporters"):
        used = {name for pipeline in pipelines for name in pipeline.get(section, [])}
        found += [f"{name} of no use" for name in defined(config, section) - used]
        found += [f"{name} is not defined" for name in used - defined(config, section)]
        found += [f"a pipeline without {section}" for pipeline in pipelines if not pipeline.get(section)]
    extensions, started = defined(config, "extensions"), set(service.get("extensions", []))
    stores = {one["sending_queue"]["storage"] for one in config["exporters"].values() if "sending_queue" in one}
    found += [f"{name} is not started" for name in (extensions | stores) - started]
    return found + [f"{name} is not defined" for name in (started | stores) - extensions]


def test_what_it_names_exists(config):
    """Each component has documented keys alone, and is defined, used and started."""
    assert problems(config) == []


def test_it_receives_where_the_page_sends(config):
    """The port is the one that a program is told."""
    (told,) = re.findall(r"export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:(\d+)", PAGE.read_text("utf-8"))

    assert config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2] == told


def test_both_signals_have_a_pipeline(config):
    """Those that are sent."""
    assert set(config["service"]["pipelines"]) == {"traces", "logs"}


def change(config, path, value=None):
    """Sets what is at a path, or removes it."""
    *way, last = path.split(" ")
    for key in way:
        config = config[key]
    if value is None:
        del config[last]
    else:
        config[last] = value


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("exporters clickhouse dsn", "tcp://clickhouse:9000", "exporters.clickhouse.dsn"),
        ("exporters clickhouse create_schema", "yes", "exporters.clickhouse.create_schema"),
        ("exporters otlp_grpc/tempo tls insecure_skip", True, "exporters.otlp_grpc/tempo.tls.insecure_skip"),
        ("receivers otlp protocols", "http", "receivers.otlp.protocols"),
        ("exporters clickhouse", None, "clickhouse is not defined"),
        ("exporters otlp/old", {"endpoint": "tempo:4317"}, "exporters.otlp/old.endpoint"),
        ("exporters otlp/old", {}, "otlp/old of no use"),
        ("service extensions", [], "file_storage is not started"),
        ("extensions file_storage", None, "file_storage is not defined"),
        ("service pipelines logs receivers", [], "a pipeline without receivers"),
        ("service pipelines spans", {"receivers": ["otlp"], "exporters": ["clickhouse"]}, "signal spans"),
        ("pipelines", {}, "section pipelines"),
    ],
)  # fmt: skip
def test_mistake_is_found(config, path, value, problem):
    """Each of these would keep a Collector from starting, or from doing what is meant."""
    change(config, path, value)

    assert problem in problems(config)

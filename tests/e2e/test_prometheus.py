"""The real Prometheus scrapes a real node under load, plain and TLS; and what the page tells of people: nothing."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.certificates import write_pair
from support.llm_backend import Script, running_backend
from support.longer import few
from support.waiting import wait_until

from hearthnet.config import LlmBackend, LlmConfig, load, save
from hearthnet.identity.keys import KeyPair, short_id
from hearthnet.tools.files import FILES

PATIENCE_S = 30
LOAD_FOR_S = 1.5
EVERY_S = 1  # a scrape may take as long: a hundred times what it takes on a small machine
CALLERS = 2
PAUSE_S = 0.03  # so that the ring has room for all calls of a minute, and SQL can count them
PER_RESULT = "SELECT capability, result, count(*) FROM traces GROUP BY 1, 2 ORDER BY 1, 2"
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not here (on Debian: apt-get install prometheus)"
)


class Prometheus:
    """A running Prometheus and what a test asks of it."""

    def __init__(self, port: int) -> None:
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)

    def value(self, query: str) -> dict[tuple[str, ...], float]:
        """What an instant query answers, by the label values `capability` and `result` where there are any."""
        answer = self.http.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", answer
        return {
            tuple(found["metric"][name] for name in ("capability", "result") if name in found["metric"]): float(
                found["value"][1]
            )
            for found in answer["data"]["result"]
        }

    def only(self, query: str) -> float:
        """The one value that a query answers."""
        (value,) = self.value(query).values()
        return value

    def firing(self) -> set[tuple[str, str | None]]:
        """The alerts that fire, each with the check that it is about."""
        alerts = self.http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {(alert["labels"]["alertname"], alert["labels"].get("check")) for alert in alerts}

    def targets(self) -> list[dict]:
        """What is scraped, with the last error of each."""
        return self.http.get("/api/v1/targets").json()["data"]["activeTargets"]


def wait_for(condition, process, output: Path):
    """Waits until something is so, as long as the process lives; returns it."""

    def found_or_dead():
        found = condition()
        assert found or process.poll() is None, output.read_text()
        return found

    return wait_until(found_or_dead, output.read_text, PATIENCE_S)


@contextmanager
def scraping(node, folder: Path, port: int, job: str):
    """A Prometheus with the documented configuration, its one job turned to the node."""
    intervals = f"scrape_interval: {EVERY_S}s\n  evaluation_interval: {EVERY_S}s"
    text = FILES["prometheus"].text().replace("scrape_interval: 15s", intervals)
    # An alert fires at once: the tests have no minutes.
    (folder / "hearthnet-alerts.yml").write_text(re.sub(r"(?m)^ +for: .*\n", "", FILES["alerts"].text()))
    head, *jobs = re.split(r"(?m)^(?=  - job_name: )", text)
    (wanted,) = [text for text in jobs if text.startswith(f"  - job_name: {job}\n")]
    wanted = re.sub(r"localhost:\d+", f"localhost:{node.port}", wanted)
    wanted = wanted.replace("/etc/prometheus/hearthnet.pem", str(folder / "node.pem"))
    settings, output = folder / "prometheus.yml", folder / "prometheus.out"
    settings.write_text(head + wanted)
    if (promtool := shutil.which("promtool")) is not None:
        subprocess.run([promtool, "check", "config", settings], check=True, capture_output=True)
    command = [
        "prometheus",
        f"--config.file={settings}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with output.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)
    asked = Prometheus(port)

    def is_scraping() -> bool:
        try:
            return asked.http.get("/-/ready").status_code == 200 and bool(asked.value("up"))
        except httpx.TransportError:
            return False

    try:
        wait_for(is_scraping, process, output)
        yield asked, lambda condition: wait_for(condition, process, output)
    finally:
        asked.http.close()
        process.terminate()
        process.wait(PATIENCE_S)


def expressions() -> list[str]:
    """Those of the dashboard, with what Grafana replaces."""
    replaced = {"$__rate_interval": "10s", "$__range": "1m", "$job": ".*", "$instance": ".*", "$capability": ".*"}
    found = [
        target["expr"] for panel in json.loads(FILES["grafana"].text())["panels"] for target in panel.get("targets", ())
    ]
    for name, value in replaced.items():
        found = [expression.replace(name, value) for expression in found]
    return found


def load_node(node) -> list[int]:
    """Calls the node from several threads for a while; returns the statuses of the answers."""
    ends_at = time.monotonic() + LOAD_FOR_S

    def call_again_and_again(_number: int) -> list[int]:
        statuses = []
        with httpx.Client() as client:
            while not statuses or time.monotonic() < ends_at:
                fail = {"fail": "timeout"} if len(statuses) % 10 == 9 else {}
                statuses.append(node.echo(client=client, **fail).status_code)
                threading.Event().wait(PAUSE_S)
        return statuses

    with ThreadPoolExecutor(CALLERS) as pool:
        return [status for statuses in pool.map(call_again_and_again, range(CALLERS)) for status in statuses]


@needs_prometheus
@pytest.mark.parametrize("job", few(["hearthnet", "hearthnet-tls"], "hearthnet-tls"))
def test_prometheus_scrapes_a_loaded_node(stopped_node, tmp_path, monkeypatch, job):
    """No scrape fails, the node's pages have samples, and when it is quiet the counts are those of SQL.

    No alert fires for a node that is well; one does for a check that fails, and for a node that was killed.
    """
    node = stopped_node
    scheme, shown = "http", "(http, not encrypted)"
    if job == "hearthnet-tls":
        pair = write_pair(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(pair["tls_cert"]))  # the only one that httpx believes from here on
        scheme, shown = "https", "(https, certificate for localhost, 127.0.0.1 until "
        config = load()
        save(config.model_copy(update={"transport": config.transport.model_copy(update=pair)}))
    node.url = f"{scheme}://localhost:{node.port}"
    node.start()
    assert f"reach      port {node.port} {shown}" in (node.home / "run.out").read_text()

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with scraping(node, tmp_path, port, job) as (prometheus, wait):
        statuses = load_node(node)
        assert set(statuses) <= {200, 408}
        expected = [("experimental.echo", "ok", statuses.count(200))]
        if 408 in statuses:
            expected.append(("experimental.echo", "timeout", statuses.count(408)))
        node.wait_for_sql(expected, PER_RESULT)
        counted = {(capability, result): float(count) for capability, result, count in expected}
        wait(lambda: prometheus.value("hearthnet_requests_total") == counted)

        assert prometheus.only("hearthnet_request_duration_ms_count") == len(statuses)
        assert prometheus.only("min_over_time(up[1h])") == 1
        assert prometheus.only("min_over_time(scrape_samples_scraped[1h])") > 25
        (target,) = prometheus.targets()
        assert (target["health"], target["lastError"]) == ("up", "")
        assert target["scrapeUrl"] == f"{node.url}/metrics"
        figures = {
            "calls": len(statuses),
            "scrapes": prometheus.only("count_over_time(up[1h])"),
            "samples": prometheus.only("scrape_samples_scraped"),
            "longest_s": prometheus.only("max_over_time(scrape_duration_seconds[1h])"),
        }
        for query in expressions():
            prometheus.value(query)
        assert json.loads(node.cli("status", "--json").stdout)["running"] is True
        assert prometheus.firing() == set()

        key = next((node.home / ".local/share/hearthnet/keys").glob("*.ed25519"))
        key.chmod(0o644)
        assert node.cli("doctor", "--check", "keys_present").returncode == 1
        wait(lambda: prometheus.firing() == {("HearthNetDoctorFails", "keys_present")})
        key.chmod(0o600)
        assert node.cli("doctor", "--check", "keys_present").returncode == 0
        wait(lambda: not prometheus.firing())
        assert node.stop(signal.SIGKILL) == -signal.SIGKILL
        wait(lambda: prometheus.firing() == {("HearthNetDown", None)})
    print(f"{job}: {figures}")


def test_page_tells_nothing_of_people(stopped_node, monkeypatch):
    """Under load by members, strangers and mistakes: no full id, no path, no prompt, no name of user or machine."""
    planted = "meet-me-at-the-old-mill"
    for name in ("USER", "LOGNAME", "HOSTNAME"):
        monkeypatch.setenv(name, f"{planted}-{name}")
    with running_backend() as backend:
        backend.script = Script(tokens=(planted, "reply"))
        config = load()
        models = [f"{stopped_node.home}/models/tiny.gguf", "org/small"]
        backends = tuple(LlmBackend(name="llama_cpp", url=backend.url, model=model) for model in models)
        save(config.model_copy(update={"llm": LlmConfig(backends=backends)}))
        stopped_node.start()
        chat = {"params": {}, "input": {"messages": [{"role": "user", "content": planted}]}}
        for model in (*models, planted):
            assert stopped_node.call({**chat, "params": {"model": model}}, capability="llm.chat").status_code == 200
    node, stranger = stopped_node, KeyPair.generate()
    for _ in range(25):  # from the twentieth on health has a rate
        assert node.echo(planted).status_code == 200
    for capability in (f"experimental.{planted}", f"/home/{planted}", planted):
        assert node.call(chat, capability=capability).status_code in (400, 404)
    assert node.call(chat, keys=stranger).status_code == 401
    assert node.call(chat, headers={**node.headers(chat), "X-HearthNet-From": planted}).status_code == 401
    assert node.call(chat, capability="experimental.echo").status_code == 400

    page = node.get("/metrics").text
    values = {
        value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        for value in sample.labels.values()
    }
    own = node.keys.node_id
    for secret in (own, stranger.node_id, own.partition(":")[2], str(node.home), planted, str(node.data_dir)):
        assert secret not in page
    assert not re.search(r"[A-Za-z0-9_-]{43}", " ".join(values))
    assert {value for value in values if "/" in value or "\\" in value} == {"org/small"}
    assert socket.gethostname() not in re.split(r"[^\w.-]+", " ".join(values))
    assert {short_id(own), "tiny.gguf", "experimental.echo"} <= values

"""`logging.configure` alone: daily file, black box and store, in programs that use no other way to open them."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys

import pytest
from support import forkserver
from support.reading import log_lines, rows

from hearthnet.config import ObservabilityConfig
from hearthnet.config_file import standard_paths
from hearthnet.constants import DATABASE
from hearthnet.forensics.box import boxes_in
from hearthnet.observability import get_logger, telemetry, trace
from hearthnet.observability import logging as node_logging
from hearthnet.observability.runtime import runtime

SEED = """
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import get_logger, logging, metrics, trace
settings = ObservabilityConfig()
logging.configure(settings)
metrics.configure(settings)
started = trace.new_trace("a.b")
trace.attach(started)
get_logger("program").warning("careful", extra={"n": 1})
trace.detach()
print([item.trace_id for item in trace.get_recent()] == [started.trace_id], not metrics.disabled())
"""


def stored(sql, data_dir=None):
    """What another process reads in the standard store."""
    return rows((data_dir or standard_paths().data_dir) / DATABASE, sql)


def record(capability):
    """Records a trace."""
    trace.new_trace(capability)
    trace.detach()


def test_configure_alone_brings_every_sink():
    """A program that never closes anything: file and store have its records, and its run has ended clean."""
    done = subprocess.run([sys.executable, "-c", SEED], capture_output=True, text=True, timeout=120, check=True)

    assert done.stdout == "True True\n"
    assert re.fullmatch(r"[-0-9]{10} [0-9:.+-]+ warning program: careful  trace_id=[0-9A-Z]{26} n=1\n", done.stderr)
    assert stored("SELECT capability, result FROM traces") == [("a.b", "ok")]
    assert stored("SELECT logger, msg, extras FROM logs") == [("program", "careful", '{"n":1}')]
    assert stored("SELECT end_reason FROM runs") == [("clean",)]
    assert [line["msg"] for line in log_lines(standard_paths().log_dir)] == ["careful", "done"]


def test_configure_survives_a_kill():
    """The black box is there too: a program that is killed at once has lost nothing to the next one."""
    program = SEED.replace("ObservabilityConfig()", "ObservabilityConfig(flush_interval_s=60)")
    killed = forkserver.run([sys.executable, "-c", f"{program}\nimport os; os.kill(os.getpid(), {signal.SIGKILL:d})"])
    assert killed.returncode == -signal.SIGKILL
    assert boxes_in(standard_paths().data_dir)
    forkserver.run([sys.executable, "-c", SEED], check=True)

    assert stored("SELECT count(*) FROM traces WHERE capability = 'a.b'") == [(2,)]


def test_same_settings_again_change_nothing(observability):
    """Same run, same file, same handler; also if the folders are left out once and given once."""
    node_logging.configure(observability)
    opened, file = telemetry.opened(), node_logging.log_file()
    node_logging.configure(observability.model_copy())

    assert telemetry.opened() is opened
    assert node_logging.log_file() is file
    runtime.reset()
    node_logging.configure(ObservabilityConfig())
    opened = telemetry.opened()
    node_logging.configure(ObservabilityConfig(data_dir=standard_paths().data_dir))
    assert telemetry.opened() is opened


def test_same_settings_put_a_removed_handler_back(observability):
    """Other code's logging configuration may have taken it away."""
    import logging

    node_logging.configure(observability)
    logging.getLogger().removeHandler(runtime.handler)
    node_logging.configure(observability)

    assert logging.getLogger().handlers.count(runtime.handler) == 1


def test_other_settings_close_the_old_store_and_open_the_new_one(observability, tmp_path):
    """Each store has what was recorded while it was the one; the first run has ended clean."""
    node_logging.configure(observability)
    record("first")
    other = observability.model_copy(update={"data_dir": tmp_path / "other", "log_level": "warning"})
    node_logging.configure(other)
    assert stored("SELECT capability FROM traces", observability.data_dir) == [("first",)]
    assert stored("SELECT end_reason FROM runs", observability.data_dir) == [("clean",)]
    record("second")
    assert telemetry.opened().flush()

    assert stored("SELECT capability FROM traces", other.data_dir) == [("second",)]
    assert not get_logger("hearthnet.test").isEnabledFor(20)


def test_open_takes_over_from_configure(observability):
    """A program that opens telemetry after a library has configured logging: no error, and it ends when that ends."""
    node_logging.configure(ObservabilityConfig())
    kept = telemetry.opened()
    record("before")
    with telemetry.open(observability) as opened:
        assert telemetry.opened() is opened is not kept
        record("within")

    assert stored("SELECT capability FROM traces") == [("before",)]
    assert stored("SELECT end_reason FROM runs") == [("clean",)]
    assert stored("SELECT capability FROM traces", observability.data_dir) == [("within",)]
    assert telemetry.opened() is None
    node_logging.configure(ObservabilityConfig())
    assert telemetry.opened() is not None


def test_one_explicit_opening_at_a_time(observability, tmp_path):
    """Within `open`, another `open` and other settings are errors; the same settings change nothing."""
    other = observability.model_copy(update={"data_dir": tmp_path / "other"})
    with telemetry.open(observability) as opened:
        with pytest.raises(RuntimeError, match="open already"):
            telemetry.open(other).start()
        with pytest.raises(RuntimeError, match="other settings"):
            node_logging.configure(other)
        node_logging.configure(observability)

        assert telemetry.opened() is opened
    assert not other.data_dir.exists()


def test_forked_child_may_configure_for_itself(observability):
    """What its parent has open is not the child's."""
    node_logging.configure(observability)
    parent = telemetry.opened()
    pid = os.fork()
    if pid == 0:
        node_logging.configure(observability)
        os._exit(0 if telemetry.opened() not in (None, parent) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert telemetry.opened() is parent


STORELESS = """
from pathlib import Path
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import logging, trace
logging.configure(ObservabilityConfig(data_dir={data!r}, log_dir={log!r}), console={console!r})
with trace.new_trace("a.b"):
    pass
print(*[item.capability for item in trace.get_recent()])
"""


@pytest.mark.parametrize("console", ["auto", "off"])
@pytest.mark.parametrize("is_log_whole", [True, False])
def test_store_that_cannot_be_opened_is_told_somewhere(tmp_path, is_log_whole, console):
    """The program runs on in memory; the warning is on the console, without one in the daily file or once on stderr."""
    (tmp_path / "file").write_text("")
    log_dir = tmp_path / "logs" if is_log_whole else tmp_path / "file" / "logs"
    program = STORELESS.format(data=str(tmp_path / "file" / "data"), log=str(log_dir), console=console)
    done = forkserver.run([sys.executable, "-c", program], check=True)

    assert done.stdout == "a.b\n"
    said = "telemetry is kept in memory only"
    if is_log_whole:
        assert [line["msg"] for line in log_lines(log_dir)].count(said) == 1
    if is_log_whole and console == "off":
        assert done.stderr == ""
    else:
        assert said in done.stderr.splitlines()[0]
        assert done.stderr.count(said) == 1
        assert "file" in done.stderr
    if console == "off":
        assert len(done.stderr.splitlines()) == 1 - is_log_whole


def test_program_with_a_handler_of_its_own_is_told_by_that(tmp_path):
    """Where another handler takes the warning, nothing is printed beside it."""
    (tmp_path / "file").write_text("")
    program = "import logging as own, sys; own.basicConfig(stream=sys.stdout, format='%(message)s')" + STORELESS
    folders = {"data": str(tmp_path / "file" / "data"), "log": str(tmp_path / "file" / "logs"), "console": "auto"}
    done = forkserver.run([sys.executable, "-c", program.format(**folders)], check=True)

    assert done.stderr == ""
    assert done.stdout.splitlines().count("telemetry is kept in memory only") == 1


BEFORE = """
import logging, sys
from hearthnet.observability import get_logger
from hearthnet.observability.redaction.rules import register_secrets
secret = "hunter2" * 3
register_secrets(["r3g1stered" * 2])
log = get_logger("program.module")
log.warning("password=" + secret, extra={"password": secret})
log.error("sent %s with %s", "r3g1stered" * 2, "care")
log.error("does not fit %d", "token=" + secret)
try:
    raise ValueError("password=" + secret)
except ValueError:
    log.exception("failed")
log.info("not printed")
logging.getLogger("plain").warning("as %s", "ever")
"""


def test_before_configuring_nothing_is_printed_unredacted():
    """The standard library's last resort prints our records without secrets; others as ever."""
    done = forkserver.run([sys.executable, "-c", BEFORE], check=True)

    assert done.stderr.splitlines()[:3] == [
        "password=[redacted]",
        "sent [redacted] with care",
        'does not fit %d [TypeError in its arguments] ["token=[redacted]"]',
    ]
    assert done.stderr.splitlines()[-2:] == ["ValueError: password=[redacted]", "as ever"]
    assert "hunter2hunter2" not in done.stderr


def test_new_package_clears_no_caches_of_other_loggers(tmp_path, monkeypatch):
    """With thousands of loggers there, setting a level costs as much as making hundreds: a new one needs none of it."""
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path))
    cleared = []
    monkeypatch.setattr(logging.Manager, "_clear_cache", cleared.append)
    made = get_logger("fresh_package_of_a_test.module")

    assert cleared == []
    assert made.isEnabledFor(logging.INFO)
    assert not made.isEnabledFor(logging.DEBUG)


def test_package_whose_loggers_are_in_use_gets_the_level(tmp_path):
    """Loggers of a package that were used before `get_logger` was called for one of it follow the level."""
    early = logging.getLogger("used_package_of_a_test.early")
    assert not early.isEnabledFor(logging.INFO)
    node_logging.install_sinks(ObservabilityConfig(log_dir=tmp_path))
    get_logger("used_package_of_a_test.module")

    assert early.isEnabledFor(logging.INFO)

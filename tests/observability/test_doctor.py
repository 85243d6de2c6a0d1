"""The doctor's machinery: whatever a check does, the report is complete, and says why."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError
from types import MappingProxyType

import orjson
import pytest

from hearthnet.errors import UnknownCheckError
from hearthnet.observability import doctor
from hearthnet.observability.doctor import CheckResult

PATIENT_S = 120  # of a check that answers: a slow machine decides no test


@pytest.fixture(autouse=True)
def no_checks(monkeypatch):
    """No check but those that a test registers."""
    monkeypatch.setattr(doctor, "_checks", {})
    monkeypatch.setattr(doctor, "_is_standard_known", threading.Event())
    doctor._is_standard_known.set()
    monkeypatch.setattr(doctor, "_under_way", {})


@pytest.fixture
def hanging():
    """A check that hangs until it is let go; afterwards it answers."""
    check = Hanging()
    yield check
    check.go.set()


class Hanging:
    """A check that counts its runs."""

    def __init__(self):
        self.begun, self.go, self.calls = threading.Event(), threading.Event(), 0

    def __call__(self, config, bus):
        """Hangs, then answers."""
        self.calls += 1
        self.begun.set()
        self.go.wait()
        return CheckResult("", ok=True, detail=f"call {self.calls}")

    def end(self):
        """Lets it go, and waits until its thread has ended."""
        threads = [thread for thread in threading.enumerate() if thread.name == "doctor-hanging"]
        self.go.set()
        for thread in threads:
            thread.join()


def well(config, bus):
    """A check with nothing to find."""
    return CheckResult("well", True, "nothing to find")


def report(config, **checks) -> dict[str, CheckResult]:
    """The results of these checks, by name."""
    for name, check in checks.items():
        doctor.register(name, check, deadline_s=PATIENT_S)
    return {result.name: result for result in doctor.run_all(config)}


@pytest.mark.parametrize(
    ("ok", "status"), [(True, "fail"), (False, "pass"), (False, "warn"), (False, "skip"), (True, "fine"), (False, "no")]
)
def test_result_that_contradicts_itself_cannot_be(ok, status):
    """`ok` is false for a failure only, and a status is one of four."""
    with pytest.raises(ValueError, match="status"):
        CheckResult("a", ok, "d", status=status)


def test_result_of_four_fields():
    """The contract's four fields, by place, are enough; the rest has its defaults."""
    bad = CheckResult("keys", False, "no key", "hearthnet init")

    assert (bad.status, CheckResult("keys", 1, "there").status) == ("fail", "pass")
    assert bad.as_dict() == {
        "name": "keys",
        "status": "fail",
        "ok": False,
        "detail": "no key",
        "fix": "hearthnet init",
        "evidence": {},
        "duration_ms": 0.0,
    }
    assert CheckResult("keys", 1, "there").as_dict()["ok"] is True


def test_result_stays_as_it_was_found():
    """Whoever gets it, a report and a metric say the same; its time is told in whole microseconds."""
    found = CheckResult("keys", True, "there", duration_ms=1.234567)
    with pytest.raises(FrozenInstanceError):
        found.ok = False

    assert found.as_dict()["duration_ms"] == 1.235


def test_error_of_a_result_tells_what_can_be():
    """In words that an author of a check can act on."""
    with pytest.raises(ValueError, match=r"^status is 'great': it is one of pass, warn, fail, skip$"):
        CheckResult("keys", True, "there", status="great")


def test_report_has_evidence_of_its_own():
    """Whatever mapping a check has passed, the report's is a dictionary, and a change to it changes no result."""
    found = CheckResult("keys", True, "there", evidence=MappingProxyType({"keys": 2}))
    found.as_dict()["evidence"]["keys"] = 3

    assert found.as_dict()["evidence"] == {"keys": 2}


class MuteError(Exception):
    """An exception that cannot even be shown."""

    def __str__(self):
        raise RuntimeError("not a word")


def raising(error):
    """A check that raises."""

    def broken(config, bus):
        raise error

    return broken


def deep(config, bus):
    """A check that never ends, until Python ends it."""
    return deep(config, bus)


async def later(config, bus):
    """A check that was not written as one."""


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (raising(OSError("cable unplugged")), "OSError: cable unplugged, in broken (test_doctor.py:"),
        (raising(SystemExit(0)), "SystemExit: 0, in broken"),
        (raising(KeyboardInterrupt()), "KeyboardInterrupt: , in broken"),
        (raising(BaseExceptionGroup("two", [OSError(), KeyboardInterrupt()])), "BaseExceptionGroup: two"),
        (raising(MuteError()), "MuteError: "),
        (deep, "RecursionError: "),
        (lambda config, bus: None, "returned NoneType"),
        (lambda config, bus: (True, "fine"), "returned tuple"),
        (later, "returned coroutine"),
        (lambda config, bus: CheckResult("", True, "x", status="fail"), "ValueError: ok is True with status fail"),
        (lambda config, bus: CheckResult("", True, "x", status="great"), "ValueError: status is 'great'"),
        (lambda config, bus: CheckResult("", True, "x", evidence=["a"]), "TypeError: its evidence is list"),
        (lambda: CheckResult("", True, "takes nothing"), "TypeError: "),
    ],
)  # fmt: skip
def test_check_that_does_not_answer_as_it_should(config, check, told):
    """It is a failed finding with its cause and its place; the check beside it is unharmed."""
    found = report(config, broken=check, well=well)

    assert (found["broken"].status, found["broken"].ok) == ("fail", False)
    assert told in found["broken"].detail
    assert found["broken"].fix == "hearthnet doctor --check broken --verbose"
    assert found["broken"].as_dict()["evidence"]
    assert len(found["broken"].evidence.get("stack", [])) <= 8
    assert (found["well"].status, found["well"].detail) == ("pass", "nothing to find")


def test_place_of_a_failure_is_the_checks_own(config):
    """What raised is told with its innermost calls: in words the one in the check, not the one in Python's library."""
    found = report(config, broken=lambda config, bus: int(threading.Thread().join() or 0))["broken"]

    assert found.evidence["error"] == "RuntimeError"
    assert "threading.py" in found.evidence["stack"][0]
    assert ", in <lambda> (test_doctor.py:" in found.detail


URL = "http://joe:hunter2hunter2@localhost:8080"


@pytest.mark.parametrize(
    "check",
    [
        lambda config, bus: CheckResult("", True, f"reached {URL}"),
        lambda config, bus: CheckResult("", False, "not reached", f"curl {URL}"),
        lambda config, bus: CheckResult(
            "", True, "reached", evidence={"url": URL, "tried": [{"password": URL[11:24]}]}
        ),
        raising(OSError(f"cannot reach {URL}")),
        raising(RuntimeError("x" * 190 + f" {URL}")),  # longer than what is told of it
    ],
    ids=["detail", "fix", "evidence", "error", "long error"],
)
def test_secret_is_not_reported(config, check):
    """Whatever of a result it is in."""
    found = report(config, found=check)["found"]

    assert "hunter2" not in str(found.as_dict())
    assert found.evidence or "localhost" in found.detail or "localhost" in found.fix


def test_evidence_can_be_written_whatever_it_holds(config):
    """Half a character, of a file's name say, is no UTF-8: the report is JSON all the same."""
    check = lambda config, bus: CheckResult("", True, "x", evidence={"name": "caf\udce9"})  # noqa: E731
    found = report(config, found=check)["found"]

    assert "caf" in orjson.dumps(found.as_dict()).decode()


def test_check_that_hangs(config, hanging):
    """It is reported with its stack; it is not started again until it has ended."""
    doctor.register("hanging", hanging, deadline_s=0.05)
    doctor.register("well", well, deadline_s=PATIENT_S)
    first = {result.name: result for result in doctor.run_all(config)}
    hanging.begun.wait()
    again = [doctor.run_one("hanging", config) for _ in range(3)]

    assert (first["hanging"].status, first["well"].status) == ("fail", "pass")
    assert first["hanging"].detail.startswith("no result within 0.05 s")
    assert first["hanging"].duration_ms >= 50
    assert first["hanging"].duration_ms == pytest.approx(1_000 * first["hanging"].evidence["waited_s"], abs=1)
    for late in again:
        assert (late.status, late.detail.split(" since ")[0]) == ("fail", "still without a result")
        assert "it hangs in __call__ (test_doctor.py:" in late.detail
        assert any("threading.py" in place for place in late.evidence["stack"])
    assert hanging.calls == 1
    assert [thread.name for thread in threading.enumerate()].count("doctor-hanging") == 1

    hanging.end()
    assert doctor.run_one("hanging", config, deadline_s=PATIENT_S).detail == "call 2"


def test_hanging_check_of_another_node_is_not_ours(config, hanging):
    """What hangs with other settings, or was registered anew since, says nothing about this one."""
    doctor.register("hanging", hanging, deadline_s=0.0)
    doctor.run_one("hanging", config)
    other = doctor.run_one("hanging", config.model_copy())
    doctor.register("hanging", well, deadline_s=PATIENT_S)

    assert other.detail.startswith("no result within 0 s")
    assert doctor.run_one("hanging", config).status == "pass"


def test_callers_at_the_same_time_share_one_run(config, hanging, monkeypatch):
    """A check runs once at a time: who asks meanwhile gets the same answer."""
    doctor.register("hanging", hanging, deadline_s=PATIENT_S)
    waits, wait, answers = threading.Semaphore(0), doctor.wait, []
    monkeypatch.setattr(doctor, "wait", lambda *given: (waits.release(), wait(*given))[1])
    callers = [threading.Thread(target=lambda: answers.append(doctor.run_one("hanging", config))) for _ in range(5)]
    for caller in callers:
        caller.start()
    for _ in callers:
        waits.acquire()
    hanging.go.set()
    for caller in callers:
        caller.join()

    assert [answer.detail for answer in answers] == ["call 1"] * 5
    assert hanging.calls == 1


def test_many_checks_take_turns(config, monkeypatch):
    """No more run at once than there may; those that hang give their places to others, and the order is kept."""
    monkeypatch.setattr(doctor, "MAX_AT_ONCE", 4)
    lock, at_once, most = threading.Lock(), [0], []
    never, last, wait = threading.Event(), threading.Event(), doctor.wait

    def counting(waited_for, *how):
        most.append(len(waited_for))
        return wait(waited_for, *how)

    monkeypatch.setattr(doctor, "wait", counting)

    def counted(config, bus):
        with lock:
            at_once[0] += 1
            most.append(at_once[0])
        with lock:
            at_once[0] -= 1
        return well(config, bus)

    def longest(config, bus):
        assert last.wait(PATIENT_S)
        return well(config, bus)

    def ending(config, bus):
        last.set()
        return counted(config, bus)

    doctor.register("longest", longest, deadline_s=2 * PATIENT_S)
    for number in range(3):
        doctor.register(f"hanging {number}", lambda config, bus: never.wait(), deadline_s=0.05)
    for number in range(12):
        doctor.register(f"well {number}", ending if number == 11 else counted, deadline_s=PATIENT_S)
    results = doctor.run_all(config)
    never.set()

    assert [result.name for result in results] == doctor.names()
    assert [result.status for result in results] == ["pass"] + ["fail"] * 3 + ["pass"] * 12
    assert max(most) <= 4


def test_no_thread_left_is_a_finding(config, monkeypatch):
    """If no thread can be started, that is the finding."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    found = report(config, well=well)["well"]

    assert (found.status, found.detail) == ("fail", "the check could not be begun: can't start new thread")


def test_hanging_check_does_not_keep_the_process():
    """The program exits once it has reported, whatever still hangs."""
    program = """
import threading
from dataclasses import FrozenInstanceError
from types import MappingProxyType
from hearthnet.observability import doctor
doctor.register("hanging", lambda config, bus: threading.Event().wait(), deadline_s=0.05)
print(doctor.run_one("hanging", None).detail)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no result within 0.05 s")


def test_some_of_the_checks(config):
    """The named checks run, each once; an unknown name is an error."""
    doctor.register("one", well, deadline_s=PATIENT_S)
    doctor.register("two", well, deadline_s=PATIENT_S)

    assert [result.name for result in doctor.run_all(config, only=["two", "two"])] == ["two"]
    for run in (lambda: doctor.run_one("nonsense", config), lambda: doctor.run_all(config, only=["one", "nonsense"])):
        with pytest.raises(KeyError) as raised:
            run()
        assert isinstance(raised.value, UnknownCheckError)
        assert str(raised.value) == raised.value.message == "there is no check 'nonsense'; there are: one, two"


NAMES_OF_THE_SPEC = [
    "keys_present", "keys_loadable", "community_present", "event_log_writable", "mdns_socket", "udp_multicast",
    "transport_port", "at_least_one_capability", "disk_space", "clock_sanity", "llm_backend_reachable",
    "recent_error_rate",
]  # fmt: skip


def run_seed(program: str) -> list[str]:
    """Runs a program in an interpreter of its own; returns the lines that it printed."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_standard_checks_are_known_without_being_told():
    """A program that only imports the doctor gets the whole report: on a machine without keys it is not all well."""
    program = """
from hearthnet.config import default_config, resolve_paths
from hearthnet.observability import doctor
results = doctor.run_all(resolve_paths(default_config()), None, deadline_s=60)
print(*[result.name for result in results])
print(*[result.name for result in results if not result.ok])
print(all(result.ok for result in results), [result.name for result in results] == doctor.names())
"""
    names, failed, verdict = run_seed(program)

    assert names.split()[: len(NAMES_OF_THE_SPEC)] == NAMES_OF_THE_SPEC
    assert "keys_present" in failed.split()
    assert verdict == "False True"


def test_one_standard_check_is_known_without_being_told():
    """`run_one` as the first call finds a standard check, and says which there are where there is none."""
    program = """
from hearthnet.config import default_config, resolve_paths
from hearthnet.observability import doctor
config = resolve_paths(default_config())
print(doctor.run_one("keys_present", config, None).ok)
try:
    doctor.run_one("key_present", config, None)
except KeyError as error:
    print(error)
"""
    ok, said = run_seed(program)

    assert ok == "False"
    assert said.startswith("there is no check 'key_present'; there are: keys_present, keys_loadable, ")


def test_own_checks_come_after_the_standard_ones():
    """A program's check, registered first, is reported last; one with a standard name replaces that one."""
    program = """
from hearthnet.config import default_config, resolve_paths
from hearthnet.observability import doctor
from hearthnet.observability.doctor import CheckResult
for name in ("mine", "keys_present"):
    doctor.register(name, lambda config, bus: CheckResult("", True, "of the program"))
print(doctor.names()[0], doctor.names()[-1], len(doctor.names()) - len(set(doctor.names())))
print(doctor.run_one("keys_present", resolve_paths(default_config())).detail)
"""
    assert run_seed(program) == ["keys_present mine 0", "of the program"]


def test_standard_checks_that_cannot_be_imported_are_an_error(monkeypatch):
    """Rather none than a report of nothing, which would be all well; the next call tries again."""
    calls = []

    def broken():
        calls.append(1)
        raise ImportError("no checks here")

    monkeypatch.setattr(doctor, "_is_standard_known", threading.Event())
    monkeypatch.setattr(doctor.observability, "standard_checks", broken)
    for _ in range(2):
        with pytest.raises(ImportError, match="no checks here"):
            doctor.run_all(None)

    assert len(calls) == 2

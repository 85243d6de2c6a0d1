"""The rules of the verdict, on constructed cases. Real deaths are in tests/e2e/test_deaths.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hearthnet.constants import CRASH_LOGGER, WATCHDOG_LOGGER
from hearthnet.forensics.model import CAUSES, CONFIDENCES, Case, Entry, Run, Source, Vitals
from hearthnet.forensics.verdict import judge, unclean_runs_in_a_row
from hearthnet.observability.process import uncaught as capture
from hearthnet.observability.process import watchdog

S = 1_000_000
MB = 1_000_000
DEATH = 1_800_000_000 * S
RUN = Run("01DEAD", DEATH - 600 * S, end_reason="unclean", pid=7, boot_id="boot-1", last_seen_us=DEATH, is_alive=False)
NEXT = Run("01NEXT", DEATH + 5 * S, pid=8, boot_id="boot-1", is_alive=True)


def case(run=RUN, *entries, runs=None, sources=()):
    """Returns a case of this run, followed by a later one unless `runs` is given."""
    return Case(Path("data"), run, [NEXT, run] if runs is None else runs, list(entries), sources=list(sources))


def record(text, seconds_before=1.0, level="error", **extras):
    """Returns a log record of the dead run."""
    exc, logger = extras.pop("exc", None), extras.pop("logger", "hearthnet.observability.capture")
    return Entry(DEATH - int(seconds_before * S), "log", level, logger, text, "01DEAD", 1, extras=extras, exc=exc)


def felt(seconds_before, rss_mb, left_mb, **others):
    """Returns vitals from this long before the death."""
    return Vitals(DEATH - int(seconds_before * S), int(rss_mb * MB), int(left_mb * MB), **others)


def test_run_that_wrote_its_end_was_stopped():
    """No other rule applies, and nothing is missing."""
    verdict = judge(case(replace(RUN, end_reason="clean", ended_us=DEATH)))

    assert (verdict.cause, verdict.confidence, verdict.alternatives, verdict.missing) == (
        "clean_stop", "certain", (), (),
    )  # fmt: skip


def test_clean_stop_by_an_exit_says_so():
    """No exception, and yet not what a cron job is there for; one long before is another matter."""

    def evidence(ended_before_s, text="SystemExit: 3", run_id="01DEAD"):
        started_us = DEATH - int((ended_before_s + 2) * S)
        left = Entry(started_us, "trace", "internal_error", "backup", text, run_id, 1, duration_ms=2_000.0)
        verdict = judge(case(replace(RUN, end_reason="clean", ended_us=DEATH), left))
        assert verdict.cause == "clean_stop"
        return verdict.evidence

    first, _ = evidence(0.5)
    assert first.endswith("it left backup by sys.exit: 3")
    for others in (evidence(60), evidence(0.5, "ValueError: 3"), evidence(0.5, run_id="01OTHER")):
        assert len(others) == 1


def test_names_of_loggers_that_are_evidence_are_fixed():
    """Records of earlier versions have these logger names: moving a module must not change them."""
    assert capture.log.name == CRASH_LOGGER == "hearthnet.observability.capture"
    assert watchdog.log.name == WATCHDOG_LOGGER == "hearthnet.observability.watchdog"


def test_exception_that_ends_a_program_closes_the_store_in_order():
    """A clean end right after an uncaught exception is not a clean stop; an exception long before is ignored."""
    clean = replace(RUN, end_reason="clean", ended_us=DEATH)
    uncaught = record("uncaught exception", exc="Traceback …\nKeyError: 'model'")

    verdict = judge(case(clean, uncaught))
    assert (verdict.cause, verdict.confidence) == ("exception", "certain")
    assert "KeyError: 'model'" in verdict.evidence[0]
    assert judge(case(clean, replace(uncaught, ts_us=DEATH - 60 * S))).cause == "clean_stop"
    assert judge(case(clean, replace(uncaught, name="app.work"))).cause == "clean_stop"  # any program may log this text
    memory = judge(case(clean, replace(uncaught, exc="Traceback …\nMemoryError")))
    assert (memory.cause, memory.confidence, memory.alternatives) == ("out_of_memory", "likely", ("exception",))


def test_living_process_is_not_dead():
    """A live process is reported as running, and as stuck if it is."""
    alive = replace(RUN, is_alive=True, end_reason=None)
    assert judge(case(alive, runs=[alive])).cause == "running"

    verdict = judge(case(alive, record("event loop stuck", stack=["app.py:9 wait"]), runs=[alive]))
    assert (verdict.cause, verdict.confidence) == ("running", "certain")
    assert "stuck" in verdict.evidence[1]
    assert "app.py:9 wait" in verdict.evidence[1]


def test_fault_is_certain_and_says_where():
    """The first line of the fault file and the innermost frame of the failed thread are the evidence."""
    thread = 'Current thread 0x1 (most recent call first):\n  File "a.py", line 3 in f\n'
    fault = f"Fatal Python error: Segmentation fault\n\n{thread}"
    verdict = judge(case(replace(RUN, fault=fault)))

    assert (verdict.cause, verdict.confidence, verdict.alternatives) == ("native_fault", "certain", ())
    assert "Segmentation fault" in verdict.evidence[0]
    assert 'File "a.py", line 3 in f' in verdict.evidence[1]


def test_stacks_without_a_fault_are_no_fault():
    """Stacks may have been dumped on request, by a signal for example."""
    verdict = judge(case(replace(RUN, fault='Thread 0x1 (most recent call first):\n  File "a.py", line 3 in f\n')))

    assert (verdict.cause, verdict.confidence) == ("native_fault", "possible")
    assert "killed" in verdict.alternatives


def test_last_words_that_cannot_be_read_leave_a_fault_possible():
    """An unreadable fault file does not rule out a native fault."""
    fault = Source(Path("telemetry.7.fault"), "fault", "unreadable", "Permission denied")
    verdict = judge(case(sources=[fault]))

    assert (verdict.cause, verdict.confidence) == ("killed", "possible")
    assert "native_fault" in verdict.alternatives
    assert "telemetry.7.fault is unreadable" in verdict.missing


def test_kill_and_exit_cannot_be_distinguished():
    """The general cause, with alternatives and missing evidence; never certain."""
    verdict = judge(case())

    assert (verdict.cause, verdict.confidence) == ("killed", "likely")
    assert "out_of_memory" in verdict.alternatives
    assert "power_loss" not in verdict.alternatives  # the same boot, before and after
    assert any("journalctl" in line for line in verdict.missing)
    assert any("vitals" in line for line in verdict.missing)


def test_files_from_elsewhere_leave_more_open():
    """Whether the process was still running when the files were copied is unknown."""
    run = replace(RUN, is_alive=None, end_reason=None)
    verdict = judge(case(run, runs=[run]))

    assert (verdict.cause, verdict.confidence) == ("killed", "possible")
    assert {"power_loss", "running"} <= set(verdict.alternatives)
    assert any("black box" in line for line in verdict.missing)


@pytest.mark.parametrize(
    ("vitals", "cause", "confidence"),
    [
        ([felt(60, 100, 900), felt(2, 980, 20)], "out_of_memory", "likely"),
        ([felt(4, 100, 900), felt(2, 500, 500), felt(1, 900, 100)], "out_of_memory", "possible"),
        ([felt(4, 100, 40), felt(2, 100, 25)], "out_of_memory", "possible"),  # another process took it
        ([felt(60, 100, 900), felt(2, 120, 880)], "killed", "likely"),
        ([felt(4, 900, 100), felt(2, 500, 500)], "killed", "likely"),  # it was freed again
    ],
)
def test_death_by_memory_is_seen_coming(vitals, cause, confidence):
    """Little left is likely; little left because of others, or running out, is possible; enough left is neither."""
    verdict = judge(case(replace(RUN, vitals=tuple(vitals))))

    assert (verdict.cause, verdict.confidence) == (cause, confidence)


@pytest.mark.parametrize(
    ("exc", "cause"),
    [
        ("MemoryError", "out_of_memory"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("ValueError: x", "exception"),
    ],
)
def test_exception_names_the_cause_behind_it(exc, cause):
    """A failed allocation or write has a cause of its own."""
    verdict = judge(case(RUN, record("uncaught exception", exc=exc)))

    assert (verdict.cause, verdict.confidence) == (cause, "likely")
    assert exc in verdict.evidence[0]


@pytest.mark.parametrize("recovered", ["event loop responds again", "event loop answers again"])
def test_stuck_loop_counts_unless_it_recovered(recovered):
    """The last record decides, in the words of older versions too; without one, a growing lag makes it possible."""
    stuck, again = record("event loop stuck", 30, stack=["app.py:9 wait"]), record(recovered, 20)

    assert judge(case(RUN, stuck)).cause == "loop_stuck"
    assert "app.py:9 wait" in judge(case(RUN, stuck)).evidence[0]
    assert judge(case(RUN, stuck, again)).cause == "killed"
    assert judge(case(RUN, stuck, again, replace(stuck, ts_us=DEATH - S))).confidence == "likely"
    lagging = replace(RUN, vitals=(felt(2, 100, 900, loop_lag_s=7.5),))
    assert (judge(case(lagging)).cause, judge(case(lagging)).confidence) == ("loop_stuck", "possible")


def test_full_disk_is_possible_until_it_had_space_again():
    """A node survives a full disk, so a full disk alone is never certain."""
    full = record("telemetry cannot be written", 9, "warning", reason="disk_full")
    locked = record("telemetry cannot be written", 9, "warning", reason="locked")
    again = record("telemetry is written again", 5, "info")

    verdict = judge(case(RUN, full))
    assert (verdict.cause, verdict.confidence) == ("disk_full", "possible")
    assert "killed" in verdict.alternatives
    assert judge(case(RUN, full, again)).cause == "killed"
    assert judge(case(RUN, locked)).cause == "killed"


@pytest.mark.parametrize(("minutes_down", "confidence"), [(1, "likely"), (600, "possible")])
def test_other_boot_is_a_power_loss_the_likelier_the_sooner(minutes_down, confidence):
    """A quick reboot makes a power loss likely; after a long pause the node may have died earlier."""
    after = replace(NEXT, boot_id="boot-2", started_us=DEATH + minutes_down * 60 * S)
    run = replace(RUN, is_alive=None)
    verdict = judge(case(run, runs=[after, run]))

    assert (verdict.cause, verdict.confidence) == ("power_loss", confidence)
    assert "killed" in verdict.alternatives


def test_fault_before_a_reboot_stays_the_cause():
    """The strongest sign wins; the weaker one is still in the evidence."""
    after = replace(NEXT, boot_id="boot-2", started_us=DEATH + 60 * S)
    run = replace(RUN, fault="Fatal Python error: Aborted\n")
    verdict = judge(case(run, runs=[after, run]))

    assert verdict.cause == "native_fault"
    assert any("another boot: of this machine, or of another one" in line for line in verdict.evidence)


def test_deaths_one_after_the_other_are_a_loop():
    """Three unclean runs within twenty minutes are a loop; with a clean stop or hours between them they are not."""

    def earlier(number, minutes, reason="unclean"):
        return replace(
            RUN, run_id=f"01EARLIER{number}", started_us=RUN.started_us - minutes * 60 * S, end_reason=reason
        )

    loop = [NEXT, RUN, earlier(1, 5), earlier(2, 9)]
    verdict = judge(case(RUN, runs=loop))
    assert (verdict.cause, verdict.confidence) == ("restart_loop", "possible")
    assert "3 runs in a row" in verdict.evidence[0]
    assert len(unclean_runs_in_a_row(loop, RUN)) == 3

    assert judge(case(RUN, runs=[NEXT, RUN, earlier(1, 5, "clean"), earlier(2, 9)])).cause == "killed"
    assert judge(case(RUN, runs=[NEXT, RUN, earlier(1, 25), earlier(2, 50)])).cause == "killed"


@pytest.mark.parametrize(("state", "said"), [("damaged", "damaged"), ("foreign", "no file of HearthNet")])
def test_no_run_is_unknown_and_says_what_is_broken(state, said):
    """Without any run the verdict lists only the files that could not be read."""
    verdict = judge(Case(Path("data"), sources=[Source(Path("telemetry.db"), "database", state)]))

    assert verdict.cause == "unknown"
    assert verdict.missing == (f"telemetry.db is {said}",)


def test_every_cause_has_words():
    """Every verdict has a summary, and times out of range do not raise."""
    for end, seen in (("unclean", 2**62), ("clean", -(2**62)), (None, 0)):
        verdict = judge(case(replace(RUN, end_reason=end, last_seen_us=seen, ended_us=seen)))
        assert verdict.cause in CAUSES
        assert verdict.confidence in CONFIDENCES


NODE_RUN = replace(RUN, role="node", program="hearthnet", node_id="ed25519:n")


def test_clean_cron_jobs_do_not_end_a_restart_loop():
    """Unclean runs of the node in a row are counted over the clean runs of another program in between."""
    runs = [NODE_RUN]
    for number in (1, 2):
        began = NODE_RUN.started_us - number * 60 * S
        runs.append(Run(f"01CRON{number}", began + 30 * S, began + 31 * S, "clean", program="cron.py", role="library"))
        runs.append(replace(NODE_RUN, run_id=f"01DEAD{number}", started_us=began, last_seen_us=began + S))

    assert [run.run_id for run in unclean_runs_in_a_row(runs, NODE_RUN)] == ["01DEAD", "01DEAD1", "01DEAD2"]
    assert [run.run_id for run in unclean_runs_in_a_row(runs, runs[2])] == ["01DEAD1", "01DEAD2"]


def test_run_beside_is_no_run_after():
    """A cron job during the node's run says nothing of the machine afterwards; one in another boot does."""
    beside = Run("01BESIDE", DEATH - 60 * S, DEATH - 59 * S, "clean", boot_id="boot-1", program="cron.py")
    after = replace(beside, run_id="01AFTER", started_us=DEATH + 60 * S, ended_us=DEATH + 61 * S, boot_id="boot-2")
    gone = replace(NODE_RUN, is_alive=None)

    unknown = judge(case(gone, runs=[beside, gone]))
    assert (unknown.cause, unknown.confidence) == ("killed", "possible")
    assert "power_loss" in unknown.alternatives
    assert judge(case(gone, runs=[after, beside, gone])).cause == "power_loss"
    # The clock was set back while the machine was off.
    back = replace(gone, run_id="01BACK", started_us=DEATH - 10 * S, boot_id="boot-2")
    assert judge(case(gone, runs=[back, gone])).cause == "power_loss"

"""The kernel's account of an end: from files as the kernel writes them, and from a real kill for want of memory."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hearthnet.cli.main import main as command
from hearthnet.config import ObservabilityConfig
from hearthnet.forensics import box as layout
from hearthnet.forensics.evidence import kernel
from hearthnet.forensics.evidence.kernel import KernelSources, kernel_of, oom_kills, parse_line
from hearthnet.forensics.gather import gather
from hearthnet.forensics.main import main as script
from hearthnet.forensics.model import Kernel, OomKills, Run, Vitals
from hearthnet.forensics.verdict import judge
from hearthnet.observability import telemetry
from hearthnet.observability.records.box_file import Sizes, new_header

RUN = "01HXR4Z6W5S9E2JQ4Y0T7B3M1C"
PID = 4_242
STARTED_NS = 5_000_000 * 1_000_000_000  # two months after the boot
KILL = "Memory cgroup out of memory: Killed process 4242 (python3) total-vm:328444kB, anon-rss:150360kB, UID:0"
OTHER = KILL.replace("4242", "77")
_REAL_GROUPS = Path("/sys/fs/cgroup")
# Enters the control group, opens telemetry, and takes memory until the kernel ends it.
GREEDY = """
import os, sys
from pathlib import Path
(Path(sys.argv[2]) / "cgroup.procs").write_text(str(os.getpid()))
from hearthnet.config import ObservabilityConfig
from hearthnet.observability import telemetry, trace
base = Path(sys.argv[1])
with telemetry.open(ObservabilityConfig(data_dir=base / "data", log_dir=base / "log", max_disk_mb=64)):
    with trace.new_trace("llm.chat"), trace.span("load"):
        taken = []
        while True:
            taken.append(bytearray(4_000_000))
"""


class Machine:
    """A machine's files: a process's, its control group's, and the kernel's log."""

    def __init__(self, base: Path, version: int) -> None:
        self.proc, self.cgroups, self.log = base / "proc" / "self", base / "cgroup", base / "kmsg"
        (self.proc / "ns").mkdir(parents=True)
        (self.proc / "ns" / "pid").touch()
        path, root = ("/box/node", self.cgroups / "memory") if version == 1 else ("/system.slice/node", self.cgroups)
        (self.proc / "cgroup").write_text(f"4:memory:{path}\n0::/\n" if version == 1 else f"0::{path}\n")
        self.group = root / path.strip("/")
        self.group.mkdir(parents=True)
        self.counter = "memory.oom_control" if version == 1 else "memory.events"
        self.kills(group=2, machine=5)
        (self.group / "cgroup.procs").write_text("4242\n")
        self.says()

    def kills(self, *, group: int, machine: int) -> None:
        """Sets the counters."""
        with suppress(FileNotFoundError):
            (self.group / self.counter).write_text(f"oom_kill_disable 0\nunder_oom 0\noom 9\noom_kill {group}\n")
        (self.proc.parent / "vmstat").write_text(f"nr_free_pages 12\noom_kill {machine}\npgfault 3\n")

    def says(self, *lines: tuple[float, str], facility: int = 0) -> None:
        """Sets the log: lines with their seconds after the start of the run."""
        began_us = STARTED_NS // 1_000
        shown = [f"{facility << 3 | 3},{n},{began_us + int(s * 1e6)},-;{text}" for n, (s, text) in enumerate(lines)]
        self.log.write_text("\n".join(shown))

    def box(self, *samples: tuple[int, int], kernel_pid: int = PID) -> layout.Box:
        """The box of a run that began here, with (kills of its group, processes) of each sample."""
        counters = oom_kills(self.proc, self.cgroups)
        header = replace(
            new_header(layout.NODE, RUN, "1", None, Sizes(1, 1)), pid=PID, kernel_pid=kernel_pid, oom_kills=counters,
            started_ns=STARTED_NS,
        )  # fmt: skip
        vitals = [Vitals(1, group_oom_kills=kills, group_processes=count) for kills, count in samples]
        return layout.Box(header, vitals=vitals, heartbeat_ns=STARTED_NS + 10_000_000_000)

    def account(self, box: layout.Box, **sources) -> Kernel | None:
        """The account of this machine."""
        return KernelSources(self.proc, self.cgroups, self.log, **sources).of_box(box)


@pytest.fixture(params=[1, 2], ids=["version-1", "version-2"])
def machine(tmp_path, monkeypatch, request) -> Machine:
    """A machine with control groups of either version, whose pids are those of the kernel's log."""
    made = Machine(tmp_path, request.param)
    monkeypatch.setattr(kernel, "_FIRST_PID_NAMESPACE", (made.proc / "ns" / "pid").stat().st_ino)
    return made


# --- the log


def test_line_that_names_the_process_is_certain(machine):
    """The line is quoted, whatever the counters say."""
    machine.says((-5, "usb 1-1: new device"), (10.5, KILL))

    assert machine.account(machine.box()) == Kernel("certain", (f"the kernel's log: {KILL}",))


@pytest.mark.parametrize(
    "text",
    [
        "Out of memory: Killed process 4242 (python3) total-vm:1kB, anon-rss:1kB",
        "Killed process 4242 (python3) total-vm:1kB, anon-rss:1kB",  # until Linux 4.x, on a line of its own
        "Memory cgroup out of memory: Killed process 4242 (hearthnet), UID 1000, total-vm:1kB",
    ],
)
def test_words_of_several_kernels(machine, text):
    """The words around changed over the years."""
    machine.says((10, text))

    assert machine.account(machine.box()).confidence == "certain"


@pytest.mark.parametrize(
    "text",
    [
        "python3[4242]: segfault at 0 ip 00007fd4 sp 00007ffe error 4 in libc.so.6[167ad8,7fd4+156000]",
        "traps: python3[4242] general protection fault ip:7f12 sp:7ffd error:0 in libc.so.6[7f12+1c5000]",
        "traps: python3[4242] trap invalid opcode ip:7f12 sp:7ffd error:0 in _native.so[7f12+1000]",
        "python3[4242]: unhandled exception: DABT (lower EL), ESR 0x92000004, level 0 translation fault in libc.so.6",
    ],
)
def test_fault_is_no_kill(machine, text):
    """A program that has no file of faulthandler died of a signal all the same: the kernel says so."""
    machine.says((-5, "boot"), (10.5, text))

    account = machine.account(machine.box())
    assert account == Kernel("none", (f"the kernel's log: {text}",))
    found = judge(replace_case(Run(RUN, 1, end_reason="unclean", last_seen_us=2, is_alive=False, kernel=account)))
    assert (found.cause, found.confidence, found.alternatives) == ("native_fault", "likely", ("killed",))
    assert found.evidence[0].endswith(text)
    machine.says((-5, "boot"), (10.5, text.replace("4242", "77")))
    assert "no kill" in machine.account(machine.box()).lines[0]


def test_log_that_names_others_only_rules_it_out(machine):
    """It goes back to before the end, so a kill of the run would be in it, though its group has had one."""
    machine.says((-5, "boot"), (10.5, OTHER), (10.6, "oom_reaper: reaped process 4242"))
    box = machine.box((2, 3))
    machine.kills(group=3, machine=6)

    found = machine.account(box)
    assert found.confidence == "none"
    assert "4242" in found.lines[0]


def test_log_that_begins_after_the_end_rules_nothing_out(machine):
    """Its older lines are overwritten: then the counters decide."""
    machine.says((60, "usb 1-1: new device"))
    box = machine.box((2, 3))
    machine.kills(group=3, machine=6)

    assert machine.account(box).confidence == "likely"


@pytest.mark.parametrize("seconds", [-3_600, 86_400])
def test_same_pid_at_another_time_is_another_process(machine, seconds):
    """A pid comes round again."""
    machine.says((-10_000, "boot"), (seconds, KILL))

    assert machine.account(machine.box()).confidence == "none"


def test_line_that_a_program_wrote_is_no_line_of_the_kernel(machine):
    """Root may write into /dev/kmsg: such records have another facility."""
    machine.says((10.5, KILL), facility=1)

    assert machine.account(machine.box()).confidence == "none"  # by the counters
    assert "oom_kill" in machine.account(machine.box()).lines[0]


def test_pid_of_another_namespace_is_not_looked_up(machine, monkeypatch):
    """In a container 4242 is another process than in the kernel's log."""
    machine.says((-5, "boot"), (10.5, KILL))
    box = machine.box(kernel_pid=0)
    assert "oom_kill" in machine.account(box).lines[0]

    monkeypatch.setattr(kernel, "_FIRST_PID_NAMESPACE", 1)
    assert kernel.kernel_pid(machine.proc) == 0
    assert "oom_kill" in machine.account(machine.box()).lines[0]


def test_other_boot_has_other_counters(machine):
    """A log and counters of this boot say nothing of a run before it."""
    machine.says((10.5, KILL))
    box = machine.box()

    assert machine.account(replace(box, header=replace(box.header, boot_id="another"))) is None


# --- the counters


def test_group_that_the_process_had_for_itself_is_certain(machine):
    """One of the group was killed, and there was only this one."""
    box = machine.box((2, 1))
    machine.kills(group=3, machine=6)

    found = machine.account(box)
    assert found.confidence == "certain"
    assert "rose from 2 to 3" in found.lines[0]
    assert str(machine.group) in found.lines[0]


@pytest.mark.parametrize("samples", [[(2, 4)], [(2, None)], [(2, 1), (2, 2)]])
def test_group_of_several_is_likely(machine, samples):
    """Another one may have been killed; so it may if the sample does not say how many there were."""
    box = machine.box(*samples)
    machine.kills(group=3, machine=6)

    assert machine.account(box).confidence == "likely"


def test_kill_of_an_unknown_time_is_possible(machine):
    """A program that is no node has no samples: one of its workers may have been killed an hour before it was."""
    box = machine.box()
    machine.kills(group=3, machine=6)

    found = machine.account(box)
    assert found.confidence == "possible"
    assert "rose from 2 to 3 since the start" in found.lines[0]
    assert "at the end" not in found.lines[0]


def test_kill_before_the_last_sample_was_another_ones(machine):
    """The run lived on after it."""
    box = machine.box((2, 2), (3, 1))
    machine.kills(group=3, machine=6)

    assert machine.account(box).confidence == "none"


def test_counter_that_did_not_rise_rules_it_out(machine):
    """Then the kernel killed others only."""
    box = machine.box()
    machine.kills(group=2, machine=9)

    assert machine.account(box).confidence == "none"


def test_group_that_is_gone_leaves_the_machine(machine):
    """Systemd removes the group of a service that has ended: the machine's counter may still rule it out."""
    box = machine.box((2, 1))
    moved = machine.group.rename(machine.group.with_name("away"))
    (moved / machine.counter).unlink()
    machine.group.mkdir()  # made again, with the same name, for the next run
    machine.kills(group=0, machine=5)
    assert machine.account(box).confidence == "none"

    machine.kills(group=0, machine=6)
    found = machine.account(box)
    assert found.confidence == "possible"
    assert "1 process(es)" in found.lines[0]


def test_group_is_found_below_another_path(machine):
    """The next start may be in another group than the dead run: it is found by its inode."""
    box = machine.box((2, 1))
    machine.kills(group=3, machine=6)
    (machine.proc / "cgroup").write_text("4:memory:/user/me\n0::/user/me\n")

    assert machine.account(box).confidence == "certain"


@pytest.mark.parametrize("content", [b"", b"oom_kill\n", b"oom_kill many\n", b"\xff\xfe", b"oom_kill 3 4\n"])
def test_counters_that_make_no_sense_are_no_evidence(machine, content):
    """Neither is a missing one, or a log that is a folder."""
    box = machine.box((2, 1))
    (machine.group / machine.counter).write_bytes(content)
    (machine.proc.parent / "vmstat").write_bytes(content)
    machine.log.unlink()
    machine.log.mkdir()

    assert machine.account(box) is None
    assert KernelSources(Path("nothing"), Path("nothing"), None).of_box(box) is None
    assert oom_kills(Path("nothing"), Path("nothing")) == OomKills()


def test_header_of_an_older_program_is_read(machine):
    """It has zeros where the counters are now: nothing is known, and nothing is made up."""
    box = machine.box()
    older = replace(box.header, oom_kills=OomKills(), kernel_pid=0)
    packed = older.pack()
    before = layout.HEADER.size - 128
    assert packed[before : layout.HEADER.size] == bytes(128)
    assert layout.read_header(packed) == older
    assert layout.read_header(box.header.pack()) == box.header

    assert machine.account(replace(box, header=older)) is None


def test_samples_of_an_older_program_are_read():
    """Their spare bytes are zeros."""
    page = layout.pack_vitals(1, Vitals(7, load=1.0))
    whole = bytes(layout.VITALS_AT) + page
    assert layout.vitals_in(whole) == [Vitals(7, load=1.0)]
    assert page[layout.VITALS.size - 20 : layout.VITALS.size - 4] == bytes(16)

    counted = Vitals(7, load=1.0, group_oom_kills=0, group_processes=3)
    assert layout.vitals_in(bytes(layout.VITALS_AT) + layout.pack_vitals(1, counted)) == [counted]


# --- a log from elsewhere, the journal, what recovery kept


@pytest.mark.parametrize(
    ("line", "confidence"),
    [
        ("[{at}] {kill}", "certain"),
        ("<3>[{at}] {kill}", "certain"),
        ("3,1,{us},-;{kill}", "certain"),
        ("Nov 30 09:56:01 pi kernel: {kill}", "likely"),  # of which boot?
        ("[Mon Nov 30 09:56:01 2026] {kill}", "likely"),
    ],
)
def test_log_of_another_machine_is_a_file(tmp_path, line, confidence):
    """What dmesg, journalctl and a system's log files print; the run is of another machine and boot."""
    us = STARTED_NS // 1_000 + 5_000_000
    at = f"{us // 1_000_000:5d}.{us % 1_000_000:06d}"
    log = tmp_path / "dmesg.txt"
    log.write_text(f"[    0.000000] Linux version 6\n{line.format(at=at, us=us, kill=KILL)}\n")
    made = new_header(layout.NODE, RUN, "1", None, Sizes(1, 1))
    header = replace(made, pid=PID, boot_id="of-elsewhere", started_ns=STARTED_NS, kernel_pid=0)

    found = KernelSources(log=log, is_given=True).of_box(layout.Box(header))
    assert found.confidence == confidence
    assert KILL in found.lines[0]


def test_log_that_is_missing_is_an_error(tmp_path, program, capsys):
    """A wrong path must not pass for a log without a kill."""
    data = program(2) / "data"

    assert script([str(data), "--kernel-log", str(tmp_path / "nothing")]) == 2
    assert "nothing cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command(["autopsy", str(data), "--kernel-log", str(tmp_path / "nothing")])


def test_journal_knows_of_earlier_boots(tmp_path, monkeypatch):
    """Its fields choose the kernel's lines of that boot; a journal that hangs or fails is none."""
    monkeypatch.setattr(kernel, "_is_first_namespace", lambda _: True)
    journal = tmp_path / "journalctl"
    journal.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\necho "2026-11-30T09:56:01+0000 pi kernel: {KILL}"\n')
    journal.chmod(0o700)
    run = Run(RUN, 1_000_000_000, pid=PID, boot_id="0123-4567", last_seen_us=1_000_000_000)

    found = KernelSources(log=None, journal=str(journal)).of_run(run)
    assert found == Kernel("certain", (f"the journal: 2026-11-30T09:56:01+0000 pi kernel: {KILL}",))
    assert "_BOOT_ID=01234567" in (tmp_path / "asked").read_text()
    assert KernelSources(log=None, journal=str(journal)).of_run(replace(run, pid=1)) is None
    assert KernelSources(log=None, journal=str(tmp_path / "none")).of_run(run) is None
    journal.write_text("#!/bin/sh\nexit 1\n")
    assert KernelSources(log=None, journal=str(journal)).of_run(run) is None


@pytest.mark.parametrize("boot_id", ["\0", "a b", "+", "x" * 40, "", None])
def test_journal_is_not_asked_about_a_boot_that_is_none(tmp_path, monkeypatch, boot_id):
    """A database may hold anything in that column."""
    monkeypatch.setattr(kernel, "_is_first_namespace", lambda _: True)
    journal = tmp_path / "journalctl"
    journal.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    journal.chmod(0o700)
    run = Run(RUN, 1_000_000_000, pid=PID, boot_id=boot_id, last_seen_us=1_000_000_000)

    assert KernelSources(log=None, journal=str(journal)).of_run(run) is None
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    "kept",
    [None, [], [{}], [5], [{"kernel": 1}], [{"kernel": {"confidence": "sure", "lines": []}}], [{"kernel": {}}], {}],
)
def test_kept_account_that_makes_no_sense_is_none(kept):
    """The column may hold anything."""
    assert kernel_of(kept) is None
    assert kernel_of([{"kernel": {"confidence": "likely", "lines": ["a", 1]}}]) == Kernel("likely", ("a",))


def test_line_of_any_kind_is_parsed():
    """Never raises."""
    assert parse_line("6,1,2000,-,caller=T1;hello;you") == (2_000, "hello;you")
    assert parse_line("[   12.000345] hello") == (12_000_345, "hello")
    assert parse_line("12,1,2000,-;from systemd") is None
    assert parse_line(" DEVICE=+usb:1-1") == (None, "DEVICE=+usb:1-1")


# --- the verdict


def test_account_decides_the_verdict():
    """A certain one is the verdict; one that rules it out leaves no such alternative, and nothing to look up."""

    def verdict(account, **others):
        run = Run(RUN, 1, end_reason="unclean", last_seen_us=2, is_alive=False, kernel=account, **others)
        return judge(replace_case(run))

    certain = verdict(Kernel("certain", (f"the kernel's log: {KILL}",)))
    assert (certain.cause, certain.confidence, certain.alternatives) == ("out_of_memory", "certain", ())
    assert KILL in certain.evidence[0]
    likely = verdict(Kernel("likely", ("oom_kill rose",)))
    assert (likely.cause, likely.confidence, likely.alternatives) == ("out_of_memory", "likely", ("killed",))
    assert any("dmesg" in line for line in likely.missing)
    ruled_out = verdict(Kernel("none", ("oom_kill is 3",)))
    assert (ruled_out.cause, ruled_out.alternatives) == ("killed", ())
    assert "oom_kill is 3" in ruled_out.evidence
    assert not any("kernel killed it" in line for line in ruled_out.missing)
    # Little memory was left, and yet the kernel did not kill it.
    low = (Vitals(1, 900_000_000, 900_000_000), Vitals(2, 980_000_000, 1_000_000))
    assert verdict(Kernel("none", ("oom_kill is 3",)), vitals=low).cause == "killed"
    both = verdict(Kernel("possible", ("elsewhere",)), vitals=(low[0], replace(low[1], rss_bytes=990_000_000)))
    assert (both.cause, both.confidence) == ("out_of_memory", "likely")


def replace_case(run):
    """A case of this run alone."""
    from hearthnet.forensics.model import Case

    return Case(Path("data"), run, [run])


# --- a real kill


@pytest.fixture
def small_group():
    """A control group of 150 MB, where this process may make one."""
    own = next(kernel.groups_of(Path("/proc/self/cgroup")), None)
    is_first = own is not None and own.is_relative_to(_REAL_GROUPS / "memory")
    root, limit = (_REAL_GROUPS / "memory", "memory.limit_in_bytes") if is_first else (_REAL_GROUPS, "memory.max")
    group = root / f"hearthnet-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text("150000000")
        with suppress(OSError):  # no swap, or not counted
            (group / ("memory.memsw.limit_in_bytes" if is_first else "memory.swap.max")).write_text(
                "150000000" if is_first else "0"
            )
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no memory control group can be made at {group}: {error.strerror}")
    yield group
    group.rmdir()


def test_run_that_the_kernel_killed_for_memory(small_group, tmp_path):
    """Autopsy names it with the kernel's line; without its log it is possible by the counter; also after a start."""
    done = subprocess.run([sys.executable, "-c", GREEDY, tmp_path, small_group], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr

    without_log = judge(gather(tmp_path / "data", kernel=KernelSources(log=None)))
    assert (without_log.cause, without_log.confidence) == ("out_of_memory", "possible")
    assert "oom_kill" in without_log.evidence[0]

    case = gather(tmp_path / "data")
    verdict = judge(case)
    is_readable = os.access("/dev/kmsg", os.R_OK) and kernel.kernel_pid() != 0
    assert (verdict.cause, verdict.confidence) == ("out_of_memory", "certain" if is_readable else "possible")
    if is_readable:
        assert f"Killed process {case.run.pid} " in verdict.evidence[0]

    with telemetry.open(ObservabilityConfig(data_dir=tmp_path / "data", log_dir=tmp_path / "log", max_disk_mb=64)):
        pass
    later = gather(tmp_path / "data", run_id=case.run.run_id, kernel=KernelSources(log=None))
    assert not later.run.has_box
    assert judge(later).evidence[0] == verdict.evidence[0]
    assert judge(later).confidence == verdict.confidence


def test_run_that_was_killed_otherwise_is_not_said_to_lack_memory(program):
    """Where the kernel's counters or its log can be read, a kill -9 has no such alternative."""
    verdict = judge(gather(program(3) / "data"))

    assert verdict.cause == "killed"
    if oom_kills().on_machine is not None:
        assert "out_of_memory" not in verdict.alternatives

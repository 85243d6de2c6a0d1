"""What is changed, and the tests that should notice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["PACKAGE", "ROOT", "SUBJECTS", "TESTS", "Subject", "path_of"]

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE, TESTS = "hearthnet/observability", "tests/observability"


class Subject(NamedTuple):
    """Modules below PACKAGE, and the tests below TESTS that should notice a change to them, the quickest first."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


SUBJECTS = {
    "ring": Subject(
        ("store/ring.py",),
        (
            "store/test_ring.py",
            "store/test_ring_settled.py",
            "store/test_cursors.py",
            "store/test_writer.py",
            "store/test_writer_failures.py",
        ),
    ),
    "record": Subject(
        ("records/record.py",),
        (
            "records/test_record_values.py",
            "records/test_results.py",
            "records/test_record.py",
            "records/test_record_kind.py",
            "traces/test_trace_whole.py",
            "redaction/test_redaction.py",
            "redaction/test_redaction_careless.py",
        ),
    ),
    "recorder": Subject(
        ("records/recorder.py",),
        (
            "records/test_recorder_buffer.py",
            "records/test_recorder_wakes.py",
            "traces/test_trace_whole.py",
            "logs/test_ordinary.py",
            "store/test_recent.py",
            "store/test_writer.py",
            "test_telemetry_uncommitted.py",
            "test_runtime.py",
        ),
    ),
    "ratelimit": Subject(("../bus/ratelimit.py",), ("../bus/test_ratelimit.py",)),
    "limits": Subject(
        ("logs/messages.py",),
        (
            "logs/test_messages.py",
            "logs/test_messages_place.py",
            "logs/test_ordinary.py",
            "test_logging_limited.py",
            "test_logging_properties.py",
            "test_logging.py",
            "test_logging_others.py",
            "middleware/test_request_told_once.py",
        ),
    ),
    "ordinary": Subject(
        ("logs/ordinary.py",),
        (
            "logs/test_ordinary.py",
            "logs/test_journal.py",
            "test_logging.py",
            "records/test_recorder_wakes.py",
            "traces/test_trace_same_record.py",
            "traces/test_trace_whole.py",
            "process/test_uncaught.py",
        ),
    ),
    "daily_file": Subject(
        ("logs/daily_file.py",),
        ("logs/test_daily_file.py", "logs/test_daily_file_clocks.py", "test_logging.py", "test_telemetry.py"),
    ),
    "traces": Subject(
        tuple(
            f"traces/{name}.py"
            for name in (
                "begin",
                "trace",
                "span",
                "bodies",
                "encoding",
                "decorator",
                "generators",
                "misuse",
                "propagation",
                "traceparent",
            )
        ),
        (
            "traces",
            "test_tracing.py",
            "test_tracing_blocks.py",
            "logs/test_fields.py",
            "logs/test_fields_calls.py",
            "logs/test_messages_place.py",
        ),
    ),
    "ids": Subject(("records/ids.py",), ("records/test_ids.py", "traces/test_traceparent.py", "test_runtime.py")),
    "box": Subject(
        ("records/blackbox.py", "records/box_file.py"),
        (
            "records/test_box_file.py",
            "records/test_blackbox_moves.py",
            "records/test_blackbox.py",
            "records/test_populate_pages.py",
            "records/test_recorder_buffer.py",
        ),
    ),
    "writer": Subject(
        ("store/writer.py",),
        (
            "store/test_writer.py",
            "store/test_writer_failures.py",
            "store/test_writer_runs.py",
            "store/test_cursors.py",
            "store/test_ring.py",
            "store/test_budget.py",
            "store/test_budget_quota.py",
        ),
    ),
    "budget": Subject(
        ("store/budget.py",),
        (
            "store/test_budget.py",
            "store/test_budget_shares.py",
            "store/test_budget_quota.py",
            "store/test_writer.py",
            "store/test_writer_failures.py",
            "store/recovery/test_box_budget.py",
            "store/test_store_sidecars.py",
            "store/test_store_faults.py",
            "store/test_store_faults_disk.py",
        ),
    ),
    "merge": Subject(
        ("store/merge.py",),
        ("store/test_merge.py", "store/recovery/test_rebuild.py", "store/recovery/test_recover.py"),
    ),
    "recovery": Subject(
        ("store/recovery/recover.py",),
        (
            "store/recovery/test_recover_once.py",
            "store/recovery/test_opening.py",
            "store/recovery/test_recover.py",
            "store/recovery/test_recover_boxes.py",
        ),
    ),
    "living": Subject(
        ("store/recovery/living.py",),
        ("store/recovery/test_living.py", "store/test_migrate.py"),
    ),
    "boxes": Subject(
        ("store/recovery/box_budget.py", "store/recovery/box_records.py"),
        ("store/recovery/test_box_records.py", "store/recovery/test_box_budget.py"),
    ),
    "rebuild": Subject(
        ("store/recovery/rebuild.py", "store/recovery/log_line.py"),
        ("store/recovery/test_log_line.py", "store/recovery/test_rebuild.py"),
    ),
    "quarantine": Subject(
        ("store/recovery/quarantine.py", "store/recovery/opening.py"),
        ("store/recovery/test_opening.py", "store/recovery/test_quarantine.py", "store/recovery/test_recover.py"),
    ),
    "run_ends": Subject(("store/recovery/run_ends.py",), ("store/recovery/test_run_ends.py", "../checks/test_runs.py")),
    "doctor": Subject(("doctor.py",), ("test_doctor.py", "reports/test_report_file.py")),
    "notify": Subject(
        tuple(f"../notify/{name}.py" for name in ("told", "kept", "message", "deliver", "channels")),
        ("../notify", "../cli/doctor/test_notify.py"),
    ),
    "redaction": Subject(
        tuple(
            f"redaction/{name}.py"
            for name in (
                "rules",
                "quick",
                "names",
                "values",
                "shapes",
                "vendors",
                "arguments",
                "directives",
                "expressions",
                "options",
                "spoken",
                "told",
            )
        ),
        ("redaction", "records/test_record_values.py", "logs/test_tracebacks.py"),
    ),
}


def path_of(module: str) -> str:
    """Returns the path of a module from ROOT."""
    return os.path.normpath(f"{PACKAGE}/{module}")

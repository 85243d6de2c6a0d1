"""Protocol constants and the fixed bounds of telemetry.

Nothing here is configurable: changing one would break interoperation with other nodes, or users' queries. Settings are
in `config.py`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Interoperation (fixed by the protocol).
PROTOCOL_TIMESTAMP_WINDOW_S: Final = 60  # a signed call older or newer than this is `expired`
RPC_DEFAULT_TIMEOUT_SECONDS: Final = 30
HEALTH_WINDOW_CALLS: Final = 100
HEALTH_MIN_CALLS: Final = 20  # below this a success rate is not significant
HEALTH_QUARANTINE_THRESHOLD: Final = 0.5
HEALTH_QUARANTINE_SECONDS: Final = 60
RATE_LIMIT_SOFT_RPS_PER_CAP: Final = 10
RATE_LIMIT_HARD_RPS_PER_CAP: Final = 100
RATE_LIMIT_SOFT_RPS_TOTAL: Final = 100
RATE_LIMIT_HARD_RPS_TOTAL: Final = 1000
MANIFEST_TTL_SECONDS: Final = 30
MANIFEST_REPUBLISH_INTERVAL_SECONDS: Final = 20
RESERVED_CAPABILITY_PREFIXES: Final = ("llm", "embed", "rag", "file", "market", "chat", "community")
SENDER: Final = "X-HearthNet-From"  # header of every request and response: the id of the node that sent it

# Observability (fixed by its spec).
DATABASE: Final = "telemetry.db"
SALVAGE: Final = "hearthnet log and autopsy read on; the next program that records there salvages what can be read"
TRACE_RING_BUFFER: Final = 10_000
LOG_RING_BUFFER: Final = 10_000
NOTABLE_SHARE: Final = 0.2  # share of each ring reserved for failed or slow traces, warnings and errors
LOG_RETENTION_DAYS: Final = 14
LEVELS: Final = ("debug", "info", "warning", "error", "critical")

# Bounds of one record.
MAX_TRACE_ROW_BYTES: Final = 8 * 1024
MAX_LOG_ROW_BYTES: Final = 4 * 1024
MAX_JSON_LINE_BYTES: Final = 32 * 1024
MAX_STRING_BYTES: Final = 2 * 1024
MAX_NESTING: Final = 6
MAX_KEYS: Final = 64
MAX_CAPABILITY_CHARS: Final = 64  # longer than any sensible dotted name; keeps labels and columns small
REDACTED: Final = "[redacted]"  # recorded in place of a secret
MIN_SECRET_CHARS: Final = 8  # a shorter one cannot be distinguished from a word, even with its name

# Rows of the side tables, bounded so that a restart loop or a failing disk cannot grow them without end.
MAX_GAP_ROWS: Final = 1_000
MAX_RUN_ROWS: Final = 1_000
NODE_ROLE: Final = "node"  # of a run
IMPORTED: Final = "imported"  # why a run has ended, as far as an export says
LIBRARY_ROLE: Final = "library"  # of a run of any other program that records into the store
# Logger names that readers of stored records compare with: fixed, even if their module moves.
CRASH_LOGGER: Final = "hearthnet.observability.capture"
TRACE_LOGGER: Final = "hearthnet.trace"  # its lines with this message, in the JSON log alone, are of ended traces:
DONE: Final = "done"
WATCHDOG_LOGGER: Final = "hearthnet.observability.watchdog"

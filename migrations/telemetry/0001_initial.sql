-- The telemetry store: a ring of finished traces, a ring of log records, the runs of the node, and the gaps.
-- Times ending in _us are UTC microseconds since 1970; durations are milliseconds.
-- The views below are the public interface; tables may gain columns.

-- One row per trace, with its spans as JSON. seq rises over all runs and all tables and defines the order.
-- No secondary index: aggregates over 10,000 rows take about a millisecond, and each index doubles the cost of a write.
CREATE TABLE traces (
    seq             INTEGER PRIMARY KEY,
    run_id          TEXT    NOT NULL,              -- runs.run_id
    trace_id        TEXT    NOT NULL,              -- ULID; several rows may share it
    parent_id       TEXT,                          -- the caller's span
    capability      TEXT    NOT NULL,              -- without its version
    version         TEXT,
    started_us      INTEGER NOT NULL,
    started_mono_ns INTEGER NOT NULL,              -- monotonic clock; comparable within one run only
    duration_ms     REAL    NOT NULL,
    result          TEXT    NOT NULL,              -- ok, a wire error code, cancelled, interrupted
    error           TEXT,                          -- type and message
    notable         INTEGER NOT NULL,              -- 1: failed or slow; has a share of the ring of its own
    spans           TEXT    NOT NULL,              -- [{id, parent, name, offset_ms, duration_ms, status, extras}]
    extras          TEXT    NOT NULL               -- {}; "truncated" counts the spans that did not fit
) STRICT;

CREATE TABLE logs (
    seq      INTEGER PRIMARY KEY,
    run_id   TEXT    NOT NULL,
    ts_us    INTEGER NOT NULL,
    level    TEXT    NOT NULL,                     -- debug, info, warning, error, critical
    logger   TEXT    NOT NULL,
    msg      TEXT    NOT NULL,
    trace_id TEXT,
    span_id  TEXT,
    notable  INTEGER NOT NULL,                     -- 1: warning or worse
    repeats  INTEGER NOT NULL,                     -- equal records that this one stands for, itself not included
    extras   TEXT    NOT NULL,
    exc      TEXT                                  -- the traceback
) STRICT;

-- One row per run. Without an end it did not stop cleanly, or is running.
CREATE TABLE runs (
    run_id     TEXT    NOT NULL PRIMARY KEY,
    node_id    TEXT,
    version    TEXT    NOT NULL,                   -- of hearthnet
    pid        INTEGER NOT NULL,
    boot_id    TEXT,                               -- of the kernel
    started_us INTEGER NOT NULL,
    ended_us   INTEGER,
    end_reason TEXT
) STRICT;

-- Records that were dropped before they could be written.
CREATE TABLE gaps (
    seq    INTEGER PRIMARY KEY,
    ts_us  INTEGER NOT NULL,
    kind   TEXT    NOT NULL,                       -- trace, log
    reason TEXT    NOT NULL,
    count  INTEGER NOT NULL
) STRICT;

CREATE VIEW recent AS
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1e6, 'unixepoch') AS ts,
           trace_id, capability, version, result, duration_ms, error,
           json_array_length(spans) AS span_count, run_id
      FROM traces
     ORDER BY seq DESC;

-- One row per span, with columns of its trace.
CREATE VIEW spans AS
    SELECT t.seq                                                    AS seq,
           strftime('%Y-%m-%dT%H:%M:%fZ',
                    t.started_us / 1e6 + s.value ->> 'offset_ms' / 1e3, 'unixepoch') AS ts,
           t.trace_id                                               AS trace_id,
           t.capability                                             AS capability,
           s.value ->> 'id'                                         AS id,
           s.value ->> 'parent'                                     AS parent,
           s.value ->> 'name'                                       AS name,
           t.started_us + CAST((s.value ->> 'offset_ms') * 1000 AS INTEGER) AS started_us,
           s.value ->> 'offset_ms'                                  AS offset_ms,
           s.value ->> 'duration_ms'                                AS duration_ms,
           s.value ->> 'status'                                     AS status,
           s.value -> 'extras'                                      AS extras
      FROM traces AS t, json_each(t.spans) AS s;

-- Failed traces, and log records of level error and above, newest first.
CREATE VIEW errors AS
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1e6, 'unixepoch') AS ts,
           'trace' AS kind, trace_id, capability AS name, result, error
      FROM traces
     WHERE result NOT IN ('ok', 'cancelled')
     UNION ALL
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1e6, 'unixepoch'),
           'log', trace_id, logger, level, msg
      FROM logs
     WHERE level IN ('error', 'critical')
     ORDER BY seq DESC;

-- One row per capability, over all retained traces; ts is the time of the last call.
CREATE VIEW capability_stats AS
    WITH ranked AS (
        SELECT capability, result, duration_ms, started_us,
               row_number() OVER (PARTITION BY capability ORDER BY duration_ms) AS place,
               count(*)     OVER (PARTITION BY capability)                      AS total
          FROM traces
    )
    SELECT capability,
           strftime('%Y-%m-%dT%H:%M:%fZ', max(started_us) / 1e6, 'unixepoch') AS ts,
           count(*)                                               AS count,
           sum(result NOT IN ('ok', 'cancelled'))                 AS failed,
           1.0 * sum(result NOT IN ('ok', 'cancelled')) / count(*) AS error_rate,
           min(CASE WHEN place >= 0.50 * total THEN duration_ms END) AS p50_ms,
           min(CASE WHEN place >= 0.90 * total THEN duration_ms END) AS p90_ms,
           min(CASE WHEN place >= 0.99 * total THEN duration_ms END) AS p99_ms,
           max(duration_ms)                                       AS max_ms
      FROM ranked
     GROUP BY capability;

CREATE VIEW slow AS
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1e6, 'unixepoch') AS ts,
           trace_id, capability, result, duration_ms, error
      FROM traces
     ORDER BY duration_ms DESC;

-- Everything in one order: traces, log records and gaps.
CREATE VIEW timeline AS
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1e6, 'unixepoch') AS ts,
           'trace' AS kind, result AS status, capability AS name, error AS text, duration_ms, trace_id, run_id
      FROM traces
     UNION ALL
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1e6, 'unixepoch'),
           'log', level, logger, msg, NULL, trace_id, run_id
      FROM logs
     UNION ALL
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1e6, 'unixepoch'),
           'gap', reason, kind, count || ' lost', NULL, NULL, NULL
      FROM gaps
     ORDER BY seq DESC;

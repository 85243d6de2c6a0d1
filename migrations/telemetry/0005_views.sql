-- The views say of themselves what they are: SQLite keeps a comment that stands inside a statement, so `.schema` shows
-- it, and `hearthnet telemetry sql --list` reads it. A column's comment stands behind its name, and goes on in lines of
-- its own. The columns that were there keep their names and their places; new ones come last.

DROP VIEW IF EXISTS recent;
CREATE VIEW recent (
    -- Traces, newest first: a row a call of a capability.
    seq,          -- number of the record; rises over all runs, and is the order
    ts,           -- when it began, UTC
    trace_id,     -- the call's id, a ULID; several rows share one where a trace came by more than once
    capability,   -- what was called, without its version
    version,      -- of the capability
    result,       -- ok, a wire error code, cancelled, or interrupted: its run died
    duration_ms,  -- how long it took; of an interrupted one: its age when its run was seen last
    error,        -- type and message of what it failed with
    span_count,   -- how many spans it has
    run_id,       -- the run that it belongs to
    parent_id,    -- the caller's span, where the caller told it
    extras        -- JSON: caller is the node id of who called
) AS
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1e6, 'unixepoch'),
           trace_id, capability, version, result, duration_ms, error,
           json_array_length(spans),
           run_id, parent_id, extras
      FROM traces
     ORDER BY seq DESC;

DROP VIEW IF EXISTS spans;
CREATE VIEW spans (
    -- A row a span: the steps of each call, the trace's own facts beside them.
    seq,          -- of the trace
    ts,           -- when the span began, UTC
    trace_id,     -- of the trace
    capability,   -- of the trace
    id,           -- of the span, within its trace
    parent,       -- id of the span around it; NULL: directly under the trace
    name,         -- which step
    started_us,   -- when it began, UTC microseconds
    offset_ms,    -- the same, since the trace began
    duration_ms,  -- how long it took, the spans within it included
    status,       -- ok, error, cancelled, or open: its run died meanwhile
    extras,       -- JSON: what the step knew, such as model or tokens_out
    run_id        -- the run that it belongs to
) AS
    SELECT t.seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', t.started_us / 1e6 + s.value ->> 'offset_ms' / 1e3, 'unixepoch'),
           t.trace_id, t.capability,
           s.value ->> 'id',
           s.value ->> 'parent',
           s.value ->> 'name',
           t.started_us + CAST((s.value ->> 'offset_ms') * 1000 AS INTEGER),
           s.value ->> 'offset_ms',
           s.value ->> 'duration_ms',
           s.value ->> 'status',
           s.value -> 'extras',
           t.run_id
      FROM traces AS t, json_each(t.spans) AS s;

DROP VIEW IF EXISTS errors;
CREATE VIEW errors (
    -- What went wrong, newest first: failed traces, and log records of level error and critical.
    seq,       -- number of the record, and the order
    ts,        -- when the trace began, or the record was made, UTC
    kind,      -- trace or log
    trace_id,  -- of the trace, or that the record was made in
    name,      -- a trace's capability, a record's logger
    result,    -- a trace's result, a record's level
    error,     -- type and message of the error, or the record's message
    run_id,    -- the run that it belongs to
    exc,       -- a record's traceback
    extras     -- JSON: of the trace or the record
) AS
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1e6, 'unixepoch'),
           'trace', trace_id, capability, result, error, run_id, NULL, extras
      FROM traces
     WHERE result NOT IN ('ok', 'cancelled')
     UNION ALL
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1e6, 'unixepoch'),
           'log', trace_id, logger, level, msg, run_id, exc, extras
      FROM logs
     WHERE level IN ('error', 'critical')
     ORDER BY seq DESC;

DROP VIEW IF EXISTS capability_stats;
CREATE VIEW capability_stats (
    -- A row a capability, over all that the ring holds. Cancelled calls count, and did not fail.
    -- A quantile is the nearest rank: the shortest duration that at least that share of the calls did not exceed,
    -- so it is always one that a call took.
    capability,  -- without its version
    ts,          -- as every view has it: last_ts
    count,       -- calls
    failed,      -- errors, by the name that it had first
    error_rate,  -- errors of all calls, 0 to 1
    p50_ms,      -- half of the calls took no longer
    p90_ms,      -- nine of ten took no longer
    p99_ms,      -- 99 of a hundred took no longer
    max_ms,      -- the longest
    errors,      -- calls that failed
    last_ts      -- when a call began last, UTC
) AS
    WITH ranked AS (
        SELECT capability, duration_ms, started_us,
               result NOT IN ('ok', 'cancelled')                                AS is_error,
               row_number() OVER (PARTITION BY capability ORDER BY duration_ms) AS place,
               count(*)     OVER (PARTITION BY capability)                      AS total
          FROM traces
    ), counted AS (
        SELECT capability,
               count(*)      AS count,
               sum(is_error) AS errors,
               -- In whole numbers: a share such as 0.9 has no exact value, and could miss a place by it.
               min(CASE WHEN 100 * place >= 50 * total THEN duration_ms END) AS p50_ms,
               min(CASE WHEN 100 * place >= 90 * total THEN duration_ms END) AS p90_ms,
               min(CASE WHEN 100 * place >= 99 * total THEN duration_ms END) AS p99_ms,
               max(duration_ms) AS max_ms,
               strftime('%Y-%m-%dT%H:%M:%fZ', max(started_us) / 1e6, 'unixepoch') AS last_ts
          FROM ranked
         GROUP BY capability
    )
    SELECT capability, last_ts, count, errors, 1.0 * errors / count, p50_ms, p90_ms, p99_ms, max_ms, errors, last_ts
      FROM counted;

DROP VIEW IF EXISTS slow;
CREATE VIEW slow (
    -- Traces, slowest first.
    seq,          -- number of the record
    ts,           -- when it began, UTC
    trace_id,     -- the call's id
    capability,   -- what was called
    result,       -- how it ended, as in recent
    duration_ms,  -- how long it took
    error,        -- type and message of what it failed with
    run_id        -- the run that it belongs to
) AS
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1e6, 'unixepoch'),
           trace_id, capability, result, duration_ms, error, run_id
      FROM traces
     ORDER BY duration_ms DESC;

DROP VIEW IF EXISTS timeline;
CREATE VIEW timeline (
    -- Everything in one order, newest first: traces, log records, and gaps, where records were lost.
    seq,          -- number of the record, and the order
    ts,           -- when a trace began, a record was made, a loss was noticed, UTC
    kind,         -- trace, log or gap
    status,       -- a trace's result, a record's level, why something was lost
    name,         -- a trace's capability, a record's logger, what was lost
    text,         -- a trace's error, a record's message, how many were lost
    duration_ms,  -- of a trace
    trace_id,     -- of the trace, or that the record was made in
    run_id,       -- the run that it belongs to
    extras        -- JSON: of the trace or the record
) AS
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1e6, 'unixepoch'),
           'trace', result, capability, error, duration_ms, trace_id, run_id, extras
      FROM traces
     UNION ALL
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1e6, 'unixepoch'),
           'log', level, logger, msg, NULL, trace_id, run_id, extras
      FROM logs
     UNION ALL
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1e6, 'unixepoch'),
           'gap', reason, kind, count || ' lost', NULL, NULL, NULL, NULL
      FROM gaps
     ORDER BY seq DESC;

DROP VIEW IF EXISTS minutes;
CREATE VIEW minutes (
    -- A row a minute in which a call began, newest first; a minute without a call has none.
    ts,          -- when the minute began, UTC
    count,       -- calls that began in it
    errors,      -- how many of them failed
    error_rate,  -- errors of all calls, 0 to 1
    avg_ms,      -- mean duration
    max_ms       -- the longest
) AS
    SELECT strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 60000000 * 60, 'unixepoch'),
           count(*),
           sum(result NOT IN ('ok', 'cancelled')),
           1.0 * sum(result NOT IN ('ok', 'cancelled')) / count(*),
           avg(duration_ms),
           max(duration_ms)
      FROM traces
     GROUP BY started_us / 60000000
     ORDER BY started_us / 60000000 DESC;

DROP VIEW IF EXISTS run_history;
CREATE VIEW run_history (
    -- A row a life of the node, newest first.
    run_id,       -- its name, a ULID
    ts,           -- when it started, UTC
    ended,        -- when it ended, UTC; of one that was killed: its last sign of life; NULL: it runs, or was killed
                  -- and no start has noticed yet
    end_reason,   -- clean, unclean (killed, or the machine went down), rebuilt from the logs, or NULL as above
    lived_s,      -- from its start to its end, or to its newest record
    down_s,       -- from the end of the run before it to its start
    is_new_boot,  -- 1: the machine was started anew since the run before it; NULL: not known
    traces,       -- calls of it that the ring still holds
    failed,       -- how many of them failed
    interrupted,  -- how many of those were in flight when it died
    logs,         -- log records of it that the ring still holds
    version,      -- of hearthnet
    pid,          -- its process
    node_id,      -- of the node
    commits,      -- transactions of the telemetry store
    written_bytes -- of telemetry, handed to the disk; NULL: not measured
) AS
    WITH called AS (
        SELECT run_id,
               count(*)                               AS traces,
               sum(result NOT IN ('ok', 'cancelled')) AS failed,
               sum(result = 'interrupted')            AS interrupted,
               max(started_us)                        AS last_us
          FROM traces
         GROUP BY run_id
    ), logged AS (
        SELECT run_id, count(*) AS logs, max(ts_us) AS last_us
          FROM logs
         GROUP BY run_id
    ), lives AS (
        SELECT *, lag(ended_us) OVER w AS before_us, lag(boot_id) OVER w AS boot_before
          FROM runs
        WINDOW w AS (ORDER BY started_us)
    )
    SELECT r.run_id,
           strftime('%Y-%m-%dT%H:%M:%fZ', r.started_us / 1e6, 'unixepoch'),
           strftime('%Y-%m-%dT%H:%M:%fZ', r.ended_us / 1e6, 'unixepoch'),
           r.end_reason,
           round((coalesce(r.ended_us, max(r.started_us, coalesce(c.last_us, 0), coalesce(l.last_us, 0)))
                  - r.started_us) / 1e6, 1),
           round((r.started_us - r.before_us) / 1e6, 1),
           r.boot_id <> r.boot_before,
           coalesce(c.traces, 0), coalesce(c.failed, 0), coalesce(c.interrupted, 0), coalesce(l.logs, 0),
           r.version, r.pid, r.node_id, r.commits, r.written_bytes
      FROM lives AS r
      LEFT JOIN called AS c ON c.run_id = r.run_id
      LEFT JOIN logged AS l ON l.run_id = r.run_id
     ORDER BY r.started_us DESC;

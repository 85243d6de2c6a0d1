-- Times are cut to whole milliseconds, as in the JSON log and in all that is printed: `%f` alone rounds, so a record had
-- one time here and another there. Nothing else changes in the views.

DROP VIEW IF EXISTS recent;
CREATE VIEW recent (
    -- Traces, newest first: one row per call of a capability.
    seq,          -- record number; rises over all runs and defines the order
    ts,           -- start, UTC
    trace_id,     -- id of the call, a ULID; calls of one trace to several capabilities share it
    capability,   -- the capability called, without its version
    version,      -- of the capability
    result,       -- ok, a wire error code, cancelled, or interrupted: its run died
    duration_ms,  -- duration; of an interrupted call: its age when the run was last seen
    error,        -- type and message of the error
    span_count,   -- number of spans
    run_id,       -- its run
    parent_id,    -- the caller's span, if the caller sent it
    extras,       -- JSON: caller is the caller's node id
    program       -- the program that recorded it
) AS
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1000 / 1e3, 'unixepoch'),
           trace_id, capability, version, result, duration_ms, error,
           json_array_length(spans),
           run_id, parent_id, extras,
           (SELECT program FROM runs WHERE runs.run_id = traces.run_id)
      FROM traces
     ORDER BY seq DESC;

DROP VIEW IF EXISTS spans;
CREATE VIEW spans (
    -- One row per span, the steps of each call, with columns of its trace.
    seq,          -- of the trace
    ts,           -- start of the span, UTC
    trace_id,     -- of the trace
    capability,   -- of the trace
    id,           -- of the span, within its trace
    parent,       -- id of the parent span; NULL: directly under the trace
    name,         -- name of the step
    started_us,   -- start, UTC microseconds
    offset_ms,    -- start, milliseconds after that of the trace
    duration_ms,  -- duration, child spans included
    status,       -- ok, error, cancelled, or open: its run died meanwhile
    extras,       -- JSON: fields of the step, such as model or tokens_out
    run_id        -- its run
) AS
    SELECT t.seq,
           strftime('%Y-%m-%dT%H:%M:%fZ',
                    (t.started_us + CAST((s.value ->> 'offset_ms') * 1000 AS INTEGER)) / 1000 / 1e3, 'unixepoch'),
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
    -- Errors, newest first: failed traces, and log records of level error and critical.
    seq,       -- record number, defines the order
    ts,        -- start of the trace, or time of the record, UTC
    kind,      -- trace or log
    trace_id,  -- of the trace, or of the trace that logged the record
    name,      -- a trace's capability, a record's logger
    result,    -- a trace's result, a record's level
    error,     -- type and message of the error, or the record's message
    run_id,    -- its run
    exc,       -- a record's traceback
    extras,    -- JSON: of the trace or the record
    program    -- the program that recorded it
) AS
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1000 / 1e3, 'unixepoch'),
           'trace', trace_id, capability, result, error, run_id, NULL, extras,
           (SELECT program FROM runs WHERE runs.run_id = traces.run_id)
      FROM traces
     WHERE result NOT IN ('ok', 'cancelled')
     UNION ALL
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1000 / 1e3, 'unixepoch'),
           'log', trace_id, logger, level, msg, run_id, exc, extras,
           (SELECT program FROM runs WHERE runs.run_id = logs.run_id)
      FROM logs
     WHERE level IN ('error', 'critical')
     ORDER BY seq DESC;

DROP VIEW IF EXISTS capability_stats;
CREATE VIEW capability_stats (
    -- One row per capability, over all retained traces. Cancelled calls count as calls, not as errors.
    -- A quantile is the nearest rank: the shortest duration that at least that share of the calls did not exceed,
    -- so it is a real call's duration.
    capability,  -- without its version
    ts,          -- same as last_ts
    count,       -- calls
    failed,      -- same as errors, its older name
    error_rate,  -- share of calls that failed, 0 to 1
    p50_ms,      -- half of the calls took no longer
    p90_ms,      -- 90 % of the calls took no longer
    p99_ms,      -- 99 % of the calls took no longer
    max_ms,      -- the longest duration
    errors,      -- calls that failed
    last_ts      -- start of the last call, UTC
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
               -- In integers: a share such as 0.9 has no exact floating-point value and could miss a rank.
               min(CASE WHEN 100 * place >= 50 * total THEN duration_ms END) AS p50_ms,
               min(CASE WHEN 100 * place >= 90 * total THEN duration_ms END) AS p90_ms,
               min(CASE WHEN 100 * place >= 99 * total THEN duration_ms END) AS p99_ms,
               max(duration_ms) AS max_ms,
               strftime('%Y-%m-%dT%H:%M:%fZ', max(started_us) / 1000 / 1e3, 'unixepoch') AS last_ts
          FROM ranked
         GROUP BY capability
    )
    SELECT capability, last_ts, count, errors, 1.0 * errors / count, p50_ms, p90_ms, p99_ms, max_ms, errors, last_ts
      FROM counted;

DROP VIEW IF EXISTS slow;
CREATE VIEW slow (
    -- Traces, slowest first.
    seq,          -- record number
    ts,           -- start, UTC
    trace_id,     -- id of the call
    capability,   -- the capability called
    result,       -- as in recent
    duration_ms,  -- duration
    error,        -- type and message of the error
    run_id        -- its run
) AS
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1000 / 1e3, 'unixepoch'),
           trace_id, capability, result, duration_ms, error, run_id
      FROM traces
     ORDER BY duration_ms DESC;

DROP VIEW IF EXISTS timeline;
CREATE VIEW timeline (
    -- Everything in one order, newest first: traces, log records, and gaps, where records were dropped.
    seq,          -- record number, defines the order
    ts,           -- start of a trace, time of a record, time a gap was noticed, UTC
    kind,         -- trace, log or gap
    status,       -- a trace's result, a record's level, a gap's reason
    name,         -- a trace's capability, a record's logger, the kind of dropped records
    text,         -- a trace's error, a record's message, the number of dropped records
    duration_ms,  -- of a trace
    trace_id,     -- of the trace, or of the trace that logged the record
    run_id,       -- its run
    extras,       -- JSON: of the trace or the record
    program       -- the program that recorded it
) AS
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1000 / 1e3, 'unixepoch'),
           'trace', result, capability, error, duration_ms, trace_id, run_id, extras,
           (SELECT program FROM runs WHERE runs.run_id = traces.run_id)
      FROM traces
     UNION ALL
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1000 / 1e3, 'unixepoch'),
           'log', level, logger, msg, NULL, trace_id, run_id, extras,
           (SELECT program FROM runs WHERE runs.run_id = logs.run_id)
      FROM logs
     UNION ALL
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1000 / 1e3, 'unixepoch'),
           'gap', reason, kind, count || ' lost', NULL, NULL, NULL, NULL, NULL
      FROM gaps
     ORDER BY seq DESC;

DROP VIEW IF EXISTS run_history;
CREATE VIEW run_history (
    -- One row per run, newest first: of the node, and of every other program that records here.
    run_id,       -- id of the run, a ULID
    ts,           -- start, UTC
    ended,        -- end, UTC; of a killed run: when it was last seen; NULL: it is running, or was killed
                  -- and its records are not recovered yet
    end_reason,   -- clean, unclean (killed, or the machine went down), rebuilt from the logs, or NULL as above
    lived_s,      -- seconds from its start to its end, or to its newest record
    down_s,       -- seconds from the end of the run before it to its start; the run before it is the node's, or the
                  -- other program's own; negative: they overlapped
    is_new_boot,  -- 1: the machine was rebooted since that run; NULL: unknown
    traces,       -- its traces still in the ring
    failed,       -- how many of them failed
    interrupted,  -- how many of those were in flight when it died
    logs,         -- its log records still in the ring
    version,      -- of hearthnet
    pid,          -- process id
    node_id,      -- id of the node; NULL: of another program
    commits,      -- transactions of the telemetry store
    written_bytes, -- bytes that telemetry wrote to disk; NULL: not measured
    program,      -- file name of the program; NULL: unknown
    role          -- node, or library: another program
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
        WINDOW w AS (PARTITION BY role, iif(role = 'node', NULL, program) ORDER BY started_us)
    )
    SELECT r.run_id,
           strftime('%Y-%m-%dT%H:%M:%fZ', r.started_us / 1000 / 1e3, 'unixepoch'),
           strftime('%Y-%m-%dT%H:%M:%fZ', r.ended_us / 1000 / 1e3, 'unixepoch'),
           r.end_reason,
           round((coalesce(r.ended_us, max(r.started_us, coalesce(c.last_us, 0), coalesce(l.last_us, 0)))
                  - r.started_us) / 1e6, 1),
           round((r.started_us - r.before_us) / 1e6, 1),
           r.boot_id <> r.boot_before,
           coalesce(c.traces, 0), coalesce(c.failed, 0), coalesce(c.interrupted, 0), coalesce(l.logs, 0),
           r.version, r.pid, r.node_id, r.commits, r.written_bytes, r.program, r.role
      FROM lives AS r
      LEFT JOIN called AS c ON c.run_id = r.run_id
      LEFT JOIN logged AS l ON l.run_id = r.run_id
     ORDER BY r.started_us DESC;

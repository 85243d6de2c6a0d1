-- Several programs may share one store, so a run says whose it is.
ALTER TABLE runs ADD COLUMN program TEXT;  -- file name of the program, such as hearthnet or cron.py; NULL: unknown
ALTER TABLE runs ADD COLUMN role    TEXT;  -- node; or library: any other program that records here
UPDATE runs SET role = CASE WHEN node_id IS NULL THEN 'library' ELSE 'node' END;

-- The views gain `program` as their last column, `run_history` also `role`. It is looked up for each returned row, by the
-- primary key of `runs`, so the cost of a query with LIMIT does not depend on the number of rows.

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
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1e6, 'unixepoch'),
           trace_id, capability, version, result, duration_ms, error,
           json_array_length(spans),
           run_id, parent_id, extras,
           (SELECT program FROM runs WHERE runs.run_id = traces.run_id)
      FROM traces
     ORDER BY seq DESC;

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
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1e6, 'unixepoch'),
           'trace', trace_id, capability, result, error, run_id, NULL, extras,
           (SELECT program FROM runs WHERE runs.run_id = traces.run_id)
      FROM traces
     WHERE result NOT IN ('ok', 'cancelled')
     UNION ALL
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1e6, 'unixepoch'),
           'log', trace_id, logger, level, msg, run_id, exc, extras,
           (SELECT program FROM runs WHERE runs.run_id = logs.run_id)
      FROM logs
     WHERE level IN ('error', 'critical')
     ORDER BY seq DESC;

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
           strftime('%Y-%m-%dT%H:%M:%fZ', started_us / 1e6, 'unixepoch'),
           'trace', result, capability, error, duration_ms, trace_id, run_id, extras,
           (SELECT program FROM runs WHERE runs.run_id = traces.run_id)
      FROM traces
     UNION ALL
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1e6, 'unixepoch'),
           'log', level, logger, msg, NULL, trace_id, run_id, extras,
           (SELECT program FROM runs WHERE runs.run_id = logs.run_id)
      FROM logs
     UNION ALL
    SELECT seq,
           strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1e6, 'unixepoch'),
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
           strftime('%Y-%m-%dT%H:%M:%fZ', r.started_us / 1e6, 'unixepoch'),
           strftime('%Y-%m-%dT%H:%M:%fZ', r.ended_us / 1e6, 'unixepoch'),
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

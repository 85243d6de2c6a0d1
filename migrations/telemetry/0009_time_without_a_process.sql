-- `down_s` was the time since the end of the run that began before: negative where lives overlap, as those of a program
-- and its workers do. It is now the time during which no process of the program ran.

DROP VIEW IF EXISTS run_history;
CREATE VIEW run_history (
    -- One row per run, newest first: of the node, and of every other program that records here.
    run_id,       -- id of the run, a ULID
    ts,           -- start, UTC
    ended,        -- end, UTC; of a killed run: when it was last seen; NULL: it is running, or was killed
                  -- and its records are not recovered yet
    end_reason,   -- clean, unclean (killed, or the machine went down), rebuilt from the logs, or NULL as above
    lived_s,      -- seconds from its start to its end, or to its newest record
    down_s,       -- seconds without a process of the node, or of the same other program, before its start; 0: another
                  -- one ran; NULL: it is the first, or one that began before it has no end yet
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
        SELECT *,
               lag(boot_id) OVER w AS boot_before,
               max(ended_us) OVER earlier AS before_us,
               sum(ended_us IS NULL) OVER earlier AS unended
          FROM runs
        WINDOW w AS (PARTITION BY role, iif(role = 'node', NULL, program) ORDER BY started_us),
               earlier AS (w ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    )
    SELECT r.run_id,
           strftime('%Y-%m-%dT%H:%M:%fZ', r.started_us / 1000 / 1e3, 'unixepoch'),
           strftime('%Y-%m-%dT%H:%M:%fZ', r.ended_us / 1000 / 1e3, 'unixepoch'),
           r.end_reason,
           round((coalesce(r.ended_us, max(r.started_us, coalesce(c.last_us, 0), coalesce(l.last_us, 0)))
                  - r.started_us) / 1e6, 1),
           iif(r.unended, NULL, max(0.0, round((r.started_us - r.before_us) / 1e6, 1))),
           r.boot_id <> r.boot_before,
           coalesce(c.traces, 0), coalesce(c.failed, 0), coalesce(c.interrupted, 0), coalesce(l.logs, 0),
           r.version, r.pid, r.node_id, r.commits, r.written_bytes, r.program, r.role
      FROM lives AS r
      LEFT JOIN called AS c ON c.run_id = r.run_id
      LEFT JOIN logged AS l ON l.run_id = r.run_id
     ORDER BY r.started_us DESC;

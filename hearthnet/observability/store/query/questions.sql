-- The questions of docs/queries.md, for the page's editor; a test compares the two.

-- 1. What failed in the last hour?
SELECT ts, kind, name, result, error
  FROM errors
 WHERE unixepoch(ts) >= unixepoch('now', '-1 hour')
 ORDER BY seq DESC
 LIMIT 8;

-- 2. What was running when it died?
SELECT h.ended, t.trace_id, t.capability, t.duration_ms AS age_ms,
       (SELECT name FROM spans AS s WHERE s.seq = t.seq AND s.status = 'open') AS step
  FROM recent AS t
  JOIN run_history AS h ON h.run_id = t.run_id
 WHERE t.result = 'interrupted' AND h.role = 'node'
 ORDER BY t.seq DESC;

-- 3. What happened just before?
SELECT seq, ts, kind, status, name, text, duration_ms
  FROM timeline
 WHERE run_id = (SELECT run_id FROM run_history WHERE end_reason = 'unclean' AND role = 'node' ORDER BY ts DESC LIMIT 1)
 ORDER BY seq DESC
 LIMIT 8;

-- 4. How often does it restart?
SELECT ts, ended, end_reason, lived_s, down_s, is_new_boot, traces, failed, interrupted, version
  FROM run_history
 WHERE role = 'node'
 ORDER BY ts DESC;

-- 5. What was lost, and when?
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', ts_us / 1000 / 1e3, 'unixepoch') AS ts, kind, reason, count
  FROM gaps
 ORDER BY seq DESC;

-- 6. Did this error happen before?
SELECT kind, name, error, count(*) AS times, min(ts) AS first, max(ts) AS last, count(DISTINCT run_id) AS runs
  FROM errors
 GROUP BY kind, name, error
 ORDER BY times DESC;

-- 7. Where in the code did the last error come from?
SELECT ts, extras ->> 'capability' AS capability, replace(exc, char(10), ' | ') AS traceback
  FROM errors
 WHERE exc IS NOT NULL
 ORDER BY seq DESC
 LIMIT 1;

-- 8. What did this trace log?
SELECT seq, ts, kind, status, name, text, extras
  FROM timeline
 WHERE trace_id = (SELECT trace_id FROM errors WHERE name = 'notes.search' ORDER BY seq DESC LIMIT 1)
 ORDER BY seq;

-- 9. What did this call spend its time on?
SELECT s.name, s.offset_ms, s.duration_ms, s.status,
       printf('%.*c%.*c', 1 + 30 * s.offset_ms / t.duration_ms, '.', 1 + 29 * s.duration_ms / t.duration_ms, '#') AS bar
  FROM spans AS s
  JOIN recent AS t ON t.seq = s.seq
 WHERE s.seq = (SELECT seq FROM slow ORDER BY duration_ms DESC LIMIT 1)
 ORDER BY s.offset_ms;

-- 10. Which calls were the slowest, and which step of them?
SELECT t.ts, t.trace_id, t.capability, t.result, t.duration_ms, s.name AS step, max(s.duration_ms) AS step_ms
  FROM (SELECT * FROM slow ORDER BY duration_ms DESC LIMIT 5) AS t
  JOIN spans AS s ON s.seq = t.seq AND s.name <> 'handle'
 GROUP BY t.seq
 ORDER BY t.duration_ms DESC;

-- 11. Where does the time go?
WITH steps AS MATERIALIZED (
    SELECT seq, id, parent, capability, name, duration_ms
      FROM spans
     WHERE duration_ms >= 1 AND seq IN (SELECT seq FROM recent ORDER BY seq DESC LIMIT 5000)
), within AS MATERIALIZED (
    SELECT seq, parent, sum(duration_ms) AS ms FROM steps WHERE parent IS NOT NULL GROUP BY seq, parent
), own AS (
    SELECT capability, name, max(0, duration_ms - coalesce(ms, 0)) AS ms
      FROM steps LEFT JOIN within ON within.seq = steps.seq AND within.parent = steps.id
)
SELECT capability, name AS step, count(*) AS times, round(sum(ms)) AS ms,
       round(100 * sum(ms) / sum(sum(ms)) OVER (), 1) AS share
  FROM own
 GROUP BY capability, name
 ORDER BY ms DESC
 LIMIT 6;

-- 12. How does each capability do?
SELECT capability, count, errors, round(100 * error_rate, 1) AS error_percent, p50_ms, p90_ms, p99_ms, last_ts
  FROM capability_stats
 ORDER BY count DESC;

-- 13. Which capability got slower since yesterday?
WITH ranked AS (
    SELECT capability, date(ts) AS day, duration_ms,
           row_number() OVER w AS place, count(*) OVER (PARTITION BY capability, date(ts)) AS total
      FROM recent
     WHERE result = 'ok'
    WINDOW w AS (PARTITION BY capability, date(ts) ORDER BY duration_ms)
), medians AS (
    SELECT capability, day, min(duration_ms) AS p50_ms FROM ranked WHERE 2 * place >= total GROUP BY capability, day
)
SELECT new.capability, old.p50_ms AS yesterday_ms, new.p50_ms AS today_ms,
       round(new.p50_ms / old.p50_ms, 2) AS times_slower
  FROM medians AS new
  JOIN medians AS old ON old.capability = new.capability AND old.day = date('now', '-1 day')
 WHERE new.day = date('now')
 ORDER BY times_slower DESC;

-- 14. Did the last restart make anything slower?
WITH runs_at AS (
    SELECT run_id, row_number() OVER (ORDER BY ts DESC) AS age FROM run_history WHERE role = 'node'
), ranked AS (
    SELECT capability, age, duration_ms,
           row_number() OVER (PARTITION BY capability, age ORDER BY duration_ms) AS place,
           count(*) OVER (PARTITION BY capability, age) AS total
      FROM recent JOIN runs_at USING (run_id)
     WHERE result = 'ok' AND age <= 2
), medians AS (
    SELECT capability, age, min(duration_ms) AS p50_ms, total FROM ranked WHERE 2 * place >= total GROUP BY capability, age
)
SELECT capability, old.total AS calls_before, old.p50_ms AS before_ms, new.total AS calls_now, new.p50_ms AS now_ms,
       round(new.p50_ms / old.p50_ms, 2) AS times_slower
  FROM medians AS new JOIN medians AS old USING (capability)
 WHERE new.age = 1 AND old.age = 2
 ORDER BY times_slower DESC;

-- 15. How many tokens a second does each model give?
SELECT extras ->> 'model' AS model, extras ->> 'backend' AS backend, count(*) AS calls,
       sum(extras ->> 'tokens_out') AS tokens,
       round(avg(extras ->> 'tokens_per_s'), 1) AS tokens_per_s,
       round(avg(extras ->> 'ttft_ms')) AS first_token_ms
  FROM spans
 WHERE capability = 'llm.chat' AND name = 'generate' AND extras ->> 'outcome' = 'ok'
 GROUP BY 1, 2
 ORDER BY calls DESC;

-- 16. How long do calls wait for a model?
SELECT extras ->> 'backend' AS backend, count(*) AS calls, sum(duration_ms >= 1) AS waited,
       round(avg(duration_ms), 1) AS avg_ms, max(duration_ms) AS max_ms
  FROM spans
 WHERE capability = 'llm.chat' AND name = 'queue'
 GROUP BY 1
 ORDER BY calls DESC;

-- 17. Who calls, and who gets errors?
SELECT extras ->> 'caller' AS caller, count(*) AS calls, sum(result NOT IN ('ok', 'cancelled')) AS failed,
       count(DISTINCT capability) AS capabilities, max(ts) AS last
  FROM recent
 GROUP BY 1
 ORDER BY calls DESC;

-- 18. Which minutes were the busiest?
SELECT ts, count, errors, round(avg_ms, 1) AS avg_ms, max_ms
  FROM minutes
 ORDER BY count DESC, ts
 LIMIT 5;

-- 19. Which log messages come most?
SELECT level, logger, msg, sum(1 + repeats) AS times, count(*) AS records
  FROM logs
 GROUP BY level, logger, msg
 ORDER BY times DESC;

-- 20. How far back does it reach?
SELECT kind, iif(notable, 'notable', 'ordinary') AS class, count(*) AS records,
       strftime('%Y-%m-%dT%H:%M:%fZ', min(at_us) / 1000 / 1e3, 'unixepoch') AS since
  FROM (SELECT 'trace' AS kind, notable, started_us AS at_us FROM traces
         UNION ALL
        SELECT 'log', notable, ts_us FROM logs)
 GROUP BY kind, notable
 ORDER BY kind DESC, class;

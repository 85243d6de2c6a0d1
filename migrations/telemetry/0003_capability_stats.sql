-- The view gains `errors` and `last_ts`, the names that the tools show; its older columns stay.

-- One row per capability, over all retained traces. A quantile is the nearest rank: the shortest duration that at least
-- that share of the calls did not exceed, so it is a real call's duration. Cancelled calls count as calls, not as errors.
DROP VIEW capability_stats;
CREATE VIEW capability_stats AS
    WITH ranked AS (
        SELECT capability, duration_ms, started_us,
               result NOT IN ('ok', 'cancelled')                                AS is_error,
               row_number() OVER (PARTITION BY capability ORDER BY duration_ms) AS place,
               count(*)     OVER (PARTITION BY capability)                      AS total
          FROM traces
    ), counted AS (
        SELECT capability,
               count(*)                                                    AS count,
               sum(is_error)                                               AS errors,
               -- In integers: a share such as 0.9 has no exact floating-point value and could miss a rank.
               min(CASE WHEN 100 * place >= 50 * total THEN duration_ms END) AS p50_ms,
               min(CASE WHEN 100 * place >= 90 * total THEN duration_ms END) AS p90_ms,
               min(CASE WHEN 100 * place >= 99 * total THEN duration_ms END) AS p99_ms,
               max(duration_ms)                                            AS max_ms,
               strftime('%Y-%m-%dT%H:%M:%fZ', max(started_us) / 1e6, 'unixepoch') AS last_ts
          FROM ranked
         GROUP BY capability
    )
    SELECT capability,
           last_ts              AS ts,                 -- as every view has it
           count,
           errors               AS failed,             -- its name until version 2
           1.0 * errors / count AS error_rate,
           p50_ms, p90_ms, p99_ms, max_ms,
           errors,
           last_ts                                     -- when a call began last
      FROM counted;

-- Several processes write the store, each in its own transactions. What they must agree on is in the database: the
-- last number given, how many rows each class of each ring has, and how far each run has come.

-- Given to a record at its birth: (run_id, number) is its identity, before it has a seq. Of older rows it is the seq.
ALTER TABLE traces ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
ALTER TABLE logs   ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
UPDATE traces SET number = seq;
UPDATE logs   SET number = seq;

ALTER TABLE gaps ADD COLUMN run_id TEXT;  -- whose records they were

-- seq: the last one given.
-- traces.0, traces.1, logs.0, logs.1: rows of the class (1: notable).
-- traces.0.from and so on: no row of the class has a lower seq.
-- lost. and a run's id: how many of its rows a recovery that has not ended has counted as lost.
-- A run's id: all its records up to this number are committed, or counted as dropped. Until the run is closed.
CREATE TABLE state (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO state VALUES
    ('seq', max((SELECT ifnull(max(seq), 0) FROM traces), (SELECT ifnull(max(seq), 0) FROM logs),
                (SELECT ifnull(max(seq), 0) FROM gaps))),
    ('traces.0', (SELECT count(*) FROM traces WHERE notable = 0)),
    ('traces.1', (SELECT count(*) FROM traces WHERE notable = 1)),
    ('logs.0', (SELECT count(*) FROM logs WHERE notable = 0)),
    ('logs.1', (SELECT count(*) FROM logs WHERE notable = 1)),
    ('traces.0.from', 0), ('traces.1.from', 0), ('logs.0.from', 0), ('logs.1.from', 0);
INSERT INTO state
    SELECT run_id, max(seq) FROM (SELECT run_id, seq FROM traces UNION ALL SELECT run_id, seq FROM logs) GROUP BY run_id
    HAVING run_id IN (SELECT run_id FROM runs WHERE ended_us IS NULL);

-- How much a run wrote to disk, to estimate the wear of an SD card. Updated now and then, and at the end of the run.
ALTER TABLE runs ADD COLUMN commits       INTEGER;  -- transactions of the telemetry store
ALTER TABLE runs ADD COLUMN written_bytes INTEGER;  -- of database and WAL, handed to the disk; NULL: not measured

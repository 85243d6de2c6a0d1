"""Recovers the records of earlier runs when a store is opened.

`opening.open_store` prepares the database while its caller holds the store's lock. The order of its steps matters:

1. Open the database and check it. If it is damaged, another program's, or its tables and views are not as this program
   writes and reads them: `quarantine.move_aside` renames it, `quarantine.salvage` reads what can still be read, and an
   empty database takes its place.
2. Insert the salvaged rows. They come first, because boxes are compared with the rows that the database has.
3. If this run reopens its store: `recover.restore_committed` inserts the records of its own box that it had committed.
4. `recover.recover_boxes` takes each leftover box, oldest first: inserts the records that the database lacks by the
   ring's rule (`merge`), then, in one transaction, traces in flight as `interrupted`, gaps for dropped records, and the
   end of the run. Only then it deletes the file, so a kill at any point is repaired by the next start.
5. Find the highest number ever given, to number new records above it.
6. Close runs that have neither an end nor a box. Last, because the box of a closed run is no longer read in full.

The telemetry thread repeats step 4 once a minute, for boxes of other processes. `rebuild` is a command of its own: it
makes a new database from the JSON logs. `run_ends` only reads: how earlier runs ended.
"""

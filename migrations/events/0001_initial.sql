-- The community's signed event log. Names and types are those that other HearthNet nodes use.
CREATE TABLE events (
    event_id       TEXT    NOT NULL PRIMARY KEY,   -- ULID
    community_id   TEXT    NOT NULL,
    schema_version INTEGER NOT NULL,
    lamport        INTEGER NOT NULL,
    wall_clock     TEXT    NOT NULL,               -- RFC 3339 UTC
    author         TEXT    NOT NULL,               -- full node id
    event_type     TEXT    NOT NULL,
    data           TEXT    NOT NULL,               -- JSON
    signature      TEXT    NOT NULL,               -- over the canonical JSON of the event without it
    received_at    TEXT    NOT NULL
) STRICT;

-- Replay reads a community's events in causal order.
CREATE INDEX events_in_order ON events (community_id, lamport, event_id);

CREATE TABLE clock (
    community_id TEXT    NOT NULL PRIMARY KEY,
    lamport      INTEGER NOT NULL
) STRICT;

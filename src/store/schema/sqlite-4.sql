-- What retention knows of the events: its only row. event_count and event_bytes (of types and payloads) are those
-- of the events up to counted_until. believed_at: when it last believed the clock, microseconds UTC since 1970.
-- Whoever deletes events holds the lock of the row until its commit.
CREATE TABLE retention (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    counted_until INTEGER NOT NULL,
    event_count INTEGER NOT NULL,
    event_bytes INTEGER NOT NULL,
    believed_at INTEGER
) STRICT;
INSERT INTO retention VALUES (1, 0, 0, 0, NULL);

-- Deleted events whose idempotency keys may still be there: those from the last_id of the row before to this one's.
-- received_at: none of them was received later; null once their keys are deleted.
CREATE TABLE deleted_events (
    last_id INTEGER PRIMARY KEY,
    received_at INTEGER
) STRICT;

-- Channels that have asked for a pause. closed_until: nothing is sent before, microseconds UTC since 1970; then one
-- message is, and null once that was taken. Whoever changes a row holds the lock of outbox_lock.
CREATE TABLE alert_channels (
    channel TEXT PRIMARY KEY,
    closed_until INTEGER
) STRICT, WITHOUT ROWID;

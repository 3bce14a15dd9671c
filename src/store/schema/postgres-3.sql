-- What retention knows of the events: its only row. event_count and event_bytes (of types and payloads) are those
-- of the events up to counted_until. believed_at: when it last believed the clock, microseconds UTC since 1970.
-- Whoever deletes events holds the lock of the row until its commit.
CREATE TABLE retention (
    id bigint PRIMARY KEY CHECK (id = 1),
    counted_until bigint NOT NULL,
    event_count bigint NOT NULL,
    event_bytes bigint NOT NULL,
    believed_at bigint
);
INSERT INTO retention VALUES (1, 0, 0, 0, NULL);

-- Deleted events whose idempotency keys may still be there: those from the last_id of the row before to this one's.
-- received_at: none of them was received later; null once their keys are deleted.
CREATE TABLE deleted_events (
    last_id bigint PRIMARY KEY,
    received_at bigint
);

-- Channels that have asked for a pause. closed_until: nothing is sent before, microseconds UTC since 1970; then one
-- message is, and null once that was taken. Whoever changes a row holds the lock of outbox_lock.
CREATE TABLE alert_channels (
    channel text COLLATE "C" PRIMARY KEY,
    closed_until bigint
);

-- Every table has a key, as a publication of all tables asks for where rows are updated. It is a column that never
-- changes: an update of the row of last_event touches no index, and stays within its page.
ALTER TABLE last_event ADD COLUMN the_one integer NOT NULL DEFAULT 1 PRIMARY KEY;
ALTER TABLE eventctl_schema ADD COLUMN the_one integer NOT NULL DEFAULT 1 PRIMARY KEY;

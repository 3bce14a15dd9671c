-- Alerts to be sent: a row for each event and channel, written with the event.
-- channel: what it is known by, without its secrets. digest: SHA-256 of type and payload, in hex: alerts with
-- the same are the same. state: pending, sending, sent, dead (given up), repeated (the same was sent shortly
-- before, for the event `repeats`). held: 1 where it waits for a digest.
-- created_at, due_at, settled_at, attempted_at: microseconds UTC since 1970; due_at: when a pending one is
-- tried next, when the claim on one that is being sent runs out, null once settled.
-- message_id: the first event of the message that it was last a part of; claimed_by: the process that sent it.
CREATE TABLE deliveries (
    event_id INTEGER NOT NULL,
    channel TEXT NOT NULL,
    digest TEXT NOT NULL,
    state TEXT NOT NULL,
    held INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    due_at INTEGER,
    settled_at INTEGER,
    attempted_at INTEGER,
    message_id INTEGER,
    claimed_by TEXT,
    repeats INTEGER,
    last_error TEXT,
    PRIMARY KEY (event_id, channel)
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_by_due ON deliveries (channel, due_at);
CREATE INDEX deliveries_by_attempt ON deliveries (channel, attempted_at);
CREATE INDEX deliveries_by_digest ON deliveries (channel, digest, created_at);

-- Whoever claims deliveries locks its only row.
CREATE TABLE outbox_lock (id INTEGER PRIMARY KEY) STRICT;
INSERT INTO outbox_lock VALUES (1);

-- Old keys are deleted with their events.
CREATE INDEX idempotency_keys_by_event ON idempotency_keys (first_id);

-- Alerts to be sent: a row for each event and channel, written with the event.
-- channel: what it is known by, without its secrets. digest: SHA-256 of type and payload, in hex: alerts with
-- the same are the same. state: pending, sending, sent, dead (given up), repeated (the same was sent shortly
-- before, for the event `repeats`). held: 1 where it waits for a digest.
-- created_at, due_at, settled_at, attempted_at: microseconds UTC since 1970; due_at: when a pending one is
-- tried next, when the claim on one that is being sent runs out, null once settled.
-- message_id: the first event of the message that it was last a part of; claimed_by: the process that sent it.
CREATE TABLE deliveries (
    event_id bigint NOT NULL,
    channel text COLLATE "C" NOT NULL,
    digest text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    held bigint NOT NULL DEFAULT 0,
    attempts bigint NOT NULL DEFAULT 0,
    created_at bigint NOT NULL,
    due_at bigint,
    settled_at bigint,
    attempted_at bigint,
    message_id bigint,
    claimed_by text COLLATE "C",
    repeats bigint,
    last_error text COLLATE "C",
    PRIMARY KEY (event_id, channel)
);

CREATE INDEX deliveries_by_due ON deliveries (channel, due_at);
CREATE INDEX deliveries_by_attempt ON deliveries (channel, attempted_at);
CREATE INDEX deliveries_by_digest ON deliveries (channel, digest, created_at);

-- Whoever claims deliveries locks its only row.
CREATE TABLE outbox_lock (id bigint PRIMARY KEY);
INSERT INTO outbox_lock VALUES (1);

-- Old keys are deleted with their events.
CREATE INDEX idempotency_keys_by_event ON idempotency_keys (first_id);

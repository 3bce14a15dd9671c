-- Alerts to be sent: a row for each event and channel, written with the event.
-- channel: what it is known by, without its secrets. digest: SHA-256 of type and payload, in hex: alerts with
-- the same are the same. state: pending, sending, sent, dead (given up), repeated (the same was sent shortly
-- before, for the event `repeats`). held: 1 where it waits for a digest.
-- created_at, due_at, settled_at, attempted_at: microseconds UTC since 1970; due_at: when a pending one is
-- tried next, when the claim on one that is being sent runs out, null once settled.
-- message_id: the first event of the message that it was last a part of; claimed_by: the process that sent it.
CREATE TABLE IF NOT EXISTS deliveries (
    event_id BIGINT NOT NULL,
    channel VARCHAR(255) NOT NULL,
    digest CHAR(64) NOT NULL,
    state VARCHAR(16) NOT NULL,
    held BIGINT NOT NULL DEFAULT 0,
    attempts BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    due_at BIGINT,
    settled_at BIGINT,
    attempted_at BIGINT,
    message_id BIGINT,
    claimed_by CHAR(36),
    repeats BIGINT,
    last_error TEXT,
    PRIMARY KEY (event_id, channel),
    INDEX deliveries_by_due (channel, due_at),
    INDEX deliveries_by_attempt (channel, attempted_at),
    INDEX deliveries_by_digest (channel, digest, created_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Whoever claims deliveries locks its only row.
CREATE TABLE IF NOT EXISTS outbox_lock (id INTEGER PRIMARY KEY) ENGINE = InnoDB;
INSERT IGNORE INTO outbox_lock VALUES (1);

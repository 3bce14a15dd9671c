-- What retention knows of the events: its only row. event_count and event_bytes (of types and payloads) are those
-- of the events up to counted_until. believed_at: when it last believed the clock, microseconds UTC since 1970.
-- Whoever deletes events holds the lock of the row until its commit.
CREATE TABLE IF NOT EXISTS retention (
    id BIGINT PRIMARY KEY,
    counted_until BIGINT NOT NULL,
    event_count BIGINT NOT NULL,
    event_bytes BIGINT NOT NULL,
    believed_at BIGINT
) ENGINE = InnoDB;
INSERT IGNORE INTO retention VALUES (1, 0, 0, 0, NULL);

-- Deleted events whose idempotency keys may still be there: those from the last_id of the row before to this one's.
-- received_at: none of them was received later; null once their keys are deleted.
CREATE TABLE IF NOT EXISTS deleted_events (
    last_id BIGINT PRIMARY KEY,
    received_at BIGINT
) ENGINE = InnoDB;

-- Channels that have asked for a pause. closed_until: nothing is sent before, microseconds UTC since 1970; then one
-- message is, and null once that was taken. Whoever changes a row holds the lock of outbox_lock.
CREATE TABLE IF NOT EXISTS alert_channels (
    channel VARCHAR(255) PRIMARY KEY,
    closed_until BIGINT
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

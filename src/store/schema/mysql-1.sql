-- received_at: microseconds UTC since 1970.
CREATE TABLE IF NOT EXISTS events (
    id BIGINT PRIMARY KEY,
    received_at BIGINT NOT NULL,
    event_type VARCHAR(255) NOT NULL,
    event_payload LONGTEXT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The last id that was given. Whoever stores events locks the row until its commit: ids become visible in
-- their order, and a reader that follows them misses none. The key is another column: a row whose key changes
-- leaves a dead one behind, which the next to come has to pass as long as any transaction may still see it.
CREATE TABLE IF NOT EXISTS last_event (the_one INTEGER NOT NULL DEFAULT 1 PRIMARY KEY, id BIGINT NOT NULL) ENGINE = InnoDB;
INSERT IGNORE INTO last_event (id) VALUES (0);

-- What was answered for a key: the events first_id to first_id + event_count - 1.
-- body_digest: SHA-256 of the request's body.
CREATE TABLE IF NOT EXISTS idempotency_keys (
    idempotency_key VARBINARY(255) PRIMARY KEY,
    body_digest BINARY(32) NOT NULL,
    first_id BIGINT NOT NULL,
    event_count BIGINT NOT NULL,
    INDEX idempotency_keys_by_event (first_id)
) ENGINE = InnoDB;

-- The key that signs access tokens where the settings give none: at most one row.
CREATE TABLE IF NOT EXISTS signing_key (
    id INTEGER PRIMARY KEY,
    signing_key BINARY(32) NOT NULL
) ENGINE = InnoDB;

-- token_digest: what the token is known by; the token itself is not kept.
-- family: what all tokens that stem from one login have in common.
-- expires_at: microseconds UTC since 1970. used: whether the token has been exchanged for another; it is
-- kept until it expires, so that a second use is noticed.
CREATE TABLE IF NOT EXISTS refresh_tokens (
    token_digest BINARY(32) PRIMARY KEY,
    family BINARY(16) NOT NULL,
    expires_at BIGINT NOT NULL,
    used BOOLEAN NOT NULL DEFAULT FALSE,
    INDEX refresh_tokens_by_family (family),
    INDEX refresh_tokens_by_expiry (expires_at)
) ENGINE = InnoDB;

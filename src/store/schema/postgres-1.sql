-- How many of these schemas the database has.
CREATE TABLE eventctl_schema (version integer NOT NULL);
INSERT INTO eventctl_schema VALUES (0);

-- received_at: microseconds UTC since 1970.
CREATE TABLE events (
    id bigint PRIMARY KEY,
    received_at bigint NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    event_payload text COLLATE "C" NOT NULL
);

-- The last id that was given. Whoever stores events locks the row until its commit: ids become visible in
-- their order, and a reader that follows them misses none.
CREATE TABLE last_event (id bigint NOT NULL);
INSERT INTO last_event VALUES (0);

-- What was answered for a key: the events first_id to first_id + event_count - 1.
-- body_digest: SHA-256 of the request's body.
CREATE TABLE idempotency_keys (
    idempotency_key text COLLATE "C" PRIMARY KEY,
    body_digest bytea NOT NULL,
    first_id bigint NOT NULL,
    event_count bigint NOT NULL
);

-- The key that signs access tokens where the settings give none: at most one row.
CREATE TABLE signing_key (
    id integer PRIMARY KEY CHECK (id = 1),
    signing_key bytea NOT NULL
);

-- token_digest: what the token is known by; the token itself is not kept.
-- family: what all tokens that stem from one login have in common.
-- expires_at: microseconds UTC since 1970. used: whether the token has been exchanged for another; it is
-- kept until it expires, so that a second use is noticed.
CREATE TABLE refresh_tokens (
    token_digest bytea PRIMARY KEY,
    family bytea NOT NULL,
    expires_at bigint NOT NULL,
    used boolean NOT NULL DEFAULT false
);

CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family);
CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_at);

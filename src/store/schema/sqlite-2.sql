-- The key that signs access tokens where the settings give none: at most one row.
CREATE TABLE signing_key (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    signing_key BLOB NOT NULL
) STRICT;

-- token_digest: what the token is known by; the token itself is not kept.
-- family: what all tokens that stem from one login have in common.
-- expires_at: microseconds UTC since 1970. used: 1 once the token has been exchanged for another; it is
-- kept until it expires, so that a second use is noticed.
CREATE TABLE refresh_tokens (
    token_digest BLOB PRIMARY KEY,
    family BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    used INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family);
CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_at);

-- received_at: microseconds UTC since 1970.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    received_at INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    event_payload TEXT NOT NULL
) STRICT;

-- What was answered for a key: the events first_id to first_id + event_count - 1.
-- body_digest: SHA-256 of the request's body.
CREATE TABLE idempotency_keys (
    idempotency_key TEXT PRIMARY KEY,
    body_digest BLOB NOT NULL,
    first_id INTEGER NOT NULL,
    event_count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Subscriptions: named positions, from which workers claim events.
-- event_type: a glob, null for all types. is_strict: nothing overtakes. skips_parked: whether a strict one goes on after a
-- parked event. retains: whether retention waits for it. lease, expires: microseconds. position: all events up to it
-- have been claimed, or are of other types. token: of the last claim. created_at, claimed_at: microseconds UTC since 1970.
-- Whoever changes anything of a subscription holds the lock of its row until the commit.
CREATE TABLE subscriptions (
    name TEXT PRIMARY KEY,
    event_type TEXT,
    is_strict INTEGER NOT NULL,
    skips_parked INTEGER NOT NULL,
    retains INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    position INTEGER NOT NULL,
    token INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    claimed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The claimed events that are not acknowledged. token: of their last claim. is_leased: whether a worker has them.
-- due_at: when the lease ends, or when the event is handed out again; null where it is parked, since parked_at.
-- reason: why the last attempt failed.
CREATE TABLE subscription_events (
    subscription TEXT NOT NULL,
    event_id INTEGER NOT NULL,
    token INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    is_leased INTEGER NOT NULL,
    due_at INTEGER,
    parked_at INTEGER,
    reason TEXT,
    PRIMARY KEY (subscription, event_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX subscription_events_by_due ON subscription_events (subscription, due_at);

-- The last claims. is_stale: whether any of its events was handed out again.
CREATE TABLE subscription_claims (
    subscription TEXT NOT NULL,
    token INTEGER NOT NULL,
    is_stale INTEGER NOT NULL,
    PRIMARY KEY (subscription, token)
) STRICT, WITHOUT ROWID;

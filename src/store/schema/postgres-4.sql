-- Subscriptions: named positions, from which workers claim events.
-- event_type: a glob, null for all types. is_strict: nothing overtakes. skips_parked: whether a strict one goes on after a
-- parked event. retains: whether retention waits for it. lease, expires: microseconds. position: all events up to it
-- have been claimed, or are of other types. token: of the last claim. created_at, claimed_at: microseconds UTC since 1970.
-- Whoever changes anything of a subscription holds the lock of its row until the commit.
CREATE TABLE subscriptions (
    name text COLLATE "C" PRIMARY KEY,
    event_type text,
    is_strict bigint NOT NULL,
    skips_parked bigint NOT NULL,
    retains bigint NOT NULL,
    lease bigint NOT NULL,
    max_attempts bigint NOT NULL,
    expires bigint NOT NULL,
    position bigint NOT NULL,
    token bigint NOT NULL,
    created_at bigint NOT NULL,
    claimed_at bigint NOT NULL
);

-- The claimed events that are not acknowledged. token: of their last claim. is_leased: whether a worker has them.
-- due_at: when the lease ends, or when the event is handed out again; null where it is parked, since parked_at.
-- reason: why the last attempt failed.
CREATE TABLE subscription_events (
    subscription text COLLATE "C" NOT NULL,
    event_id bigint NOT NULL,
    token bigint NOT NULL,
    attempts bigint NOT NULL,
    is_leased bigint NOT NULL,
    due_at bigint,
    parked_at bigint,
    reason text,
    PRIMARY KEY (subscription, event_id)
);
CREATE INDEX subscription_events_by_due ON subscription_events (subscription, due_at);

-- The last claims. is_stale: whether any of its events was handed out again.
CREATE TABLE subscription_claims (
    subscription text COLLATE "C" NOT NULL,
    token bigint NOT NULL,
    is_stale bigint NOT NULL,
    PRIMARY KEY (subscription, token)
);

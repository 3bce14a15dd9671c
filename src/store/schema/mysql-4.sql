-- Subscriptions: named positions, from which workers claim events.
-- event_type: a glob, null for all types. is_strict: nothing overtakes. skips_parked: whether a strict one goes on after a
-- parked event. retains: whether retention waits for it. lease, expires: microseconds. position: all events up to it
-- have been claimed, or are of other types. token: of the last claim. created_at, claimed_at: microseconds UTC since 1970.
-- Whoever changes anything of a subscription holds the lock of its row until the commit.
CREATE TABLE IF NOT EXISTS subscriptions (
    name VARCHAR(64) PRIMARY KEY,
    event_type TEXT,
    is_strict BIGINT NOT NULL,
    skips_parked BIGINT NOT NULL,
    retains BIGINT NOT NULL,
    lease BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    position BIGINT NOT NULL,
    token BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    claimed_at BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The claimed events that are not acknowledged. token: of their last claim. is_leased: whether a worker has them.
-- due_at: when the lease ends, or when the event is handed out again; null where it is parked, since parked_at.
-- reason: why the last attempt failed.
CREATE TABLE IF NOT EXISTS subscription_events (
    subscription VARCHAR(64) NOT NULL,
    event_id BIGINT NOT NULL,
    token BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    is_leased BIGINT NOT NULL,
    due_at BIGINT,
    parked_at BIGINT,
    reason TEXT,
    PRIMARY KEY (subscription, event_id),
    INDEX subscription_events_by_due (subscription, due_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The last claims. is_stale: whether any of its events was handed out again.
CREATE TABLE IF NOT EXISTS subscription_claims (
    subscription VARCHAR(64) NOT NULL,
    token BIGINT NOT NULL,
    is_stale BIGINT NOT NULL,
    PRIMARY KEY (subscription, token)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

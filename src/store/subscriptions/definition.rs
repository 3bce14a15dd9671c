//! What a subscription is, and its row.

use std::time::Duration;

use super::super::error::DatabaseError;
use super::super::statements::{Statements, Value};
use crate::core::glob::Glob;
use crate::core::timestamp::Timestamp;

/// What events a subscription hands out, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// `None` for events of all types.
    pub event_type: Option<Glob>,
    pub order: Order,
    /// Whether a strict subscription goes on after an event that was parked.
    pub skips_parked: bool,
    /// Whether retention keeps events until they are acknowledged.
    pub retains: bool,
    /// How long a worker has for the events of a claim.
    pub lease: Duration,
    /// How often an event is handed out before it is parked.
    pub max_attempts: u32,
    /// A subscription that nobody claims from for so long ends.
    pub expires: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Any number of workers have events at the same time.
    Parallel,
    /// One claim at a time, and no event before an earlier one is acknowledged.
    Strict,
}

/// Where a new subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first event that is stored.
    Beginning,
    /// With this event.
    Id(i64),
    /// With the first event that was received then, or later.
    Time(Timestamp),
    /// With the next event.
    Now,
}

/// A subscription as it is stored.
#[derive(Debug, Clone)]
pub struct Subscription {
    pub name: String,
    pub definition: Definition,
    /// All events up to this id have been claimed, or are of other types.
    pub position: i64,
    pub created_at: Timestamp,
    pub claimed_at: Timestamp,
    /// The number of the last claim.
    pub(super) token: i64,
}

const COLUMNS: &str = "event_type, is_strict, skips_parked, retains, lease, max_attempts, expires, position, token, \
    created_at, claimed_at, name";

impl Subscription {
    /// The number that only this subscription has among all of its name.
    pub(super) fn epoch(&self) -> i64 {
        self.created_at.as_microseconds()
    }

    fn has_expired(&self, now: Timestamp) -> bool {
        self.claimed_at.after(self.definition.expires) < now
    }

    fn of(row: [Value; 12]) -> Subscription {
        let [
            event_type,
            is_strict,
            skips_parked,
            retains,
            lease,
            max_attempts,
            expires,
            position,
            token,
            created_at,
            claimed_at,
            name,
        ] = row;
        let duration = |value: Value| Duration::from_micros(value.number().unsigned_abs());
        Subscription {
            name: name.into_text(),
            definition: Definition {
                event_type: event_type.into_text_or_null().and_then(|glob| glob.parse().ok()),
                order: if is_strict.number() != 0 { Order::Strict } else { Order::Parallel },
                skips_parked: skips_parked.number() != 0,
                retains: retains.number() != 0,
                lease: duration(lease),
                max_attempts: u32::try_from(max_attempts.number()).unwrap_or(u32::MAX),
                expires: duration(expires),
            },
            position: position.number(),
            token: token.number(),
            created_at: Timestamp::from_microseconds(created_at.number()),
            claimed_at: Timestamp::from_microseconds(claimed_at.number()),
        }
    }

    pub fn read(statements: &mut dyn Statements, name: &str) -> Result<Option<Subscription>, DatabaseError> {
        let select = format!("SELECT {COLUMNS} FROM subscriptions WHERE name = ?");
        let rows = statements.query::<12>(&select, &[name.into()])?;
        Ok(rows.into_iter().next().map(Subscription::of))
    }

    /// All of them, by name.
    pub fn read_all(statements: &mut dyn Statements) -> Result<Vec<Subscription>, DatabaseError> {
        let select = format!("SELECT {COLUMNS} FROM subscriptions ORDER BY name");
        Ok(statements.query::<12>(&select, &[])?.into_iter().map(Subscription::of).collect())
    }

    /// Waits until no other process changes anything of it; nobody else does until the commit.
    pub fn lock(statements: &mut dyn Statements, name: &str) -> Result<Option<Subscription>, DatabaseError> {
        let lock = statements.for_update();
        let select = format!("SELECT {COLUMNS} FROM subscriptions WHERE name = ?{lock}");
        let rows = statements.query::<12>(&select, &[name.into()])?;
        Ok(rows.into_iter().next().map(Subscription::of))
    }
}

impl Default for Definition {
    fn default() -> Definition {
        Definition {
            event_type: None,
            order: Order::Parallel,
            skips_parked: false,
            retains: true,
            lease: Duration::from_secs(30),
            max_attempts: 10,
            expires: Duration::from_secs(30 * 86_400),
        }
    }
}

impl Definition {
    fn values(&self) -> [Value; 7] {
        let microseconds =
            |duration: Duration| Value::Number(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX));
        [
            self.event_type.as_ref().map(Glob::as_str).into(),
            i64::from(self.order == Order::Strict).into(),
            i64::from(self.skips_parked).into(),
            i64::from(self.retains).into(),
            microseconds(self.lease),
            i64::from(self.max_attempts).into(),
            microseconds(self.expires),
        ]
    }
}

/// Makes a subscription, or changes what it hands out from now on; whether it is new. The start is that of a new one.
pub fn define(
    statements: &mut dyn Statements,
    name: &str,
    definition: &Definition,
    start: Start,
    now: Timestamp,
) -> Result<bool, DatabaseError> {
    let mut values = definition.values().to_vec();
    if Subscription::lock(statements, name)?.is_some() {
        let update = "UPDATE subscriptions SET event_type = ?, is_strict = ?, skips_parked = ?, retains = ?, lease = ?, \
            max_attempts = ?, expires = ? WHERE name = ?";
        values.push(name.into());
        statements.execute(update, &values)?;
        return Ok(false);
    }
    let position = position_of(statements, start)?;
    let now = now.as_microseconds();
    let insert = "INSERT INTO subscriptions (event_type, is_strict, skips_parked, retains, lease, max_attempts, expires, \
        position, token, created_at, claimed_at, name) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)";
    values.extend([position.into(), now.into(), now.into(), name.into()]);
    statements.execute(insert, &values)?;
    Ok(true)
}

/// The id before the first event of a new subscription.
fn position_of(statements: &mut dyn Statements, start: Start) -> Result<i64, DatabaseError> {
    let mut number = |select: &str, values: &[Value]| -> Result<Option<i64>, DatabaseError> {
        let rows = statements.query::<1>(select, values)?;
        Ok(rows.first().and_then(|[number]| number.number_or_null()))
    };
    const LAST: &str = "SELECT max(id) FROM events";
    Ok(match start {
        Start::Beginning => 0,
        Start::Id(id) => id - 1,
        Start::Now => number(LAST, &[])?.unwrap_or_default(),
        Start::Time(time) => {
            let first = "SELECT min(id) FROM events WHERE received_at >= ?";
            match number(first, &[time.as_microseconds().into()])? {
                Some(first) => first - 1,
                None => number(LAST, &[])?.unwrap_or_default(),
            }
        }
    })
}

/// Ends a subscription; whether there was one.
pub fn remove(statements: &mut dyn Statements, name: &str) -> Result<bool, DatabaseError> {
    if Subscription::lock(statements, name)?.is_none() {
        return Ok(false);
    }
    for table in ["subscription_events", "subscription_claims"] {
        statements.execute(&format!("DELETE FROM {table} WHERE subscription = ?"), &[name.into()])?;
    }
    statements.execute("DELETE FROM subscriptions WHERE name = ?", &[name.into()])?;
    Ok(true)
}

/// Whether there is one that nobody has claimed from for as long as it expires.
pub fn has_expired(statements: &mut dyn Statements, now: Timestamp) -> Result<bool, DatabaseError> {
    Ok(Subscription::read_all(statements)?.iter().any(|subscription| subscription.has_expired(now)))
}

/// Ends those that nobody has claimed from for as long as they expire: their names.
pub fn remove_expired(statements: &mut dyn Statements, now: Timestamp) -> Result<Vec<String>, DatabaseError> {
    let mut expired = Vec::new();
    for subscription in Subscription::read_all(statements)? {
        // Somebody may have claimed from it since it was read.
        let locked = Subscription::lock(statements, &subscription.name)?;
        if locked.is_some_and(|locked| locked.has_expired(now)) && remove(statements, &subscription.name)? {
            expired.push(subscription.name);
        }
    }
    Ok(expired)
}

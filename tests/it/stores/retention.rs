//! Retention on every store: against a plain model in random sequences, and through `consume`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use eventctl::testing::Event;
use eventctl::testing::Timestamp;
use eventctl::testing::{
    Append, Backend, Deleted, IdempotencyKey, NewDelivery, Outcome, PermittedTypes, Recount, RetentionLimits,
    WriteError, delete_event, delete_expired, last_known_time,
};
use eventctl::testing::{Reading, WallClock};
use eventctl::testing::{Store, StoreLimits, StoreOptions, Writer};

use super::database::{Kind, TestStore, answer_of, on_every_store};
use super::replication::numbers;
use crate::util::http::{Response, event};
use crate::util::{Consume, random, wait_until};

on_every_store!(
    what_retention_deletes_is_what_a_plain_model_deletes,
    the_newest_events_are_kept_by_number_and_bytes_however_their_ids_lie,
    probes_and_repetitions_take_no_ids,
    a_key_stays_as_long_as_any_event_of_its_request,
    a_request_whose_key_is_being_deleted_is_stored_or_known,
    keys_outlive_their_events_for_as_long_as_they_are_kept,
    an_event_that_is_as_old_as_events_are_kept_stays,
    a_key_whose_events_were_deleted_one_after_another_is_kept_from_the_last_deletion,
    an_event_from_the_future_stops_nothing,
    a_step_full_of_events_from_the_future_stops_nothing,
    a_key_of_an_event_from_the_future_is_kept_no_longer_than_others,
    more_events_than_a_step_counts_are_kept_by_number,
    what_was_deleted_is_not_counted_among_the_bytes_that_are_kept,
    what_was_deleted_on_request_is_not_counted_among_the_bytes_that_are_kept,
    the_last_known_time_is_renewed_every_ten_minutes_while_the_clock_is_believed,
    the_log_says_what_is_kept_and_what_was_deleted,
);

const DAY: i64 = 86_400_000_000;

/// A store as a process has it open.
pub struct Open {
    runtime: tokio::runtime::Runtime,
    store: Store,
    writer: Writer,
}

impl Open {
    pub fn new(store: &TestStore) -> Open {
        let url = match store.kind {
            Kind::Sqlite => store.path().join(&store.url).display().to_string(),
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            _ => store.url.clone(),
        };
        let limits = StoreLimits { queue_events: 10_000, queue_bytes: 1 << 20 };
        let options = StoreOptions { deletes: true, ..StoreOptions::default() };
        let (store, writer) = Store::open(&url.parse().unwrap(), limits, options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Open { runtime, store, writer }
    }

    pub fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut dyn Backend) -> Result<T, WriteError> + Send + 'static,
    ) -> T {
        self.runtime.block_on(self.store.write(write)).unwrap()
    }

    /// A whole sweep.
    pub fn sweep(&self, limits: RetentionLimits) -> Deleted {
        let mut sum = Deleted::default();
        let mut limits = limits;
        loop {
            let passed = sum.passed;
            let step = self.write(move |backend| delete_expired(backend, &limits, passed));
            sum = Deleted {
                by_age: sum.by_age + step.by_age,
                by_count: sum.by_count + step.by_count,
                by_bytes: sum.by_bytes + step.by_bytes,
                keys: sum.keys + step.keys,
                ..step
            };
            if !step.more {
                return sum;
            }
            limits.recount = Recount::Never;
        }
    }

    pub fn close(self) {
        self.runtime.block_on(self.writer.close());
    }
}

/// An alert of the event at this place of its request.
fn delivery(position: usize) -> NewDelivery {
    NewDelivery {
        position,
        channel: Arc::from("channel"),
        digest: "0".repeat(64),
        repeat_after: Duration::ZERO,
    }
}

#[derive(Debug, Clone)]
struct ModelEvent {
    received_at: i64,
    bytes: i64,
    is_open: bool,
}

#[derive(Debug, Clone)]
struct ModelKey {
    ids: BTreeSet<i64>,
    /// When its events were received; when they were deleted, where that was before.
    received_at: i64,
    has_events: bool,
    body: u8,
}

/// What the store must hold.
#[derive(Debug, Default)]
struct Model {
    events: BTreeMap<i64, ModelEvent>,
    keys: BTreeMap<String, ModelKey>,
    last_id: i64,
}

impl Model {
    fn delete(&mut self, limits: &RetentionLimits) -> [u64; 3] {
        let mut counts = [0; 3];
        let mut events_from_here = self.events.len() as i64;
        let mut bytes_from_here: i64 = self.events.values().map(|event| event.bytes).sum();
        self.events.retain(|_, event| {
            let is_old = limits.is_clock_believed
                && limits.received_before.is_some_and(|before| event.received_at < before.as_microseconds());
            let is_beyond_count = limits.events.is_some_and(|limit| events_from_here > limit);
            let is_beyond_bytes = limits.bytes.is_some_and(|limit| bytes_from_here > limit);
            events_from_here -= 1;
            bytes_from_here -= event.bytes;
            let reason = [is_old, is_beyond_count, is_beyond_bytes].iter().position(|applies| *applies);
            let Some(reason) = reason.filter(|_| !event.is_open) else { return true };
            counts[reason] += 1;
            false
        });
        counts
    }
}

struct Trial<'a> {
    store: &'a TestStore,
    processes: Vec<Open>,
    model: Model,
    random: fastrand::Rng,
    clock: WallClock,
    /// What the wall clock says, and the other one.
    wall: i64,
    steady: i64,
}

impl Trial<'_> {
    fn process(&mut self) -> &Open {
        let chosen = self.random.usize(..self.processes.len());
        &self.processes[chosen]
    }

    fn append(&mut self, key: Option<(String, u8)>) {
        let received_at = match self.random.u8(..10) {
            0 => self.wall + self.random.i64(1..40 * DAY),
            1 => self.wall - self.random.i64(1..40 * DAY),
            _ => self.wall,
        };
        let events: Vec<Event> = (0..self.random.usize(1..6))
            .map(|_| {
                let payload = ["", "x", "é", "🎈🎈🎈"][self.random.usize(..4)].repeat(self.random.usize(..9));
                Event::parse(event("type", &payload).as_bytes()).unwrap()
            })
            .collect();
        let deliveries: Vec<NewDelivery> =
            (0..events.len()).filter(|_| self.random.u8(..8) == 0).map(delivery).collect();
        let sizes: Vec<i64> = events
            .iter()
            .map(|event| (event.event_type().len() + event.event_payload().len()) as i64)
            .collect();
        let open: Vec<usize> = deliveries.iter().map(|delivery| delivery.position).collect();
        let append = Append {
            events,
            key: key.clone().map(|(key, body)| IdempotencyKey { key, body_digest: [body; 32] }),
            aliases: Vec::new(),
            deliveries,
        };
        let now = Timestamp::from_microseconds(received_at);
        let outcome = self.process().write(move |backend| backend.append(&[&append], now))[0];
        let known = key.as_ref().and_then(|(key, body)| Some((self.model.keys.get(key)?, *body)));
        let first_id = self.model.last_id + 1;
        let expected = match known {
            Some((known, body)) if known.body != body => Outcome::KeyReused,
            Some((known, _)) => Outcome::Stored { first_id: *known.ids.first().unwrap(), repeated: true },
            None => Outcome::Stored { first_id, repeated: false },
        };
        assert_eq!(outcome, expected, "{key:?}");
        if known.is_some() {
            return;
        }
        self.model.last_id += sizes.len() as i64;
        let ids = first_id..=self.model.last_id;
        if let Some((key, body)) = key {
            self.model
                .keys
                .insert(key, ModelKey { ids: ids.clone().collect(), received_at, has_events: true, body });
        }
        for (position, (id, bytes)) in ids.zip(sizes).enumerate() {
            let is_open = open.contains(&position);
            self.model.events.insert(id, ModelEvent { received_at, bytes, is_open });
        }
    }

    /// The key of an earlier request, or a new one; the same body, or another.
    fn any_key(&mut self) -> (String, u8) {
        match self.random.u8(..4) {
            0 => (format!("key {}", self.random.u32(..30)), 1),
            1 => (format!("key {}", self.random.u32(..30)), 2),
            _ => (format!("key {}", self.random.u32(..)), 1),
        }
    }

    fn any_event(&mut self) -> Option<i64> {
        let ids: Vec<i64> = self.model.events.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[self.random.usize(..ids.len())])
    }

    fn leave_ids_out(&mut self) {
        let count = self.random.i64(1..2000);
        self.model.last_id += count;
        let last_id = self.model.last_id;
        self.store.execute(&match self.store.kind {
            Kind::Sqlite => format!(
                "INSERT INTO sqlite_sequence SELECT 'events', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence); \
                 UPDATE sqlite_sequence SET seq = {last_id} WHERE name = 'events'"
            ),
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            _ => format!("UPDATE last_event SET id = {last_id}"),
        });
    }

    fn settle_delivery(&mut self) {
        let Some(id) = self.any_event() else { return };
        self.model.events.get_mut(&id).unwrap().is_open = false;
        let sent = "UPDATE deliveries SET state = 'sent', due_at = NULL WHERE event_id =";
        self.store.execute(&format!("{sent} {id}"));
    }

    /// Somebody else deletes an event that has no key, and its deliveries.
    fn delete_by_hand(&mut self) {
        let Some(id) = self.any_event() else { return };
        if self.model.keys.values().any(|key| key.ids.contains(&id)) || self.model.events[&id].is_open {
            return;
        }
        self.model.events.remove(&id);
        self.store.execute(&format!("DELETE FROM deliveries WHERE event_id = {id}"));
        self.store.execute(&format!("DELETE FROM events WHERE id = {id}"));
    }

    fn pass_time(&mut self) {
        let time = self.random.i64(0..3 * DAY);
        self.wall += time;
        self.steady += time;
        if self.random.u8(..6) == 0 {
            self.wall += self.random.i64(-60 * DAY..60 * DAY);
        }
    }

    fn sweep(&mut self) {
        let steady = Duration::from_micros(u64::try_from(self.steady).unwrap());
        let now = Timestamp::from_microseconds(self.wall);
        self.clock.observe(Reading { wall: now, steady });
        let mut some = |limit: i64| (self.random.u8(..2) == 0).then(|| self.random.i64(0..limit));
        let limits = RetentionLimits {
            now,
            is_clock_believed: self.clock.is_trusted(),
            received_before: some(30 * DAY).map(|keep| Timestamp::from_microseconds(self.wall - keep)),
            events: some(60),
            bytes: some(4000),
            keys_before: some(30 * DAY).map(|keep| Timestamp::from_microseconds(self.wall - keep)),
            recount: if self.random.bool() { Recount::Always } else { Recount::IfSmall },
        };
        let deleted = self.process().sweep(limits);
        let counts = self.model.delete(&limits);
        assert_eq!([deleted.by_age, deleted.by_count, deleted.by_bytes], counts, "{limits:?}");
        let ids: Vec<i64> = self.store.stored().into_iter().map(|(id, _, _)| id).collect();
        assert_eq!(ids, self.model.events.keys().copied().collect::<Vec<_>>(), "{limits:?}");
        let orphans = "SELECT event_id FROM deliveries WHERE NOT EXISTS \
            (SELECT 1 FROM events WHERE events.id = deliveries.event_id)";
        assert_eq!(numbers(self.store, orphans), [0; 0], "{limits:?}");
        self.check_keys(&limits, deleted.keys);
    }

    fn check_keys(&mut self, limits: &RetentionLimits, deleted: u64) {
        let stored: BTreeSet<String> = self.store.keys().into_iter().collect();
        assert!(stored.iter().all(|key| self.model.keys.contains_key(key)));
        for key in self.model.keys.values_mut().filter(|key| key.has_events) {
            key.has_events = key.ids.iter().any(|id| self.model.events.contains_key(id));
            if !key.has_events {
                key.received_at = key.received_at.min(self.wall);
            }
        }
        let (there, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.model.keys).into_iter().partition(|(key, _)| stored.contains(key));
        assert_eq!(gone.len() as u64, deleted);
        for (name, key) in &gone {
            assert!(!key.has_events, "{name}: {key:?} {limits:?}");
            let is_old = limits
                .keys_before
                .is_none_or(|before| limits.is_clock_believed && key.received_at < before.as_microseconds());
            assert!(is_old, "{name}: {key:?} {limits:?}");
        }
        if limits.keys_before.is_none() {
            let orphan = there.iter().find(|(_, key)| !key.has_events);
            assert!(orphan.is_none(), "{orphan:?} {limits:?}");
        }
        self.model.keys = there;
    }
}

fn what_retention_deletes_is_what_a_plain_model_deletes(store: &TestStore) {
    store.prepare();
    let mut random = random();
    let wall = 1_700_000_000_000_000;
    let now = Timestamp::from_microseconds(wall);
    let (clock, _) = WallClock::new(Reading { wall: now, steady: Duration::ZERO }, None, Duration::MAX);
    let processes = vec![Open::new(store), Open::new(store)];
    let seed = random.u64(..);
    let mut trial = Trial {
        store,
        processes,
        model: Model::default(),
        random: fastrand::Rng::with_seed(seed),
        clock,
        wall,
        steady: 0,
    };
    for _ in 0..600 {
        match trial.random.u8(..16) {
            0..=3 => trial.append(None),
            4..=8 => {
                let key = trial.any_key();
                trial.append(Some(key));
            }
            9 => trial.leave_ids_out(),
            10 => trial.settle_delivery(),
            11 => trial.delete_by_hand(),
            12..=13 => trial.pass_time(),
            _ => trial.sweep(),
        }
    }
    trial.sweep();
    trial.processes.into_iter().for_each(Open::close);
}

fn leave_ids_out(store: &TestStore, last_id: i64) {
    store.execute(&match store.kind {
        Kind::Sqlite => format!("UPDATE sqlite_sequence SET seq = {last_id}"),
        #[cfg(any(feature = "postgres", feature = "mysql"))]
        _ => format!("UPDATE last_event SET id = {last_id}"),
    });
}

fn the_newest_events_are_kept_by_number_and_bytes_however_their_ids_lie(store: &TestStore) {
    {
        let server = store.prepare_and_consume();
        let list = format!("[{}]", vec![event("a", "old"); 2500].join(","));
        assert_eq!(server.connect().post(list).status, 201);
        for id in 1..=8 {
            leave_ids_out(store, 10_000 * id);
            server.store("a", "123456789");
        }
    }
    let left = |count: usize| {
        let left = wait_until(|| Some(store.stored()).filter(|events| events.len() <= count));
        left.into_iter().map(|(id, _, _)| id).collect::<Vec<_>>()
    };
    {
        let server = store.consume(&["--keep-events", "5"]);
        assert_eq!(left(5), [40_001, 50_001, 60_001, 70_001, 80_001]);
        server.store("a", "123456789");
        assert_eq!(left(5), [50_001, 60_001, 70_001, 80_001, 80_002]);
    }
    // Ten bytes each: of three there is no room for the whole.
    let server = store.consume(&["--keep-bytes", "29"]);
    assert_eq!(left(2), [80_001, 80_002]);
    server.store("a", "");
    assert_eq!(left(3), [80_001, 80_002, 80_003]);
}

fn post(server: &Consume, key: &str, body: &str) -> Response {
    server.connect().try_post_with_key(key, body).unwrap()
}

fn probes_and_repetitions_take_no_ids(store: &TestStore) {
    store.prepare();
    let list = format!("[{},{}]", event("a", "1"), event("a", "2"));
    for round in 0..3 {
        // Nothing has proved yet that the store takes writes.
        let server = store.consume(&[]);
        assert_eq!(server.connect().get("/ready").status, 200);
        for _ in 0..3 {
            assert_eq!(post(&server, "list", &list).status, 201);
            assert_eq!(post(&server, "list", &event("a", "other")).status, 422);
        }
        let response = server.connect().post(event("a", "new"));
        assert_eq!(response.header("location"), Some(format!("event/{}", 3 + round).as_str()));
    }
}

fn a_key_stays_as_long_as_any_event_of_its_request(store: &TestStore) {
    let list = format!("[{}]", [1, 2, 3].map(|number| event("a", &number.to_string())).join(","));
    let (first, other) = {
        let server = store.prepare_and_consume();
        (post(&server, "list", &list), post(&server, "other", &event("a", "4")))
    };
    assert_eq!((first.status, other.status), (201, 201));
    let server = store.consume(&["--keep-events", "2"]);
    wait_until(|| (store.payloads() == ["3", "4"]).then_some(()));
    assert_eq!(answer_of(&post(&server, "list", &list)), answer_of(&first));
    assert_eq!(post(&server, "list", &event("a", "x")).status, 422);
    assert_eq!(store.payloads(), ["3", "4"]);
    server.store("a", "5");
    wait_until(|| (store.payloads() == ["4", "5"]).then_some(()));
    wait_until(|| (store.keys() == ["other"]).then_some(()));
    assert_eq!(answer_of(&post(&server, "other", &event("a", "4"))), answer_of(&other));
    assert_eq!(post(&server, "list", &list).status, 201);
    assert!(store.payloads().ends_with(&["2", "3"].map(str::to_owned)), "{:?}", store.payloads());
}

fn a_request_whose_key_is_being_deleted_is_stored_or_known(store: &TestStore) {
    store.prepare();
    let limits = RetentionLimits {
        now: Timestamp::now(),
        is_clock_believed: false,
        received_before: None,
        events: Some(0),
        bytes: None,
        keys_before: None,
        recount: Recount::IfSmall,
    };
    let enough = 20;
    let done = std::sync::atomic::AtomicBool::new(false);
    let (stored, mut deleted) = std::thread::scope(|scope| {
        let appending = scope.spawn(|| {
            let process = Open::new(store);
            let mut stored = 0;
            wait_until(|| {
                let append = Append {
                    events: vec![Event::parse(event("a", "b").as_bytes()).unwrap()],
                    key: Some(IdempotencyKey { key: "key".to_owned(), body_digest: [1; 32] }),
                    aliases: Vec::new(),
                    deliveries: Vec::new(),
                };
                let outcome = process.write(move |backend| backend.append(&[&append], Timestamp::now()))[0];
                stored += u64::from(matches!(outcome, Outcome::Stored { repeated: false, .. }));
                (stored == enough).then_some(())
            });
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            process.close();
            stored
        });
        let process = Open::new(store);
        let mut deleted = 0;
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            deleted += process.sweep(limits).by_count;
        }
        process.close();
        (appending.join().unwrap(), deleted)
    });
    deleted += store.stored().len() as u64;
    assert_eq!(stored, deleted, "an answer that said stored was not");
}

fn keys_outlive_their_events_for_as_long_as_they_are_kept(store: &TestStore) {
    let (old, young) = {
        let server = store.prepare_and_consume();
        (post(&server, "old", &event("a", "1")), post(&server, "young", &event("a", "2")))
    };
    assert_eq!((old.status, young.status), (201, 201));
    let age = |hours: i64, id: i64| {
        let microseconds = hours * 3_600_000_000;
        store.execute(&format!(
            "UPDATE events SET received_at = received_at - {microseconds} WHERE id = {id}"
        ));
    };
    age(1, 1);
    {
        let server = store.consume(&["--keep", "30m", "--keep-keys", "1d"]);
        wait_until(|| (store.payloads() == ["2"]).then_some(()));
        assert_eq!(answer_of(&post(&server, "old", &event("a", "1"))), answer_of(&old));
        assert_eq!(store.payloads(), ["2"]);
    }
    let server = store.consume(&["--keep", "30m", "--keep-keys", "50m"]);
    wait_until(|| (store.keys() == ["young"]).then_some(()));
    let again = post(&server, "old", &event("a", "1"));
    assert_eq!((again.status, again.header("location")), (201, Some("event/3")));
}

fn an_event_from_the_future_stops_nothing(store: &TestStore) {
    {
        let server = store.prepare_and_consume();
        for number in 1..=4 {
            server.store("a", &number.to_string());
        }
    }
    store.execute(&format!("UPDATE events SET received_at = received_at + {} WHERE id = 1", 400 * DAY));
    store.execute(&format!("UPDATE events SET received_at = received_at - {DAY} WHERE id IN (2, 3)"));
    let _server = store.consume(&["--keep", "12h"]);
    wait_until(|| (store.payloads() == ["1", "4"]).then_some(()));
}

fn now() -> Timestamp {
    Timestamp::from_microseconds(1_700_000_000_000_000)
}
const HOUR: Duration = Duration::from_secs(3600);

fn no_limits() -> RetentionLimits {
    RetentionLimits {
        now: now(),
        is_clock_believed: true,
        received_before: None,
        events: None,
        bytes: None,
        keys_before: None,
        recount: Recount::Always,
    }
}

/// Stores events of ten bytes each.
fn append(open: &Open, count: usize, key: Option<&str>, received_at: Timestamp) {
    append_with(open, count, key, received_at, Vec::new());
}

fn append_with(
    open: &Open,
    count: usize,
    key: Option<&str>,
    received_at: Timestamp,
    deliveries: Vec<NewDelivery>,
) {
    let parse = || Event::parse(event("a", "123456789").as_bytes()).unwrap();
    let key = key.map(|key| IdempotencyKey { key: key.to_owned(), body_digest: [1; 32] });
    let append =
        Append { events: (0..count).map(|_| parse()).collect(), key, aliases: Vec::new(), deliveries };
    open.write(move |backend| backend.append(&[&append], received_at));
}

fn an_event_that_is_as_old_as_events_are_kept_stays(store: &TestStore) {
    store.prepare();
    let open = Open::new(store);
    append(&open, 1, None, now());
    let by_age = |received_before| {
        open.sweep(RetentionLimits { received_before: Some(received_before), ..no_limits() }).by_age
    };
    assert_eq!(by_age(now()), 0);
    assert_eq!(by_age(now().after(Duration::from_micros(1))), 1);
    open.close();
}

/// Events from the future are as old as their deletion, and so a request may have some that are of age and some that are
/// not.
fn a_key_whose_events_were_deleted_one_after_another_is_kept_from_the_last_deletion(store: &TestStore) {
    store.prepare();
    let open = Open::new(store);
    let sweep = |minutes: u64, events: i64, keys_before: u64| {
        let after = |minutes: u64| now().after(Duration::from_secs(60 * minutes));
        let deleted = open.sweep(RetentionLimits {
            now: after(minutes),
            events: Some(events),
            keys_before: Some(after(keys_before)),
            ..no_limits()
        });
        (deleted.by_count, deleted.keys)
    };
    // The first of three last: it has an alert that is not sent.
    append_with(&open, 3, Some("first last"), now().after(1000 * HOUR), vec![delivery(0)]);
    assert_eq!(sweep(0, 0, 0), (2, 0));
    store.execute("UPDATE deliveries SET state = 'sent', due_at = NULL");
    assert_eq!(sweep(10, 0, 0), (1, 0));
    assert_eq!(sweep(11, 0, 5), (0, 0));
    assert_eq!(store.keys(), ["first last"]);
    assert_eq!(sweep(12, 0, 11), (0, 1));
    // The others last, together with what came after them.
    append(&open, 3, Some("others last"), now().after(1000 * HOUR));
    assert_eq!(sweep(20, 2, 0), (1, 0));
    append(&open, 2, None, now().after(1000 * HOUR));
    assert_eq!(sweep(30, 0, 0), (4, 0));
    assert_eq!(sweep(31, 0, 25), (0, 0));
    assert_eq!(store.keys(), ["others last"]);
    assert_eq!(sweep(32, 0, 31), (0, 1));
    open.close();
}

fn a_step_full_of_events_from_the_future_stops_nothing(store: &TestStore) {
    store.prepare();
    let open = Open::new(store);
    append(&open, 1000, None, now().after(HOUR));
    append(&open, 1, None, now().before(HOUR));
    let by_age = open.sweep(RetentionLimits { received_before: Some(now()), ..no_limits() }).by_age;
    assert_eq!((by_age, store.stored().len()), (1, 1000));
    open.close();
}

fn a_key_of_an_event_from_the_future_is_kept_no_longer_than_others(store: &TestStore) {
    store.prepare();
    let open = Open::new(store);
    append(&open, 1, Some("key"), now().after(1000 * HOUR));
    let sweep = |now: Timestamp| {
        open.sweep(RetentionLimits {
            now,
            events: Some(0),
            keys_before: Some(now.before(HOUR)),
            ..no_limits()
        })
    };
    let deleted = sweep(now());
    assert_eq!((deleted.by_count, deleted.keys), (1, 0));
    assert_eq!(store.keys(), ["key"]);
    assert_eq!(sweep(now().after(2 * HOUR)).keys, 1);
    assert!(store.keys().is_empty());
    open.close();
}

fn more_events_than_a_step_counts_are_kept_by_number(store: &TestStore) {
    {
        let server = store.prepare_and_consume();
        let list = format!("[{}]", vec![event("a", "b"); 2500].join(","));
        assert_eq!(server.connect().post(list).status, 201);
    }
    let _server = store.consume(&["--keep-events", "1500"]);
    wait_until(|| (store.stored().len() == 1500).then_some(()));
}

fn what_was_deleted_is_not_counted_among_the_bytes_that_are_kept(store: &TestStore) {
    store.prepare();
    let open = Open::new(store);
    append(&open, 2000, None, now());
    let limits = RetentionLimits { bytes: Some(15_000), ..no_limits() };
    assert_eq!(open.sweep(limits).by_bytes, 500);
    // So many are not counted anew.
    assert_eq!(open.sweep(RetentionLimits { recount: Recount::IfSmall, ..limits }).by_bytes, 0);
    append(&open, 1, None, now());
    assert_eq!(open.sweep(RetentionLimits { recount: Recount::Never, ..limits }).by_bytes, 1);
    open.close();
}

fn what_was_deleted_on_request_is_not_counted_among_the_bytes_that_are_kept(store: &TestStore) {
    store.prepare();
    let open = Open::new(store);
    append(&open, 1500, None, now());
    let limits = RetentionLimits { bytes: Some(15_000), ..no_limits() };
    assert_eq!(open.sweep(limits).by_bytes, 0);
    let id = store.stored()[700].0;
    assert!(open.write(move |backend| delete_event(backend, id, &PermittedTypes::default())));
    append(&open, 1, None, now());
    assert_eq!(open.sweep(RetentionLimits { recount: Recount::Never, ..limits }).by_bytes, 0);
    append(&open, 1, None, now());
    assert_eq!(open.sweep(RetentionLimits { recount: Recount::Never, ..limits }).by_bytes, 1);
    open.close();
}

fn the_last_known_time_is_renewed_every_ten_minutes_while_the_clock_is_believed(store: &TestStore) {
    store.prepare();
    let open = Open::new(store);
    let sweep_after = |seconds, is_clock_believed| {
        let later = now().after(Duration::from_secs(seconds));
        open.sweep(RetentionLimits { now: later, is_clock_believed, ..no_limits() });
        let last_known = open.write(last_known_time);
        last_known.map(|time| now().microseconds_until(time) / 1_000_000)
    };
    assert_eq!(sweep_after(0, false), None);
    // An event has to do until the clock is believed, and no longer.
    append(&open, 1, None, now().before(HOUR));
    assert_eq!(sweep_after(0, false), Some(-3600));
    assert_eq!(sweep_after(0, true), Some(0));
    assert_eq!(sweep_after(599, true), Some(0));
    assert_eq!(sweep_after(600, false), Some(0));
    assert_eq!(sweep_after(600, true), Some(600));
    append(&open, 1, None, now().after(HOUR));
    assert_eq!(sweep_after(1199, true), Some(600));
    open.close();
}

fn the_log_says_what_is_kept_and_what_was_deleted(store: &TestStore) {
    {
        let server = store.prepare_and_consume();
        post(&server, "key", &event("a", "1"));
        (2..=5).for_each(|number| server.store("a", &number.to_string()));
    }
    store.execute(&format!("UPDATE events SET received_at = received_at - {DAY} WHERE id = 1"));
    {
        let mut server = store.consume(&["--keep", "90d", "--keep-keys", "1h 30m"]);
        server.process.wait_for_stderr(
            "retention: events are kept for 90d (--keep); their idempotency keys as long as they are, and at least \
             for 1h 30m (--keep-keys)",
        );
    }
    let mut server = store.consume(&["--keep", "12h", "--keep-events", "3", "--keep-bytes", "4"]);
    server.process.wait_for_stderr(
        "retention: events are kept for 12h (--keep), and of these the newest 3 (--keep-events), and of these the \
         newest 4 bytes (--keep-bytes); their idempotency keys as long as they are",
    );
    server.process.wait_for_stderr(
        "retention: deleted 3 events: 1 by age (--keep 12h), 1 by count (--keep-events 3), 1 by bytes \
         (--keep-bytes 4 bytes); idempotency keys: 1",
    );
    assert_eq!(store.payloads(), ["4", "5"]);
}

//! Subscriptions on every store: against a plain model in random sequences, by several processes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eventctl::testing::{
    Answer, Append, Attempt, Definition, Event, Progress, Recount, Refusal, Rejection, RetentionLimits,
    Selected, Start, Subscription, SubscriptionOrder as Order, SubscriptionRequest as Request, Timestamp,
    Token, Unpark, progress, run_on_subscriptions as run,
};

use serde_json::{Value, json};

use super::database::{Kind, TestStore, on_every_store};
use super::retention::Open;
use crate::util::http::{Connection, Response, event};
use crate::util::{Consume, random};

on_every_store!(
    subscriptions_are_as_a_plain_model_has_them,
    retention_keeps_what_a_subscription_has_to_do,
    workers_that_die_and_oversleep_acknowledge_each_event_once,
    workers_in_strict_order_are_never_overtaken,
);

const LEASE: i64 = 1_000_000;

#[derive(Debug, Clone)]
struct Row {
    attempts: i64,
    /// The number of its last claim.
    claim: i64,
    is_leased: bool,
    /// None where it is parked.
    due_at: Option<i64>,
}

/// What a subscription must be.
#[derive(Debug, Clone)]
struct Model {
    pattern: Option<String>,
    order: Order,
    skips_parked: bool,
    max_attempts: i64,
    position: i64,
    rows: BTreeMap<i64, Row>,
    claims: i64,
    stale: BTreeSet<i64>,
    acknowledged: BTreeSet<i64>,
}

impl Model {
    fn definition(&self) -> Definition {
        Definition {
            event_type: self.pattern.as_ref().map(|pattern| pattern.parse().unwrap()),
            order: self.order,
            skips_parked: self.skips_parked,
            retains: true,
            lease: Duration::from_micros(LEASE as u64),
            max_attempts: self.max_attempts as u32,
            expires: Duration::from_secs(86_400),
        }
    }

    fn selects(&self, event_type: &str) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| event_type == pattern)
    }

    fn claim(&mut self, events: &[(i64, String)], limit: usize, now: i64) -> Vec<(i64, i64)> {
        let is_due = |row: &Row| row.due_at.is_some_and(|due_at| due_at <= now);
        let (strict, skips) = (self.order == Order::Strict, self.skips_parked);
        let seen = self.rows.iter().filter(|(_, row)| match strict {
            true => row.due_at.is_some() || !skips,
            false => is_due(row),
        });
        let seen: Vec<(i64, bool)> = seen.take(limit + 1).map(|(id, row)| (*id, is_due(row))).collect();
        let due: Vec<i64> = seen.iter().take_while(|(_, due)| *due).take(limit).map(|(id, _)| *id).collect();
        let mut is_open = due.len() == seen.len();
        let mut returned = Vec::new();
        for id in due {
            let row = self.rows.get_mut(&id).unwrap();
            if row.attempts >= self.max_attempts {
                self.stale.insert(row.claim);
                (row.due_at, row.is_leased) = (None, false);
                if strict && !skips {
                    is_open = false;
                    break;
                }
                continue;
            }
            returned.push(id);
        }
        let mut new = Vec::new();
        if is_open && returned.len() < limit {
            for (id, event_type) in
                events.iter().filter(|(id, _)| *id > self.position).cloned().collect::<Vec<_>>()
            {
                let is_selected = self.selects(&event_type);
                // Events of other types are passed over even where there is no room for one more.
                let has_room = returned.len() + new.len() < limit;
                if is_selected && !has_room {
                    break;
                }
                self.position = id;
                if is_selected {
                    new.push(id);
                }
            }
        }
        self.claims += 1;
        for id in &returned {
            let row = self.rows.get_mut(id).unwrap();
            self.stale.insert(row.claim);
            *row = Row {
                attempts: row.attempts + 1,
                claim: self.claims,
                is_leased: true,
                due_at: Some(now + LEASE),
            };
        }
        for id in &new {
            let row = Row { attempts: 1, claim: self.claims, is_leased: true, due_at: Some(now + LEASE) };
            self.rows.insert(*id, row);
        }
        returned.iter().chain(&new).map(|id| (*id, self.rows[id].attempts)).collect()
    }

    /// Those that the claim still has, and those of them that are selected.
    fn held(&self, claim: i64, selected: &Selected) -> Result<(Vec<i64>, Vec<i64>), Refusal> {
        let is_whole = !self.stale.contains(&claim);
        let held = self.rows.iter().filter(|(_, row)| row.claim == claim && row.is_leased);
        let held: Vec<i64> = held.map(|(id, _)| *id).collect();
        let of_claim = |id: &i64| self.rows.get(id).is_some_and(|row| row.claim == claim);
        let (known, chosen) = match selected {
            Selected::All => (is_whole, held.clone()),
            Selected::UpTo(last) => (is_whole, held.iter().copied().filter(|id| id <= last).collect()),
            Selected::Ids(ids) => {
                let is_known =
                    |id: &i64| held.contains(id) || is_whole && !of_claim(id) && *id <= self.position;
                (ids.iter().all(is_known), held.iter().copied().filter(|id| ids.contains(id)).collect())
            }
        };
        if known { Ok((held, chosen)) } else { Err(Refusal::Stale) }
    }

    fn acknowledge(&mut self, claim: i64, selected: &Selected) -> Result<(), Refusal> {
        let (held, chosen) = self.held(claim, selected)?;
        if self.order == Order::Strict && !held.starts_with(&chosen) {
            return Err(Refusal::OutOfOrder);
        }
        for id in chosen {
            self.rows.remove(&id);
            assert!(self.acknowledged.insert(id), "{id} is acknowledged twice");
        }
        Ok(())
    }

    fn reject(
        &mut self,
        claim: i64,
        selected: &Selected,
        rejection: &Rejection,
        now: i64,
    ) -> Result<(), Refusal> {
        let (held, chosen) = self.held(claim, selected)?;
        let due_at = now + rejection.delay.as_micros() as i64;
        for id in &chosen {
            let row = self.rows.get_mut(id).unwrap();
            row.is_leased = false;
            let is_last = match rejection.attempt {
                Attempt::None => false,
                Attempt::Failed => row.attempts >= self.max_attempts,
                Attempt::Hopeless => true,
            };
            row.due_at = Some(due_at).filter(|_| !is_last);
            row.attempts -= i64::from(rejection.attempt == Attempt::None);
        }
        if let Some(first) = chosen.first().filter(|_| self.order == Order::Strict) {
            for id in held.iter().filter(|id| *id > first && !chosen.contains(id)) {
                let row = self.rows.get_mut(id).unwrap();
                (row.is_leased, row.due_at) = (false, Some(now));
                row.attempts -= 1;
            }
        }
        Ok(())
    }
}

struct Trial<'a> {
    store: &'a TestStore,
    processes: Vec<Open>,
    random: fastrand::Rng,
    events: Vec<(i64, String)>,
    model: Model,
    epoch: i64,
    /// The number of each claim that got events.
    tokens: Vec<i64>,
    now: i64,
}

impl Trial<'_> {
    fn ask(&mut self, request: Request) -> Answer {
        let process = &self.processes[self.random.usize(..self.processes.len())];
        let now = Timestamp::from_microseconds(self.now);
        process.write(move |backend| run(backend, &[("sub", &request)], now)).remove(0)
    }

    fn append(&mut self) {
        let count = self.random.usize(1..8);
        let types: Vec<&str> = (0..count).map(|_| if self.random.bool() { "a" } else { "b" }).collect();
        let events =
            types.iter().map(|event_type| Event::parse(event(event_type, "x").as_bytes()).unwrap()).collect();
        let append = Append { events, key: None, aliases: Vec::new(), deliveries: Vec::new() };
        let process = &self.processes[self.random.usize(..self.processes.len())];
        process.write(move |backend| backend.append(&[&append], Timestamp::now()));
        let last = self.events.last().map_or(0, |(id, _)| *id);
        self.events.extend((last + 1..).zip(types.into_iter().map(str::to_owned)));
    }

    fn claim(&mut self) {
        let limit = self.random.usize(1..6);
        let claims = self.model.claims;
        let expected = self.model.claim(&self.events, limit, self.now);
        let claimed = match self.ask(Request::Claim { limit }) {
            Answer::Claimed(claimed) => claimed,
            other => panic!("{other:?}"),
        };
        let events = claimed.as_ref().map_or(Vec::new(), |claim| {
            claim.events.iter().map(|claimed| (claimed.event.id, claimed.attempts)).collect()
        });
        assert_eq!(events, expected, "{:?}", self.model);
        match claimed {
            Some(claim) => {
                self.model.claims = claim.token.number;
                for row in self.model.rows.values_mut().filter(|row| row.claim == claims + 1) {
                    row.claim = claim.token.number;
                }
                self.tokens.push(claim.token.number);
                self.epoch = claim.token.epoch;
                assert_eq!(claim.until.as_microseconds(), self.now + LEASE);
            }
            None => self.model.claims = claims.max(self.claims_stored()),
        }
    }

    /// The number of the last claim: one that got nothing may have none.
    fn claims_stored(&self) -> i64 {
        super::replication::numbers(self.store, "SELECT token FROM subscriptions")[0]
    }

    fn any_token(&mut self) -> Option<Token> {
        let recent = self.tokens.len().saturating_sub(4);
        let from = if self.random.u8(..4) == 0 { 0 } else { recent };
        let choices = &self.tokens[from..];
        (!choices.is_empty())
            .then(|| Token { epoch: self.epoch, number: choices[self.random.usize(..choices.len())] })
    }

    fn any_selection(&mut self, token: Token) -> Selected {
        let of_claim = self.model.rows.iter().filter(|(_, row)| row.claim == token.number);
        let ids: Vec<i64> = of_claim.map(|(id, _)| *id).collect();
        match self.random.u8(..4) {
            0 => Selected::All,
            1 => Selected::UpTo(self.random.i64(0..=self.model.position.max(1))),
            2 => Selected::Ids(ids.into_iter().take(self.random.usize(1..4)).collect()),
            _ => Selected::Ids((0..3).map(|_| self.random.i64(1..=self.model.position.max(1) + 1)).collect()),
        }
    }

    fn settle(&mut self) {
        let Some(token) = self.any_token() else { return };
        let selected = self.any_selection(token);
        let (expected, answer) = if self.random.u8(..3) > 0 {
            let expected = self.model.acknowledge(token.number, &selected);
            (expected, self.ask(Request::Acknowledge { token, selected }))
        } else {
            let delay = Duration::from_micros(self.random.u64(..2_000_000));
            let reason = self.random.bool().then(|| "it failed".to_owned());
            let rejection = Rejection {
                delay,
                reason,
                attempt: [Attempt::None, Attempt::Failed, Attempt::Failed, Attempt::Hopeless]
                    [self.random.usize(..4)],
            };
            let expected = self.model.reject(token.number, &selected, &rejection, self.now);
            (expected, self.ask(Request::Reject { token, selected, rejection }))
        };
        match (expected, answer) {
            (Ok(()), Answer::Done) => {}
            (Err(expected), Answer::Refused(refusal)) => assert_eq!(refusal, expected),
            (expected, answer) => panic!("expected {expected:?}, got {answer:?}: {token:?} {:?}", self.model),
        }
    }

    fn extend(&mut self) {
        let Some(token) = self.any_token() else { return };
        let held = self.model.held(token.number, &Selected::All).map(|(held, _)| held).unwrap_or_default();
        let lease = Duration::from_micros(self.random.u64(1..3_000_000));
        let until = self.now + lease.as_micros() as i64;
        for id in &held {
            self.model.rows.get_mut(id).unwrap().due_at = Some(until);
        }
        match self.ask(Request::Extend { token, lease: Some(lease) }) {
            Answer::Extended { until: end } => {
                assert_eq!((end.as_microseconds(), held.is_empty()), (until, false))
            }
            Answer::Refused(Refusal::Stale) => assert!(held.is_empty()),
            other => panic!("{other:?}"),
        }
    }

    fn unpark(&mut self) {
        let parked: Vec<i64> =
            self.model.rows.iter().filter(|(_, row)| row.due_at.is_none()).map(|(id, _)| *id).collect();
        let action = if self.random.bool() { Unpark::Replay } else { Unpark::Skip };
        let ids =
            self.random.bool().then(|| parked.iter().copied().filter(|id| id % 2 == 0).collect::<Vec<i64>>());
        let chosen = ids.clone().unwrap_or(parked);
        for id in &chosen {
            match action {
                Unpark::Skip => drop(self.model.rows.remove(id)),
                Unpark::Replay => {
                    let row = self.model.rows.get_mut(id).unwrap();
                    (row.attempts, row.due_at) = (0, Some(self.now));
                }
            }
        }
        match self.ask(Request::Unpark { ids, action }) {
            Answer::Unparked { count } => assert_eq!(count, chosen.len() as u64),
            other => panic!("{other:?}"),
        }
    }

    fn check_progress(&mut self) {
        let found: (Progress, i64) = self.processes[0].write(|backend| {
            backend.run(|statements| {
                let subscription = Subscription::read(statements, "sub")?.unwrap();
                Ok((progress(statements, &subscription)?, subscription.position))
            })
        });
        let rows = &self.model.rows;
        let count = |is: &dyn Fn(&Row) -> bool| rows.values().filter(|row| is(row)).count() as i64;
        let is_ahead =
            |(id, event_type): &&(i64, String)| *id > self.model.position && self.model.selects(event_type);
        let lag = self.events.iter().filter(is_ahead).count() as i64;
        let (Progress { lag: found_lag, in_flight, waiting, parked, oldest }, position) = found;
        assert_eq!(position, self.model.position);
        let expected = [
            lag,
            count(&|row| row.is_leased),
            count(&|row| !row.is_leased && row.due_at.is_some()),
            count(&|row| row.due_at.is_none()),
        ];
        assert_eq!([found_lag, in_flight, waiting, parked], expected);
        assert_eq!(oldest.is_none(), rows.is_empty() && lag == 0);
    }
}

fn subscriptions_are_as_a_plain_model_has_them(store: &TestStore) {
    store.prepare();
    let mut random = random();
    let mut processes = vec![Open::new(store), Open::new(store)];
    let mut events = Vec::new();
    for order in [Order::Parallel, Order::Strict, Order::Strict] {
        let model = Model {
            pattern: random.bool().then(|| "a".to_owned()),
            order,
            skips_parked: random.bool(),
            max_attempts: random.i64(1..4),
            position: 0,
            rows: BTreeMap::new(),
            claims: 0,
            stale: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
        };
        let mut trial = Trial {
            store,
            processes,
            random: fastrand::Rng::with_seed(random.u64(..)),
            events,
            model,
            epoch: 0,
            tokens: Vec::new(),
            now: 1_700_000_000_000_000,
        };
        let definition = trial.model.definition();
        trial.ask(Request::Define { definition, start: Start::Beginning });
        for _ in 0..400 {
            match trial.random.u8(..16) {
                0..=2 => trial.append(),
                3..=6 => trial.claim(),
                7..=11 => trial.settle(),
                12 => trial.extend(),
                13 if trial.random.u8(..4) == 0 => trial.unpark(),
                13 => trial.check_progress(),
                _ => trial.now += trial.random.i64(1..LEASE),
            }
        }
        trial.check_progress();
        trial.ask(Request::Remove);
        (processes, events) = (trial.processes, trial.events);
    }
    processes.into_iter().for_each(Open::close);
}

fn retention_keeps_what_a_subscription_has_to_do(store: &TestStore) {
    store.prepare();
    let process = Open::new(store);
    let now = Timestamp::now();
    let ask =
        |request: Request| process.write(move |backend| run(backend, &[("sub", &request)], now)).remove(0);
    let define = |retains: bool| Request::Define {
        definition: Definition {
            event_type: None,
            order: Order::Parallel,
            skips_parked: false,
            retains,
            lease: Duration::from_secs(60),
            max_attempts: 9,
            expires: Duration::from_secs(86_400),
        },
        start: Start::Beginning,
    };
    ask(define(true));
    let events = (0..5).map(|_| Event::parse(event("a", "b").as_bytes()).unwrap()).collect();
    let append = Append { events, key: None, aliases: Vec::new(), deliveries: Vec::new() };
    process.write(move |backend| backend.append(&[&append], now));
    let limits = RetentionLimits {
        now,
        is_clock_believed: true,
        received_before: None,
        events: Some(1),
        bytes: None,
        keys_before: None,
        recount: Recount::Always,
    };
    let left = || {
        process.sweep(limits);
        store.stored().into_iter().map(|(id, _, _)| id).collect::<Vec<_>>()
    };
    assert_eq!(left(), [1, 2, 3, 4, 5], "nobody has claimed them");
    let Answer::Claimed(Some(claim)) = ask(Request::Claim { limit: 3 }) else { panic!() };
    assert_eq!(left(), [1, 2, 3, 4, 5], "nobody has acknowledged them");
    ask(Request::Acknowledge { token: claim.token, selected: Selected::Ids(vec![1, 3]) });
    assert_eq!(left(), [2, 4, 5]);
    ask(define(false));
    assert_eq!(left(), [5]);
    assert_eq!(super::replication::numbers(store, "SELECT event_id FROM subscription_events"), [0; 0]);
    process.close();
}

/// For how long workers work; minutes prove more.
fn working_time() -> Duration {
    let seconds = std::env::var("TEST_WORKER_SECONDS");
    Duration::from_secs_f64(seconds.map_or(3.0, |seconds| seconds.parse().unwrap()))
}

/// Some `consume` processes, of which one is killed now and then, and what their clients saw.
struct Work<'a> {
    store: &'a TestStore,
    addresses: Mutex<Vec<SocketAddr>>,
    is_over: AtomicBool,
    stored: AtomicUsize,
    /// In the order in which they were acknowledged.
    acknowledged: Mutex<Vec<i64>>,
    refused: AtomicUsize,
}

const LEASE_OF_WORK: Duration = Duration::from_millis(300);

impl Work<'_> {
    /// Asks one process after the other until one answers.
    fn ask(&self, method: &str, path: &str, body: &Value, random: &mut fastrand::Rng) -> Response {
        loop {
            let address = {
                let addresses = self.addresses.lock().unwrap();
                addresses[random.usize(..addresses.len())]
            };
            let headers = [("Content-Type", "application/json")];
            let answer = Connection::try_open(address).and_then(|mut connection| {
                connection.try_request(method, path, &headers, body.to_string().as_bytes())
            });
            match answer {
                Ok(response) if ![503, 504].contains(&response.status) => return response,
                _ => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn write(&self) {
        let mut random = random();
        while !self.is_over.load(Ordering::Relaxed) {
            let key = self.stored.fetch_add(1, Ordering::Relaxed);
            let body = json!({"event_type": "a", "event_payload": key.to_string()});
            loop {
                let address = {
                    let addresses = self.addresses.lock().unwrap();
                    addresses[random.usize(..addresses.len())]
                };
                let posted = Connection::try_open(address).and_then(|mut connection| {
                    connection.try_post_with_key(&key.to_string(), body.to_string())
                });
                if posted.is_ok_and(|response| response.status == 201) {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Works until everything is acknowledged. Now and then it forgets what it has claimed, or sleeps too long.
    fn work(&self) {
        let mut random = random();
        loop {
            let limit = random.usize(1..20);
            let claim = self.ask("POST", "/subscription/work/claim", &json!({"limit": limit}), &mut random);
            assert_eq!(claim.status, 200, "{claim:?}");
            let claim = claim.json();
            let ids: Vec<i64> = claim["events"]
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["id"].as_i64().unwrap())
                .collect();
            if ids.is_empty() {
                let done = self.acknowledged.lock().unwrap().len() >= self.stored.load(Ordering::Relaxed);
                if done && self.is_over.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            match random.u8(..12) {
                // It dies, and somebody else begins anew.
                0 => continue,
                1 => thread::sleep(LEASE_OF_WORK * 2),
                2 => {
                    let body = json!({"token": claim["token"], "release": true});
                    let status = self.ask("POST", "/subscription/work/nack", &body, &mut random).status;
                    assert!([200, 409].contains(&status));
                    continue;
                }
                _ => {}
            }
            let done = random.usize(1..=ids.len());
            // Held until the answer: so the order of acknowledgements is known.
            let mut acknowledged = self.acknowledged.lock().unwrap();
            let body = json!({"token": claim["token"], "ids": ids[..done]});
            match self.ask("POST", "/subscription/work/ack", &body, &mut random).status {
                200 => acknowledged.extend(&ids[..done]),
                409 => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
                status => panic!("{status}"),
            }
            drop(acknowledged);
            if done < ids.len() {
                let body = json!({"token": claim["token"], "ids": ids[done..], "release": true});
                self.ask("POST", "/subscription/work/nack", &body, &mut random);
            }
        }
    }
}

fn acknowledged_by_workers(store: &TestStore, definition: &Value) -> Vec<i64> {
    store.prepare();
    let is_file = store.kind == Kind::Sqlite;
    let mut servers: Vec<Consume> = (0..if is_file { 1 } else { 3 }).map(|_| store.consume(&[])).collect();
    let work = Work {
        store,
        addresses: Mutex::new(servers.iter().map(|server| server.address).collect()),
        is_over: AtomicBool::new(false),
        stored: AtomicUsize::new(0),
        acknowledged: Mutex::default(),
        refused: AtomicUsize::new(0),
    };
    let mut random = random();
    assert_eq!(work.ask("PUT", "/subscription/work", definition, &mut random).status, 201);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| work.write());
        }
        for _ in 0..8 {
            scope.spawn(|| work.work());
        }
        let begun = Instant::now();
        while begun.elapsed() < working_time() {
            thread::sleep(Duration::from_millis(random.u64(100..700)));
            let index = random.usize(..servers.len());
            servers[index].process.kill();
            servers[index] = work.store.consume(&[]);
            work.addresses.lock().unwrap()[index] = servers[index].address;
        }
        work.is_over.store(true, Ordering::Relaxed);
    });
    let acknowledged = work.acknowledged.into_inner().unwrap();
    let stored: Vec<i64> = store.stored().into_iter().map(|(id, _, _)| id).collect();
    let mut sorted = acknowledged.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, stored, "each event is acknowledged once");
    assert!(stored.len() > 50, "{} events", stored.len());
    println!("{} events, {} stale acknowledgements", stored.len(), work.refused.into_inner());
    acknowledged
}

fn workers_that_die_and_oversleep_acknowledge_each_event_once(store: &TestStore) {
    acknowledged_by_workers(store, &json!({"lease": "300ms", "max_attempts": 1000}));
}

fn workers_in_strict_order_are_never_overtaken(store: &TestStore) {
    let definition = json!({"lease": "300ms", "max_attempts": 1000, "order": "strict"});
    let acknowledged = acknowledged_by_workers(store, &definition);
    assert!(acknowledged.is_sorted(), "{acknowledged:?}");
}

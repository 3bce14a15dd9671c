//! Claims of the outbox, at instants of our own.

use std::sync::Arc;
use std::time::Duration;

use eventctl::testing::Event;
use eventctl::testing::Timestamp;
use eventctl::testing::{self, Append, Claim, Claimed, Message, NewDelivery, Settlement};

use super::database::{TestStore, on_every_store};
use super::retention::Open;
use crate::util::http::event;

on_every_store!(
    after_a_pause_a_channel_gets_one_message_until_it_has_taken_that,
    a_pause_that_is_longer_than_one_can_be_is_over,
);

const LEASE: Duration = Duration::from_secs(60);

/// So many seconds after the beginning.
fn at(seconds: u64) -> Timestamp {
    Timestamp::from_microseconds(1_700_000_000_000_000).after(Duration::from_secs(seconds))
}

/// Stores an event that the channel is to be told of.
fn alert(process: &Open, now: Timestamp) {
    let delivery = NewDelivery {
        position: 0,
        channel: Arc::from("channel"),
        digest: "0".repeat(64),
        repeat_after: Duration::ZERO,
    };
    let events = vec![Event::parse(event("a", "b").as_bytes()).unwrap()];
    let append = Append { events, key: None, aliases: Vec::new(), deliveries: vec![delivery] };
    process.write(move |backend| backend.append(&[&append], now));
}

/// The message that a process gets for the channel; or else until when there is none.
fn claim(process: &Open, claimant: &str, now: Timestamp) -> Result<Message, Option<Timestamp>> {
    let (channel, claimant) = (Arc::from("channel"), claimant.to_owned());
    let claim = Claim { channel, claimant, now, lease: LEASE, rate: 1000, pace: None };
    match process.write(move |backend| testing::claim(backend, &claim)) {
        Claimed::Message(message) => Ok(message),
        Claimed::Nothing { until } => Err(until),
    }
}

fn settle(process: &Open, message: Message, settlement: Settlement, now: Timestamp) {
    process.write(move |backend| testing::settle(backend, &message, &settlement, now));
}

fn pause_until(reopening: Timestamp) -> Settlement {
    let reason = "status 429".to_owned();
    Settlement::Retry { at: reopening, reason, give_up_before: Timestamp::from_microseconds(0), closes: true }
}

fn after_a_pause_a_channel_gets_one_message_until_it_has_taken_that(store: &TestStore) {
    store.prepare();
    let [one, other] = [Open::new(store), Open::new(store)];
    alert(&one, at(0));
    let message = claim(&one, "one", at(0)).unwrap();
    settle(&one, message, pause_until(at(10)), at(0));
    alert(&one, at(1));
    assert_eq!(claim(&other, "other", at(1)).unwrap_err(), Some(at(10)));
    alert(&one, at(10));
    let message = claim(&one, "one", at(10)).unwrap();
    assert_eq!(message.event_ids, [1, 2], "what has waited for the channel");
    assert_eq!(claim(&other, "other", at(11)).unwrap_err(), Some(at(10).after(LEASE)));
    settle(&one, message, Settlement::Sent, at(12));
    assert_eq!(claim(&other, "other", at(12)).unwrap().event_ids, [3]);
    [one, other].into_iter().for_each(Open::close);
}

fn a_pause_that_is_longer_than_one_can_be_is_over(store: &TestStore) {
    store.prepare();
    let process = Open::new(store);
    alert(&process, at(7200));
    let message = claim(&process, "one", at(7200)).unwrap();
    settle(&process, message, pause_until(at(7210)), at(7200));
    // The clock was wrong, and is set back.
    alert(&process, at(0));
    assert_eq!(claim(&process, "one", at(0)).unwrap().event_ids, [2]);
    process.close();
}

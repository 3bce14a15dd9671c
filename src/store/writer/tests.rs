use std::collections::VecDeque;
use std::sync::{Mutex, mpsc};

use super::queue::FirstOfBatch;
use super::*;
use crate::core::event::Event;
use crate::store::backend::Work;
use crate::store::budget::{Budget, Reservation};
use crate::store::error::{AppendError, Cause};
use crate::store::location::StoreLocation;
use crate::store::options::StoreOptions;

type Answer<T> = Result<T, WriteError>;

/// A store that does as its script says, and counts the calls.
#[derive(Default)]
struct Scripted {
    /// What becomes of the appends, one after the other; those beyond are stored.
    appends: VecDeque<Answer<Outcome>>,
    /// What becomes of the attempts to recover; those beyond succeed.
    recoveries: VecDeque<Answer<()>>,
    /// Whether it cannot recover before somebody has made room.
    is_full: bool,
    /// How often it was to recover.
    attempted: Arc<Mutex<usize>>,
    /// How many events each append had.
    appended: Arc<Mutex<Vec<usize>>>,
    probes: Arc<Mutex<usize>>,
    /// What each append waits for, where there is one.
    gate: Option<mpsc::Receiver<()>>,
}

const STORED: Outcome = Outcome::Stored { first_id: 1, repeated: false };

fn refused() -> WriteError {
    WriteError::Refused(Cause::message("too big"))
}

fn full() -> WriteError {
    WriteError::Full(Cause::message("the disk is full"))
}

fn unavailable(reason: &str) -> WriteError {
    WriteError::Unavailable(Cause::message(reason))
}

impl Backend for Scripted {
    fn append(&mut self, appends: &[&Append], _: Timestamp) -> Answer<Vec<Outcome>> {
        if let Some(gate) = &self.gate {
            gate.recv().unwrap();
        }
        self.appended.lock().unwrap().push(appends.iter().map(|append| append.events.len()).sum());
        let outcome = self.appends.pop_front().unwrap_or(Ok(STORED))?;
        Ok(vec![outcome; appends.len()])
    }

    fn probe(&mut self) -> Answer<()> {
        *self.probes.lock().unwrap() += 1;
        Ok(())
    }

    fn recover(&mut self) -> Answer<()> {
        *self.attempted.lock().unwrap() += 1;
        let recovery = if self.is_full { Err(full()) } else { Ok(()) };
        self.recoveries.pop_front().unwrap_or(recovery)
    }

    fn transact(&mut self, _: &mut Work<'_>) -> Answer<()> {
        // Any write that makes room will do.
        self.is_full = false;
        Ok(())
    }
}

/// A writer thread with such a store.
struct Bench {
    queue: Arc<Queue>,
    writer: Writer,
}

impl Bench {
    fn start(backend: Scripted) -> Bench {
        let queue = Arc::new(Queue::new(1000));
        let location = StoreLocation::Sqlite("none.db".into());
        let readers = Arc::new(Readers::new(location, StoreOptions::default()));
        let writer = Writer::start(Box::new(backend), Arc::clone(&queue), readers).unwrap();
        Bench { queue, writer }
    }

    /// Queues an append of one event.
    fn push(&self) -> oneshot::Receiver<Acknowledgement> {
        let event = Event::parse(br#"{"event_type": "a", "event_payload": "b"}"#).unwrap();
        let append = Append { events: vec![event], key: None, aliases: Vec::new(), deliveries: Vec::new() };
        let (acknowledge, acknowledged) = oneshot::channel();
        let reservation = Reservation::of(&Budget::new(1), 0).unwrap();
        let _ = self.queue.push(append, reservation, acknowledge).unwrap();
        acknowledged
    }

    /// Waits until the writer has taken all that is queued.
    async fn wait_until_taken(&self) {
        while !self.queue.lock().work.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    async fn append(&self) -> Answer<Outcome> {
        let acknowledged = self.push();
        self.queue.offer();
        acknowledged.await.unwrap().receive()
    }
}

/// Queues an append of so many events.
fn push_events(queue: &Queue, count: usize) -> Result<Option<FirstOfBatch<'_>>, AppendError> {
    let event = || Event::parse(br#"{"event_type": "a", "event_payload": "b"}"#).unwrap();
    let append = Append {
        events: (0..count).map(|_| event()).collect(),
        key: None,
        aliases: Vec::new(),
        deliveries: Vec::new(),
    };
    let reservation = Reservation::of(&Budget::new(1), 0).unwrap();
    queue.push(append, reservation, oneshot::channel().0)
}

#[test]
fn only_the_first_of_a_batch_wakes_the_writer() {
    let queue = Queue::new(10);
    let push = || push_events(&queue, 1).unwrap();
    let first = push();
    let second = push();
    assert!(first.is_some() && second.is_none());
    drop(second);
    assert!(!queue.lock().offered, "the first waits for those that have arrived with it");
    drop(first);
    assert!(queue.lock().offered, "a first that is cancelled wakes the writer, too");
}

#[test]
fn a_full_queue_takes_nothing_and_is_not_ready() {
    let queue = Queue::new(2);
    drop(push_events(&queue, 1).unwrap());
    assert!(matches!(push_events(&queue, 2), Err(AppendError::Overloaded)));
    drop(push_events(&queue, 1).unwrap());
    assert!(matches!(queue.prove(), Err(AppendError::Overloaded)));
}

#[test]
fn an_append_above_the_limit_enters_an_empty_queue_alone() {
    let queue = Queue::new(2);
    push_events(&queue, 3).unwrap();
    assert!(matches!(push_events(&queue, 1), Err(AppendError::Overloaded)));
}

#[tokio::test]
async fn a_refused_append_leaves_the_queue_and_proves_nothing() {
    let bench = Bench::start(Scripted { appends: [Err(refused())].into(), ..Scripted::default() });
    assert!(matches!(bench.append().await, Err(WriteError::Refused(_))));
    assert_eq!(bench.queue.depth(), 0);
    assert!(!bench.queue.is_proved());
    assert_eq!(bench.queue.last_commit(), None);
    bench.append().await.unwrap();
    assert_eq!(bench.queue.depth(), 0);
    assert!(bench.queue.is_proved());
    bench.writer.close().await;
}

#[tokio::test]
async fn a_repeated_append_proves_nothing() {
    let repeated = Outcome::Stored { first_id: 1, repeated: true };
    let appends = [Ok(repeated), Ok(Outcome::KeyReused)].into();
    let bench = Bench::start(Scripted { appends, ..Scripted::default() });
    for _ in 0..2 {
        bench.append().await.unwrap();
        assert!(!bench.queue.is_proved());
    }
    bench.writer.close().await;
}

#[tokio::test]
async fn a_batch_that_fails_while_it_is_tried_one_by_one_hears_of_the_failure() {
    let (open, gate) = mpsc::channel();
    let appends = [Ok(STORED), Err(refused()), Ok(STORED), Err(unavailable("the disk is gone"))].into();
    let scripted = Scripted { appends, gate: Some(gate), ..Scripted::default() };
    let appended = Arc::clone(&scripted.appended);
    let bench = Bench::start(scripted);
    // The first append holds the writer up, so that the others become one batch.
    let first = bench.push();
    bench.queue.offer();
    bench.wait_until_taken().await;
    let batch: Vec<_> = (0..4).map(|_| bench.push()).collect();
    bench.queue.offer();
    for _ in 0..10 {
        open.send(()).unwrap();
    }
    let mut outcomes = vec![first.await.unwrap().receive()];
    for waiting in batch {
        outcomes.push(waiting.await.unwrap().receive());
    }
    let outcomes: Vec<_> =
        outcomes.into_iter().map(|outcome| outcome.map_err(|error| error.to_string())).collect();
    let failure = Err("the disk is gone".to_owned());
    assert_eq!(outcomes, [Ok(STORED), Ok(STORED), failure.clone(), failure.clone(), failure]);
    assert_eq!(appended.lock().unwrap()[..4], [1, 4, 1, 1]);
    assert_eq!(bench.queue.depth(), 0);
    bench.writer.close().await;
}

#[tokio::test]
async fn a_failed_store_leaves_no_events_in_the_queue_and_says_what_it_waits_for() {
    let appends = [Err(WriteError::Full(Cause::message("the disk is full")))].into();
    let recoveries =
        [Err(unavailable("a reader is in the way")), Err(unavailable("a reader is in the way"))].into();
    let bench = Bench::start(Scripted { appends, recoveries, ..Scripted::default() });
    assert!(matches!(bench.append().await, Err(WriteError::Full(_))));
    assert_eq!(bench.queue.depth(), 0);
    loop {
        match bench.queue.prove() {
            Err(AppendError::Store(WriteError::Full(_))) => tokio::task::yield_now().await,
            Err(AppendError::Store(reason)) => {
                assert_eq!(reason.to_string(), "a reader is in the way");
                break;
            }
            _ => panic!("the store has recovered, and its reason for failing was never another"),
        }
    }
    while bench.queue.prove().is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.queue.depth(), 0);
    bench.append().await.unwrap();
    assert_eq!(bench.queue.depth(), 0);
    bench.writer.close().await;
}

#[tokio::test]
async fn all_who_wait_for_a_proof_share_one() {
    for (outcome, probes) in [(Err(refused()), 1), (Ok(STORED), 0)] {
        let (open, gate) = mpsc::channel();
        let scripted = Scripted { appends: [outcome].into(), gate: Some(gate), ..Scripted::default() };
        let probed = Arc::clone(&scripted.probes);
        let bench = Bench::start(scripted);
        let held_up = bench.push();
        bench.queue.offer();
        bench.wait_until_taken().await;
        let proofs: Vec<_> = (0..1000).map(|_| bench.queue.prove().unwrap().unwrap()).collect();
        open.send(()).unwrap();
        for proof in proofs {
            proof.await.unwrap().unwrap();
        }
        let _ = held_up.await.unwrap();
        assert_eq!(*probed.lock().unwrap(), probes);
        bench.writer.close().await;
    }
}

#[tokio::test]
async fn a_store_that_was_slow_has_twice_as_long_to_prove_itself() {
    let (open, gate) = mpsc::channel();
    let bench = Bench::start(Scripted { gate: Some(gate), ..Scripted::default() });
    assert_eq!(bench.queue.patience(), *queue::ANSWER_TIME.start());
    let slow = bench.push();
    bench.queue.offer();
    bench.wait_until_taken().await;
    assert!(bench.queue.at_work_for().is_some());
    thread::sleep(queue::ANSWER_TIME.start().mul_f64(0.6));
    open.send(()).unwrap();
    slow.await.unwrap().receive().unwrap();
    while bench.queue.at_work_for().is_some() {
        tokio::task::yield_now().await;
    }
    assert!(bench.queue.patience() > *queue::ANSWER_TIME.start());
    bench.queue.lock().last_work = Duration::from_secs(20);
    assert_eq!(bench.queue.patience(), *queue::ANSWER_TIME.end());
    bench.writer.close().await;
}

#[tokio::test]
async fn a_write_that_failed_says_nothing_of_how_slow_a_store_is() {
    let (open, gate) = mpsc::channel();
    let appends = [Err(unavailable("the server is gone"))].into();
    let bench = Bench::start(Scripted { appends, gate: Some(gate), ..Scripted::default() });
    let failing = bench.push();
    bench.queue.offer();
    bench.wait_until_taken().await;
    thread::sleep(queue::ANSWER_TIME.start().mul_f64(0.6));
    open.send(()).unwrap();
    failing.await.unwrap().receive().unwrap_err();
    while bench.queue.prove().is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.queue.patience(), *queue::ANSWER_TIME.start());
    bench.writer.close().await;
}

#[tokio::test]
async fn a_commit_proves_the_store_to_those_who_asked_meanwhile() {
    let (open, gate) = mpsc::channel();
    let bench = Bench::start(Scripted { gate: Some(gate), ..Scripted::default() });
    let first = bench.push();
    bench.queue.offer();
    bench.wait_until_taken().await;
    // The second commit is held up for as long as nobody opens.
    let second = bench.push();
    let proof = bench.queue.prove().unwrap().unwrap();
    open.send(()).unwrap();
    let proved = tokio::time::timeout(Duration::from_secs(60), proof).await;
    proved.expect("a proof by the first commit").unwrap().unwrap();
    open.send(()).unwrap();
    first.await.unwrap().receive().unwrap();
    second.await.unwrap().receive().unwrap();
    bench.writer.close().await;
}

/// Queues a write of a kind that makes room if it runs.
fn push_write(queue: &Queue, kind: WriteKind) -> Result<(), AppendError> {
    let write: Write = Box::new(|backend| backend?.transact(&mut |_| Ok(())));
    queue.push_write(write, kind)
}

#[tokio::test]
async fn a_full_store_takes_what_makes_room_and_recovers_by_it() {
    let bench =
        Bench::start(Scripted { appends: [Err(full())].into(), is_full: true, ..Scripted::default() });
    assert!(matches!(bench.append().await, Err(WriteError::Full(_))));
    let refusal = push_write(&bench.queue, WriteKind::Ordinary);
    assert!(matches!(refusal, Err(AppendError::Store(WriteError::Full(_)))));
    assert!(bench.queue.prove().is_err());
    push_write(&bench.queue, WriteKind::MakesRoom).unwrap();
    while bench.queue.prove().is_err() {
        tokio::task::yield_now().await;
    }
    bench.append().await.unwrap();
    bench.writer.close().await;
}

#[test]
fn what_comes_to_make_room_waits_until_it_may() {
    let queue = Queue::new(1);
    push_write(&queue, WriteKind::MakesRoom).unwrap();
    queue.fail(&full()).refuse(&full());
    assert!(queue.take_writes().is_empty(), "it came before the store was known to be full");
    push_write(&queue, WriteKind::MakesRoom).unwrap();
    queue.fail(&full()).refuse(&full());
    assert_eq!(queue.take_writes().len(), 1);
    push_write(&queue, WriteKind::MakesRoom).unwrap();
    queue.fail(&unavailable("a sync has failed")).refuse(&full());
    assert!(queue.take_writes().is_empty());
}

#[tokio::test]
async fn a_store_that_has_failed_otherwise_takes_nothing_before_it_has_recovered() {
    // A disk whose sync has failed, and which then turns out to be full as well.
    let appends = [Err(unavailable("a sync has failed"))].into();
    let scripted = Scripted { appends, is_full: true, ..Scripted::default() };
    let attempted = Arc::clone(&scripted.attempted);
    let bench = Bench::start(scripted);
    assert!(bench.append().await.is_err());
    while !matches!(bench.queue.prove(), Err(AppendError::Store(WriteError::Full(_)))) {
        tokio::task::yield_now().await;
    }
    push_write(&bench.queue, WriteKind::MakesRoom).unwrap();
    let attempts = *attempted.lock().unwrap();
    while *attempted.lock().unwrap() < attempts + 2 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(bench.queue.prove(), Err(AppendError::Store(WriteError::Full(_)))));
    bench.writer.close().await;
}

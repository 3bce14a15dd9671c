//! What all streams of a process share: new events are read once, and rendered once for each filter.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::pieces::{Lane, PIECE_BYTES, next_piece};
use crate::consume::problem::Problem;
use crate::core::glob::Glob;
use crate::core::query::Query;
use crate::store::Store;
use crate::store::backend::{Reader, StoreError};

/// Streams that are open at once.
pub const MAXIMUM_STREAMS: usize = 1024;

/// The shortest time between two looks at the store: under load, streams get events by the batch.
const PACE: Duration = Duration::from_millis(100);

/// The longest: other processes may write to the store as well, and ring no bell here.
const POLL: Duration = Duration::from_millis(100);

/// After each look, so many times as long as it took is left to others.
const REST: u32 = 3;

/// How long a store that has failed is left alone.
pub const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// What all streams get together in a second: what more would cost is taken from those who write. Where events come
/// faster, streams stay behind, and catch up later; the store holds what they have not got.
const BYTES_PER_SECOND: usize = 160 << 20;

/// The most events that one look reads, times the streams that get them; a page ends at 4 MiB besides.
const LOOK_LIMIT: usize = 100_000;

/// The same for a single stream.
const LOOK_LIMIT_OF_ONE: usize = 16384;

/// What matching the types of one look may take, for all lanes together and in equal shares: bytes of types, times the words
/// of a pattern. It is some 30 ms; an ordinary pattern has one word.
///
/// A lane whose pattern takes more than its share is left behind. Its streams read the store in turns, and delay no others.
const LOOK_WORK: usize = 1 << 23;

/// How much is held for streams that are not quite up to date. Those that are further behind read from the store.
const RING_BYTES: usize = 8 << 20;

/// Streams that read from the store at once; there are other readers.
const CATCHING_UP: usize = 2;

/// The unit in which room for pieces is counted: a semaphore counts to 2^32.
const ROOM_UNIT_BYTES: usize = 1 << 10;

/// How far streams can have come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Horizon {
    /// The id up to which all events are known.
    pub head: i64,
    /// How often the store has been found to be another one.
    pub epoch: u64,
    /// Whether streams are to end.
    ending: bool,
}

/// Reads new events for all streams.
pub struct Hub {
    /// Rung when something was stored, or a stream was opened.
    bell: Notify,
    /// Each stream holds a receiver.
    horizon: watch::Sender<Horizon>,
    lanes: Mutex<HashMap<Option<Glob>, Arc<Lane>>>,
    ring: Mutex<Ring>,
    seats: Arc<Semaphore>,
    /// Room in memory for pieces that are being written.
    room: Arc<Semaphore>,
    room_units: u32,
    /// Held by a stream that reads from the store.
    pub catching_up: Arc<Semaphore>,
    open: Gauge,
    /// How often an idle stream says that it lives.
    pub heartbeat: Duration,
}

/// The pieces of all lanes, from the oldest on.
#[derive(Default)]
struct Ring {
    /// Whether the horizon is kept up to date.
    following: bool,
    order: VecDeque<Arc<Lane>>,
    bytes: usize,
}

/// What a look at the store has come to.
#[derive(Debug, Clone, Copy, Default)]
struct Looked {
    /// Whether there are more events than it has read.
    more: bool,
    /// What all streams together get of it.
    sent_bytes: usize,
}

impl Hub {
    /// A hub without streams; `room_bytes` bounds what is being written to them, and `open` counts them.
    pub fn new(room_bytes: usize, open: Gauge, heartbeat: Duration) -> Hub {
        // A piece must fit, whatever the settings say.
        let units = (room_bytes.max(4 * PIECE_BYTES) / ROOM_UNIT_BYTES).min(u32::MAX as usize >> 3);
        Hub {
            bell: Notify::new(),
            horizon: watch::Sender::default(),
            lanes: Mutex::default(),
            ring: Mutex::default(),
            seats: Arc::new(Semaphore::new(MAXIMUM_STREAMS)),
            room: Arc::new(Semaphore::new(units)),
            room_units: u32::try_from(units).unwrap_or(u32::MAX),
            catching_up: Arc::new(Semaphore::new(CATCHING_UP)),
            open,
            heartbeat,
        }
    }

    /// Says that something was stored.
    pub fn ring(&self) {
        if self.horizon.receiver_count() > 0 {
            self.bell.notify_one();
        }
    }

    /// Ends all streams, and lets no other begin.
    pub fn end(&self) {
        self.horizon.send_modify(|horizon| horizon.ending = true);
    }

    /// A place for a stream.
    ///
    /// # Errors
    /// 503 where there are too many, or where streams are to end.
    pub fn take_seat(hub: &Arc<Hub>, filter: Option<Glob>) -> Result<Seat, Problem> {
        let refuse = |detail| Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
        let Ok(permit) = Arc::clone(&hub.seats).try_acquire_owned() else {
            return refuse("too many streams of events are open");
        };
        let horizon = hub.horizon.subscribe();
        if horizon.borrow().ending {
            return refuse("the service is stopping");
        }
        let filter = filter.filter(|glob| !glob.matches_all());
        let lane = hub.enter_lane(filter);
        hub.open.inc();
        hub.bell.notify_one();
        let epoch = horizon.borrow().epoch;
        Ok(Seat { hub: Arc::clone(hub), lane, horizon, epoch, _permit: permit })
    }

    fn enter_lane(&self, filter: Option<Glob>) -> Arc<Lane> {
        let mut lanes = self.lock_lanes();
        let lane = lanes.entry(filter.clone()).or_insert_with(|| Arc::new(Lane::new(filter)));
        lane.streams.fetch_add(1, Ordering::Relaxed);
        Arc::clone(lane)
    }

    fn leave_lane(&self, filter: &Option<Glob>) {
        let mut lanes = self.lock_lanes();
        let last = lanes.get(filter).is_some_and(|lane| lane.streams.fetch_sub(1, Ordering::Relaxed) == 1);
        if last {
            lanes.remove(filter);
        }
    }

    /// Room in memory for so much, until it is written. What is larger than all the room gets it all.
    pub async fn room_for(&self, bytes: usize) -> OwnedSemaphorePermit {
        let units = u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES)).unwrap_or(u32::MAX).min(self.room_units);
        let room = Arc::clone(&self.room).acquire_many_owned(units).await;
        room.expect("the semaphore is never closed")
    }

    /// Reads what is stored for as long as there are streams; never ends.
    pub async fn run(self: Arc<Hub>, store: Store) {
        loop {
            while self.horizon.receiver_count() == 0 {
                self.stop_following();
                self.bell.notified().await;
            }
            self.follow(&store).await;
        }
    }

    async fn follow(self: &Arc<Hub>, store: &Store) {
        let mut failed = false;
        while self.horizon.receiver_count() > 0 {
            let begun = Instant::now();
            let hub = Arc::clone(self);
            let looked = store.read(move |reader| hub.look(reader)).await;
            let rest = begun.elapsed() * REST;
            let has_failed = looked.is_err();
            match looked {
                Ok(Looked { more, sent_bytes }) => {
                    let rest = rest.max(Duration::from_secs_f64(sent_bytes as f64 / BYTES_PER_SECOND as f64));
                    if more {
                        sleep(rest).await;
                    } else {
                        sleep(rest.max(PACE.saturating_sub(begun.elapsed()))).await;
                        let _ = timeout(POLL, self.bell.notified()).await;
                    }
                }
                Err(error) => {
                    if !failed {
                        warn!("streams wait for the store: {error}");
                    }
                    sleep(FAILURE_PAUSE).await;
                }
            }
            failed = has_failed;
        }
    }

    /// Reads the events that are new, and tells the streams.
    fn look(&self, reader: &mut dyn Reader) -> Result<Looked, StoreError> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // A lane that is made from now on begins with the next look.
        let lanes = self.lanes();
        let newest = reader.page(&Query { limit: 1, ..Query::default() })?;
        let newest = newest.events.last().map(|event| event.id);
        let head = self.horizon.borrow().head;
        if !ring.following {
            ring.following = true;
            let head = newest.unwrap_or(0);
            lanes.iter().for_each(|lane| lane.begin(head));
            self.horizon.send_modify(|horizon| horizon.head = head);
            return Ok(Looked::default());
        }
        // A store that has nothing has deleted it; one that has come less far is another.
        if let Some(newest) = newest.filter(|newest| *newest < head) {
            ring.clear(&lanes);
            lanes.iter().for_each(|lane| lane.begin(newest));
            self.horizon.send_modify(|horizon| {
                horizon.head = newest;
                horizon.epoch += 1;
            });
            return Ok(Looked::default());
        }
        lanes.iter().for_each(|lane| lane.begin(head));
        if newest.is_none_or(|newest| newest == head) {
            return Ok(Looked::default());
        }
        let streams = (MAXIMUM_STREAMS - self.seats.available_permits()).max(1);
        let limit = (LOOK_LIMIT / streams).clamp(1, LOOK_LIMIT_OF_ONE);
        let page = reader.page(&Query { after: Some(head), limit, ..Query::default() })?;
        let Some(last) = page.events.last() else { return Ok(Looked::default()) };
        let mut sent_bytes = 0;
        let type_bytes: usize = page.events.iter().map(|event| event.event_type.len()).sum();
        for lane in &lanes {
            let words = lane.filter.as_ref().map_or(0, Glob::words);
            if type_bytes.saturating_mul(words) > LOOK_WORK / lanes.len() {
                ring.bytes -= lane.leave_behind(last.id);
                continue;
            }
            let mut rest = &page.events[..];
            while let Some((piece, further)) = next_piece(rest, lane.filter.as_ref()) {
                ring.bytes += piece.bytes.len();
                sent_bytes += piece.bytes.len() * lane.streams.load(Ordering::Relaxed);
                lane.push(piece);
                ring.order.push_back(Arc::clone(lane));
                ring.evict();
                rest = further;
            }
        }
        self.horizon.send_modify(|horizon| horizon.head = last.id);
        Ok(Looked { more: page.more, sent_bytes })
    }

    fn stop_following(&self) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let lanes = self.lanes();
        ring.clear(&lanes);
        ring.following = false;
        // Who comes next is to wait for the first look, and not to rely on what was known before.
        self.horizon.send_modify(|horizon| horizon.head = 0);
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lock_lanes().values().cloned().collect()
    }

    fn lock_lanes(&self) -> MutexGuard<'_, HashMap<Option<Glob>, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn evict(&mut self) {
        while self.bytes > RING_BYTES
            && let Some(lane) = self.order.pop_front()
        {
            self.bytes -= lane.evict();
        }
    }

    fn clear(&mut self, lanes: &[Arc<Lane>]) {
        self.order.clear();
        self.bytes = 0;
        lanes.iter().for_each(|lane| lane.clear());
    }
}

/// The place of a stream; given up when dropped.
pub struct Seat {
    pub hub: Arc<Hub>,
    pub lane: Arc<Lane>,
    pub horizon: watch::Receiver<Horizon>,
    /// The one in which the seat was taken: positions that are read from the store behind it are of this epoch or a later
    /// one, so that a store that is replaced meanwhile is noticed.
    pub epoch: u64,
    _permit: OwnedSemaphorePermit,
}

impl Seat {
    /// Waits until streams are to end.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut horizon = self.horizon.clone();
        async move {
            // The hub outlives its streams.
            let _ = horizon.wait_for(|horizon| horizon.ending).await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.open.dec();
        self.hub.leave_lane(&self.lane.filter);
    }
}

/// A piece, with the room that it takes until it is written.
pub struct Written {
    pub piece: Bytes,
    pub _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::stream::pieces::Next;
    use crate::core::event::StoredEvent;
    use crate::core::timestamp::Timestamp;
    use crate::store::backend::{AlertOutcome, Delivery, Page, Statistics, StoreSize};

    /// A store with these event types, whose ids begin at 1.
    struct Types(Vec<String>);

    impl Types {
        fn of(event_type: &str, count: usize) -> Types {
            Types(vec![event_type.to_owned(); count])
        }

        fn event(&self, id: usize) -> StoredEvent {
            StoredEvent {
                id: i64::try_from(id).unwrap(),
                received_at: Timestamp::from_microseconds(0),
                event_type: self.0[id - 1].clone(),
                event_payload: String::new(),
            }
        }
    }

    impl Reader for Types {
        fn page(&mut self, query: &Query) -> Result<Page, StoreError> {
            let count = self.0.len();
            let first = match query.after {
                Some(after) => usize::try_from(after).unwrap() + 1,
                None => count.saturating_sub(query.limit) + 1,
            };
            let events = (first..=count).take(query.limit).map(|id| self.event(id)).collect();
            Ok(Page { events, more: first + query.limit <= count })
        }

        fn get(&mut self, _id: i64) -> Result<Option<StoredEvent>, StoreError> {
            unreachable!("streams read pages")
        }

        fn statistics(&mut self, _query: &Query) -> Result<Statistics, StoreError> {
            unreachable!("streams read pages")
        }

        fn deliveries(&mut self, _limit: usize) -> Result<Vec<Delivery>, StoreError> {
            unreachable!("streams read pages")
        }

        fn open_deliveries(&mut self) -> Result<Vec<(String, i64)>, StoreError> {
            unreachable!("streams read pages")
        }

        fn size(&mut self) -> Result<StoreSize, StoreError> {
            unreachable!("streams read pages")
        }

        fn alert_outcome(&mut self, _event_id: i64) -> Result<AlertOutcome, StoreError> {
            unreachable!("streams read pages")
        }
    }

    fn hub() -> Arc<Hub> {
        Arc::new(Hub::new(1 << 20, Gauge::default(), Duration::from_secs(15)))
    }

    fn seat(hub: &Arc<Hub>, filter: Option<&str>) -> Seat {
        let filter = filter.map(|filter| filter.parse().unwrap());
        Hub::take_seat(hub, filter).unwrap_or_else(|_| panic!("there is a seat"))
    }

    /// The ids of the first and the last event that a lane holds behind an id.
    fn held(seat: &Seat, position: i64) -> Option<(i64, i64)> {
        match seat.lane.next(position) {
            Next::Piece(piece) => Some((piece.first, piece.last)),
            Next::Nothing | Next::NotHeld => None,
        }
    }

    #[test]
    fn new_events_are_held_for_the_streams_that_select_them() {
        let hub = hub();
        let (all, some, none) = (seat(&hub, None), seat(&hub, Some("a*")), seat(&hub, Some("b")));
        hub.look(&mut Types::of("a", 2)).unwrap();
        hub.look(&mut Types::of("a", 5)).unwrap();
        assert_eq!((held(&all, 2), held(&some, 2), held(&none, 2)), (Some((3, 5)), Some((3, 5)), None));
        assert!(matches!(none.lane.next(2), Next::Nothing));
        assert_eq!(hub.horizon.borrow().head, 5);
    }

    #[test]
    fn a_lane_goes_with_the_last_of_its_streams() {
        let hub = hub();
        let (one, other) = (seat(&hub, Some("a*")), seat(&hub, Some("a*")));
        drop(one);
        assert_eq!(hub.lock_lanes().len(), 1);
        drop(other);
        assert!(hub.lock_lanes().is_empty());
    }

    #[test]
    fn no_stream_begins_once_all_are_to_end() {
        let hub = hub();
        let _seat = seat(&hub, None);
        hub.end();
        assert!(Hub::take_seat(&hub, None).is_err());
        assert_eq!(hub.open.get(), 1);
    }

    #[test]
    fn nothing_of_a_store_that_was_replaced_is_held() {
        let hub = hub();
        let seat = seat(&hub, None);
        hub.look(&mut Types::of("old", 2)).unwrap();
        hub.look(&mut Types::of("old", 5)).unwrap();
        assert_eq!(held(&seat, 2), Some((3, 5)));
        hub.look(&mut Types::of("new", 1)).unwrap();
        let horizon = *hub.horizon.borrow();
        assert_eq!((horizon.head, horizon.epoch), (1, 1));
        assert_eq!(seat.epoch, 0, "what was read before it is of the store from before");
        assert!(matches!(seat.lane.next(0), Next::NotHeld) && matches!(seat.lane.next(2), Next::Nothing));
        assert_eq!(hub.ring.lock().unwrap().bytes, 0);
        hub.look(&mut Types::of("new", 3)).unwrap();
        assert_eq!((held(&seat, 1), hub.horizon.borrow().head), (Some((2, 3)), 3));
    }

    #[test]
    fn a_lane_whose_pattern_takes_too_long_is_left_behind_and_delays_no_other() {
        let hub = hub();
        let costly = "*[!b-y]".repeat(100) + &"?".repeat(155);
        let (plain, costly) = (seat(&hub, Some("a*")), seat(&hub, Some(&costly)));
        let long_type = "a".repeat(255);
        hub.look(&mut Types::of(&long_type, 1)).unwrap();
        hub.look(&mut Types::of(&long_type, 2)).unwrap();
        assert_eq!(held(&costly, 1), Some((2, 2)), "a few events are no work");
        let mut many = Types::of(&long_type, 2 * LOOK_LIMIT_OF_ONE);
        while hub.look(&mut many).unwrap().more {}
        let head = hub.horizon.borrow().head;
        assert_eq!(usize::try_from(head).unwrap(), many.0.len());
        let held_of_costly = (1..head).find_map(|position| held(&costly, position));
        assert_eq!(held_of_costly, None, "its streams read the store");
        assert!(matches!(costly.lane.next(head), Next::Nothing));
        let newest = (1..head).rev().find_map(|position| held(&plain, position));
        assert_eq!(newest.map(|(_, last)| last), Some(head), "others are served from memory");
        let held_bytes = |seat: &Seat| seat.lane.leave_behind(head);
        let ring_bytes = hub.ring.lock().unwrap().bytes;
        assert_eq!(ring_bytes, held_bytes(&plain) + held_bytes(&costly));
    }
}

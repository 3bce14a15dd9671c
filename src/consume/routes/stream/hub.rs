//! What all streams of a process share: new events are read from the store once, and rendered once per filter.

use std::cmp;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::pieces::{Lane, PIECE_BYTES, next_piece};
use super::ring::{Mark, Ring};
use crate::core::event::StoredEvent;
use crate::core::query::Query;
use crate::core::type_filter::TypeFilter;
use crate::store::backend::EventReader;
use crate::store::{ReadError, Store};

/// At most this many streams are open at once.
const MAXIMUM_STREAMS: usize = 1024;

/// The shortest time between two polls of the store: under load, streams get events in batches.
const MINIMUM_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long an idle hub waits for a notification: other processes that write to the store notify nobody here.
const NOTIFY_TIMEOUT: Duration = Duration::from_millis(100);

/// After each poll the hub pauses for this many times as long as the poll took, so that writers are not starved.
const PAUSE_FACTOR: u32 = 3;

/// The pause after a failed read of the store.
pub const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// What all streams together send per second at most: more would be taken from writers. If events come faster, streams
/// fall behind, and catch up from the store later.
const BYTES_PER_SECOND: usize = 160 << 20;

/// The maximum number of events of one poll, times the streams that get them. A page also ends at 4 MiB.
const POLL_LIMIT: usize = 100_000;

/// The maximum for a single stream.
const POLL_LIMIT_OF_ONE: usize = 16384;

/// The work of matching the types of one poll, for all lanes in equal shares: bytes of types, times the words of a pattern.
/// It takes about 30 ms; an ordinary pattern has one word.
///
/// A lane whose pattern takes more than its share is left behind: its streams read the store in turns, and delay no others.
const POLL_WORK: usize = 1 << 23;

/// At most this many streams read from the store at once, which leaves readers for other requests.
const CATCHING_UP: usize = 2;

/// The unit of reserved memory, because a semaphore counts to 2^32 only.
const ROOM_UNIT_BYTES: usize = 1 << 10;

/// How far the store is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Horizon {
    /// All events up to this id are known.
    pub head: i64,
    /// How often the store was found to have been replaced.
    pub epoch: u64,
    /// The last event that the store before the last replacement had as well, as far as is known; else 0.
    pub shared: i64,
    /// Whether all streams are to end.
    ending: bool,
}

/// Reads new events for all streams.
pub struct Hub {
    /// Notified when an event was stored or a stream was opened.
    wake: Notify,
    /// Each stream has a receiver.
    horizon: watch::Sender<Horizon>,
    lanes: Mutex<HashMap<TypeFilter, Arc<Lane>>>,
    ring: Mutex<Ring>,
    /// The newest event that a stream has found before the first poll.
    first: Mutex<Option<Mark>>,
    seats: Arc<Semaphore>,
    /// Memory for pieces that are being written.
    room: Arc<Semaphore>,
    room_units: u32,
    /// Held by a stream while it reads from the store.
    pub catching_up: Arc<Semaphore>,
    open: Gauge,
    /// The interval of heartbeats on an idle stream.
    pub heartbeat: Duration,
}

/// The result of a poll of the store.
#[derive(Debug, Clone, Copy, Default)]
struct Polled {
    /// Whether there are more events to read.
    more: bool,
    /// What all streams together get of it.
    sent_bytes: usize,
}

/// Waits for events as streams do.
pub struct News(watch::Receiver<Horizon>);

impl News {
    /// Waits until there may be new events, or the time is over. Returns whether all that wait are to end.
    pub async fn within(&mut self, time: Duration) -> bool {
        // No error: the hub outlives its requests.
        let _ = timeout(time, self.0.changed()).await;
        self.0.borrow_and_update().ending
    }
}

/// Why a stream cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSeat {
    TooManyStreams,
    /// All streams are to end.
    Ending,
}

impl Hub {
    /// `room_bytes` bounds the memory of what is being written to streams; `open` counts them.
    pub fn new(room_bytes: usize, open: Gauge, heartbeat: Duration) -> Hub {
        // At least some pieces must fit.
        let units = (room_bytes.max(4 * PIECE_BYTES) / ROOM_UNIT_BYTES).min(u32::MAX as usize >> 3);
        Hub {
            wake: Notify::new(),
            horizon: watch::Sender::default(),
            lanes: Mutex::default(),
            ring: Mutex::default(),
            first: Mutex::default(),
            seats: Arc::new(Semaphore::new(MAXIMUM_STREAMS)),
            room: Arc::new(Semaphore::new(units)),
            room_units: u32::try_from(units).unwrap_or(u32::MAX),
            catching_up: Arc::new(Semaphore::new(CATCHING_UP)),
            open,
            heartbeat,
        }
    }

    /// Events were stored.
    pub fn notify(&self) {
        if self.horizon.receiver_count() > 0 {
            self.wake.notify_one();
        }
    }

    /// What waits for events.
    pub fn news(&self) -> News {
        let horizon = self.horizon.subscribe();
        self.wake.notify_one();
        News(horizon)
    }

    /// Ends all streams, and refuses new ones.
    pub fn end(&self) {
        self.horizon.send_modify(|horizon| horizon.ending = true);
    }

    pub fn take_seat(hub: &Arc<Hub>, filter: TypeFilter) -> Result<Seat, NoSeat> {
        let permit = Arc::clone(&hub.seats).try_acquire_owned().map_err(|_| NoSeat::TooManyStreams)?;
        let horizon = hub.horizon.subscribe();
        if horizon.borrow().ending {
            return Err(NoSeat::Ending);
        }
        let lane = hub.enter_lane(filter);
        hub.open.inc();
        hub.wake.notify_one();
        let epoch = horizon.borrow().epoch;
        Ok(Seat { hub: Arc::clone(hub), lane, horizon, epoch, _permit: permit })
    }

    fn enter_lane(&self, filter: TypeFilter) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(filter.clone()).or_insert_with(|| Arc::new(Lane::new(filter)));
        lane.streams.fetch_add(1, Ordering::Relaxed);
        Arc::clone(lane)
    }

    fn leave_lane(&self, filter: &TypeFilter) {
        let mut lanes = self.lanes.lock();
        let last = lanes.get(filter).is_some_and(|lane| lane.streams.fetch_sub(1, Ordering::Relaxed) == 1);
        if last {
            lanes.remove(filter);
        }
    }

    /// Reserves memory until a piece is written. A piece larger than all of the memory gets all of it.
    pub async fn room_for(&self, bytes: usize) -> OwnedSemaphorePermit {
        let units = u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES)).unwrap_or(u32::MAX).min(self.room_units);
        let room = Arc::clone(&self.room).acquire_many_owned(units).await;
        room.expect("the semaphore is never closed")
    }

    /// Polls the store while there are streams.
    pub async fn run(self: Arc<Hub>, store: Store) -> Infallible {
        loop {
            while self.horizon.receiver_count() == 0 {
                self.stop_following();
                self.wake.notified().await;
            }
            self.follow(&store).await;
        }
    }

    async fn follow(self: &Arc<Hub>, store: &Store) {
        let mut failed = false;
        while self.horizon.receiver_count() > 0 {
            let begun = Instant::now();
            let hub = Arc::clone(self);
            let polled = store.read_from_replica(move |reader| hub.poll(reader)).await;
            let pause = begun.elapsed() * PAUSE_FACTOR;
            let has_failed = polled.is_err();
            match polled {
                Ok(Polled { more, sent_bytes }) => {
                    let send_time = Duration::from_secs_f64(sent_bytes as f64 / BYTES_PER_SECOND as f64);
                    let pause = pause.max(send_time);
                    if more {
                        sleep(pause).await;
                    } else {
                        sleep(pause.max(MINIMUM_POLL_INTERVAL.saturating_sub(begun.elapsed()))).await;
                        let _ = timeout(NOTIFY_TIMEOUT, self.wake.notified()).await;
                    }
                }
                Err(error) => {
                    if !failed {
                        warn!("event streams are paused, because the store cannot be read: {error:#}");
                    }
                    sleep(FAILURE_PAUSE).await;
                }
            }
            failed = has_failed;
        }
    }

    /// Reads new events and hands them to the lanes.
    fn poll(&self, reader: &mut dyn EventReader) -> Result<Polled, ReadError> {
        let mut ring = self.ring.lock();
        // A lane that is created from now on begins with the next poll.
        let lanes = self.lanes();
        let newest = reader.page(&Query { limit: 1, ..Query::default() })?.events.pop();
        let first = self.first.lock().take();
        if !ring.following {
            let head = ring.begin(&lanes, first.or(newest.as_ref().map(Mark::of)));
            self.horizon.send_modify(|horizon| horizon.head = head);
        }
        let head = self.horizon.borrow().head;
        // Retention may have deleted everything.
        let Some(newest) = newest else { return Ok(Polled::default()) };
        if newest.id < head && (reader.is_replica()? || reader.has_given(head)?) {
            // A replica is behind the one that was read before, or the newest events were deleted.
            return Ok(Polled::default());
        }
        let goes_on = match newest.id.cmp(&head) {
            cmp::Ordering::Less => false,
            cmp::Ordering::Equal => ring.is_marked(&newest),
            cmp::Ordering::Greater => reader.get(head)?.is_none_or(|event| ring.is_marked(&event)),
        };
        if !goes_on {
            let shared = ring.begin_anew(&lanes, &newest, reader)?;
            warn!("the store was replaced: event streams continue after event {shared}");
            self.horizon.send_modify(|horizon| {
                *horizon =
                    Horizon { head: newest.id, epoch: horizon.epoch + 1, shared, ending: horizon.ending };
            });
            return Ok(Polled::default());
        }
        lanes.iter().for_each(|lane| lane.begin(head));
        if newest.id == head {
            return Ok(Polled::default());
        }
        let streams = (MAXIMUM_STREAMS - self.seats.available_permits()).max(1);
        let limit = (POLL_LIMIT / streams).clamp(1, POLL_LIMIT_OF_ONE);
        let page = reader.page(&Query { after: Some(head), limit, ..Query::default() })?;
        let Some(last) = page.events.last() else { return Ok(Polled::default()) };
        let mut sent_bytes = 0;
        let type_bytes: usize = page.events.iter().map(|event| event.event_type.len()).sum();
        for lane in &lanes {
            let words = lane.filter.words();
            if type_bytes.saturating_mul(words) > POLL_WORK / lanes.len() {
                ring.bytes -= lane.leave_behind(last.id);
                continue;
            }
            let mut rest = &page.events[..];
            while let Some((piece, remaining)) = next_piece(rest, &lane.filter) {
                sent_bytes += piece.bytes.len() * lane.streams.load(Ordering::Relaxed);
                ring.push(lane, piece);
                rest = remaining;
            }
        }
        ring.mark(last);
        self.horizon.send_modify(|horizon| horizon.head = last.id);
        Ok(Polled { more: page.more, sent_bytes })
    }

    /// Has the first poll begin after the newest event that a stream has found, so that it notices if the store is replaced before.
    pub fn begin_after(&self, newest: &StoredEvent) {
        *self.first.lock() = Some(Mark::of(newest));
    }

    fn stop_following(&self) {
        let mut ring = self.ring.lock();
        let lanes = self.lanes();
        ring.end(&lanes);
        // The next stream must wait for a poll instead of relying on an outdated position.
        self.horizon.send_modify(|horizon| horizon.head = 0);
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.lock().values().cloned().collect()
    }
}

/// The right to have a stream open; given back when dropped.
pub struct Seat {
    pub hub: Arc<Hub>,
    pub lane: Arc<Lane>,
    pub horizon: watch::Receiver<Horizon>,
    /// The epoch in which the seat was taken. A position that is read from the store afterwards is of this epoch or a later
    /// one, so that the stream notices if the store is replaced in between.
    pub epoch: u64,
    _permit: OwnedSemaphorePermit,
}

impl Seat {
    /// Waits until all streams are to end.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::routes::stream::pieces::Next;
    use crate::core::glob::Glob;
    use crate::core::timestamp::Timestamp;
    use crate::store::backend::Page;
    use crate::store::statistics::Statistics;

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

    impl EventReader for Types {
        fn page(&mut self, query: &Query) -> Result<Page, ReadError> {
            let count = self.0.len();
            let first = match query.after {
                Some(after) => usize::try_from(after).unwrap() + 1,
                None => count.saturating_sub(query.limit) + 1,
            };
            let events = (first..=count).take(query.limit).map(|id| self.event(id)).collect();
            Ok(Page { events, more: first + query.limit <= count })
        }

        fn get(&mut self, id: i64) -> Result<Option<StoredEvent>, ReadError> {
            let id = usize::try_from(id).unwrap();
            Ok((1..=self.0.len()).contains(&id).then(|| self.event(id)))
        }

        fn has_given(&mut self, id: i64) -> Result<bool, ReadError> {
            Ok(usize::try_from(id).unwrap() <= self.0.len())
        }

        fn statistics(&mut self, _query: &Query) -> Result<Statistics, ReadError> {
            unreachable!("streams read pages")
        }
    }

    fn hub() -> Arc<Hub> {
        Arc::new(Hub::new(1 << 20, Gauge::default(), Duration::from_secs(15)))
    }

    fn seat(hub: &Arc<Hub>, filter: Option<&str>) -> Seat {
        let pattern: Option<Glob> = filter.map(|filter| filter.parse().unwrap());
        Hub::take_seat(hub, pattern.into()).unwrap_or_else(|_| panic!("there is a seat"))
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
        hub.poll(&mut Types::of("a", 2)).unwrap();
        hub.poll(&mut Types::of("a", 5)).unwrap();
        assert_eq!((held(&all, 2), held(&some, 2), held(&none, 2)), (Some((3, 5)), Some((3, 5)), None));
        assert!(matches!(none.lane.next(2), Next::Nothing));
        assert_eq!(hub.horizon.borrow().head, 5);
    }

    #[test]
    fn a_lane_goes_with_the_last_of_its_streams() {
        let hub = hub();
        let (one, other) = (seat(&hub, Some("a*")), seat(&hub, Some("a*")));
        drop(one);
        assert_eq!(hub.lanes.lock().len(), 1);
        drop(other);
        assert!(hub.lanes.lock().is_empty());
    }

    #[test]
    fn no_stream_begins_once_all_are_to_end() {
        let hub = hub();
        let _seat = seat(&hub, None);
        hub.end();
        assert!(Hub::take_seat(&hub, TypeFilter::default()).is_err());
        assert_eq!(hub.open.get(), 1);
    }

    #[test]
    fn nothing_of_a_store_that_was_replaced_is_held() {
        let hub = hub();
        let seat = seat(&hub, None);
        hub.poll(&mut Types::of("old", 2)).unwrap();
        hub.poll(&mut Types::of("old", 5)).unwrap();
        assert_eq!(held(&seat, 2), Some((3, 5)));
        hub.poll(&mut Types::of("new", 1)).unwrap();
        let horizon = *hub.horizon.borrow();
        assert_eq!((horizon.head, horizon.epoch), (1, 1));
        assert_eq!(seat.epoch, 0, "what was read before it is of the store from before");
        assert!(matches!(seat.lane.next(0), Next::NotHeld) && matches!(seat.lane.next(2), Next::Nothing));
        assert_eq!(hub.ring.lock().bytes, 0);
        hub.poll(&mut Types::of("new", 3)).unwrap();
        assert_eq!((held(&seat, 1), hub.horizon.borrow().head), (Some((2, 3)), 3));
    }

    #[test]
    fn a_lane_whose_pattern_takes_too_long_is_left_behind_and_delays_no_other() {
        let hub = hub();
        let costly = "*[!b-y]".repeat(100) + &"?".repeat(155);
        let (plain, costly) = (seat(&hub, Some("a*")), seat(&hub, Some(&costly)));
        let long_type = "a".repeat(255);
        hub.poll(&mut Types::of(&long_type, 1)).unwrap();
        hub.poll(&mut Types::of(&long_type, 2)).unwrap();
        assert_eq!(held(&costly, 1), Some((2, 2)), "a few events are no work");
        let mut many = Types::of(&long_type, 2 * POLL_LIMIT_OF_ONE);
        while hub.poll(&mut many).unwrap().more {}
        let head = hub.horizon.borrow().head;
        assert_eq!(usize::try_from(head).unwrap(), many.0.len());
        let held_of_costly = (1..head).find_map(|position| held(&costly, position));
        assert_eq!(held_of_costly, None, "its streams read the store");
        assert!(matches!(costly.lane.next(head), Next::Nothing));
        let newest = (1..head).rev().find_map(|position| held(&plain, position));
        assert_eq!(newest.map(|(_, last)| last), Some(head), "others are served from memory");
        let held_bytes = |seat: &Seat| seat.lane.leave_behind(head);
        let ring_bytes = hub.ring.lock().bytes;
        assert_eq!(ring_bytes, held_bytes(&plain) + held_bytes(&costly));
    }
}

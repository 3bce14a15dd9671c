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
use crate::core::query::{Glob, Query};
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
        let filter = filter.filter(|glob| glob.as_str() != "*");
        let lane = hub.enter_lane(filter);
        hub.open.inc();
        hub.bell.notify_one();
        Ok(Seat { hub: Arc::clone(hub), lane, horizon, _permit: permit })
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
        // A store that has nothing has forgotten it; one that has come less far is another.
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
        for lane in &lanes {
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

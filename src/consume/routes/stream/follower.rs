//! One stream: reads from a position to the newest event, and then follows new events.

use std::pin::pin;
use std::sync::Arc;

use hyper::body::Bytes;
use tokio::time::{Instant, sleep, sleep_until};

use super::hub::{FAILURE_PAUSE, Horizon, Seat};
use super::pieces::{Next, PIECE_BYTES, Piece, next_piece};
use crate::consume::body::{ChunkSlot, held};
use crate::core::query::Query;
use crate::core::type_filter::TypeFilter;
use crate::store::backend::{EventReader, StoreReader};
use crate::store::{ReadError, Store};

/// How many ids a filtered stream scans in one read of the store.
const WINDOW: i64 = 20_000;

/// The maximum number of events of one read.
const READ_LIMIT: usize = 1000;

/// The maximum of the first read, before the size of the events is known: large events would take much memory.
const FIRST_LIMIT: usize = 32;

/// The producer of a stream.
pub struct Follower {
    seat: Seat,
    store: Store,
    slot: Arc<ChunkSlot>,
    /// The client has all selected events up to this id.
    position: i64,
    /// The id that was sent last, after which the client would resume.
    sent: i64,
    /// The epoch in which `position` is valid.
    epoch: u64,
    /// The number of events that fill a piece, by the size of the last ones.
    limit: usize,
    heartbeat_at: Instant,
}

/// The result of a read of the store.
struct History {
    piece: Option<Piece>,
    /// The store was scanned up to this id.
    through: i64,
}

impl Follower {
    pub fn new(seat: Seat, store: Store, position: i64, slot: Arc<ChunkSlot>) -> Follower {
        let epoch = seat.epoch;
        Follower {
            seat,
            store,
            slot,
            position,
            sent: position,
            epoch,
            limit: FIRST_LIMIT,
            heartbeat_at: Instant::now(),
        }
    }

    /// Sends events until all streams are to end, or until the client's token expires.
    pub async fn run(mut self, valid_until: Option<Instant>) {
        let ended = self.seat.ended();
        let expired = async {
            match valid_until {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = ended => {}
            () = expired => {}
            () = self.follow() => {}
        }
        if self.position != self.sent {
            self.slot.put(self.position_block());
        }
    }

    async fn follow(&mut self) {
        // An id without data is no event, but sets where the client resumes (WHATWG HTML, section 9.2.6).
        self.send(Bytes::from(format!("retry: 1000\nid: {}\n\n", self.position))).await;
        let mut horizon = self.seat.horizon.clone();
        loop {
            if Instant::now() >= self.heartbeat_at {
                self.send_heartbeat().await;
            }
            let Horizon { head, epoch, shared, .. } = *horizon.borrow_and_update();
            if epoch != self.epoch {
                self.epoch = epoch;
                self.go_back_to(shared).await;
            }
            match self.seat.lane.next(self.position) {
                Next::Piece(piece) => {
                    self.send_piece(piece).await;
                    continue;
                }
                Next::NotHeld if self.position < head => {
                    self.catch_up(head).await;
                    continue;
                }
                Next::NotHeld => {}
                Next::Nothing => self.position = self.position.max(head),
            }
            // The hub outlives its streams.
            let _ = self.with_heartbeats(horizon.changed()).await;
        }
    }

    /// The store was replaced by one that has the same events up to this id: tells the client, and continues there.
    async fn go_back_to(&mut self, shared: i64) {
        if self.position <= shared {
            return;
        }
        self.position = shared;
        self.sent = shared;
        self.send(Bytes::from(format!(": the store was replaced\nid: {shared}\n\n"))).await;
    }

    /// Reads the next events from the store, up to `head`.
    async fn catch_up(&mut self, head: i64) {
        let (after, limit) = (self.position, self.limit);
        let (store, hub, lane) =
            (self.store.clone(), Arc::clone(&self.seat.hub), Arc::clone(&self.seat.lane));
        let reading = async move {
            let _turn = hub.catching_up.acquire().await;
            let read =
                move |reader: &mut dyn StoreReader| read_history(reader, after, head, &lane.filter, limit);
            let found = store.read_from_replica(read).await?;
            // It waits for memory before its turn ends: what the next stream reads would have to wait as well.
            let length = found.piece.as_ref().map_or(0, |piece| piece.bytes.len());
            let room = hub.room_for(length).await;
            Ok::<_, ReadError>((found, room))
        };
        match self.with_heartbeats(reading).await {
            Ok((History { piece, through }, room)) => {
                if let Some(piece) = piece {
                    let wanted = limit.saturating_mul(PIECE_BYTES) / piece.bytes.len().max(1);
                    self.limit = wanted.clamp(1, READ_LIMIT);
                    self.sent = piece.last;
                    self.position = through;
                    self.send(held(piece.bytes, room)).await;
                }
                self.position = through;
            }
            // The hub logs it. The client keeps its position.
            Err(_) => self.with_heartbeats(sleep(FAILURE_PAUSE)).await,
        }
    }

    async fn send_piece(&mut self, piece: Piece) {
        let hub = Arc::clone(&self.seat.hub);
        let room = self.with_heartbeats(hub.room_for(piece.bytes.len())).await;
        self.position = piece.last;
        self.sent = piece.last;
        self.send(held(piece.bytes, room)).await;
    }

    async fn send(&mut self, chunk: Bytes) {
        self.slot.put(chunk);
        self.slot.taken().await;
        self.heartbeat_at = Instant::now() + self.seat.hub.heartbeat;
    }

    /// Sends heartbeats while some work is done.
    async fn with_heartbeats<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = work.as_mut() => return done,
                () = sleep_until(self.heartbeat_at) => self.send_heartbeat().await,
            }
        }
    }

    async fn send_heartbeat(&mut self) {
        let block =
            if self.position > self.sent { self.position_block() } else { Bytes::from_static(b":\n\n") };
        self.sent = self.sent.max(self.position);
        self.send(block).await;
    }

    /// Lets a client whose filter selects few events resume from the newest position.
    fn position_block(&self) -> Bytes {
        Bytes::from(format!(":\nid: {}\n\n", self.position))
    }
}

/// The first selected events after an id and up to `head`, at most one piece.
fn read_history(
    reader: &mut dyn EventReader,
    after: i64,
    head: i64,
    filter: &TypeFilter,
    limit: usize,
) -> Result<History, ReadError> {
    let until = if !filter.selects_all() { head.min(after.saturating_add(WINDOW)) } else { head };
    let query = Query {
        after: Some(after),
        before: Some(until.saturating_add(1)),
        types: filter.clone(),
        limit,
        ..Query::default()
    };
    let page = reader.page(&query)?;
    let Some((piece, rest)) = next_piece(&page.events, &TypeFilter::default()) else {
        // Ids can be far apart where retention has deleted events.
        let next =
            Query { after: Some(until), before: Some(head.saturating_add(1)), limit: 1, ..Query::default() };
        let next = reader.page(&next)?.events.pop();
        return Ok(History { piece: None, through: next.map_or(head, |event| event.id - 1) });
    };
    let through = if page.more || !rest.is_empty() { piece.last } else { until };
    Ok(History { piece: Some(piece), through })
}

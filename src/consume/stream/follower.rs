//! One stream: from a position on to the newest event, and further as events come.

use std::pin::pin;
use std::sync::Arc;

use hyper::body::Bytes;
use tokio::time::{Instant, sleep, sleep_until};

use super::Slot;
use super::hub::{FAILURE_PAUSE, Horizon, Seat, Written};
use super::pieces::{Next, PIECE_BYTES, Piece, next_piece};
use crate::core::glob::Glob;
use crate::core::query::Query;
use crate::store::Store;
use crate::store::backend::{Reader, StoreError};

/// How many ids a stream with a filter looks at in one read of the store.
const WINDOW: i64 = 20_000;

/// The most events that one read returns.
const READ_LIMIT: usize = 1000;

/// The first read returns no more: large events take much memory for a moment.
const FIRST_LIMIT: usize = 32;

/// A client and what it has.
pub struct Follower {
    seat: Seat,
    store: Store,
    slot: Arc<Slot>,
    /// The id up to which the client has all that its filter selects.
    position: i64,
    /// The id that the client would resume after.
    told: i64,
    /// The one of the position.
    epoch: u64,
    /// How many events the next read of the store returns: what makes a piece.
    limit: usize,
    heartbeat_at: Instant,
}

/// What a read of the store has found.
struct Found {
    piece: Option<Piece>,
    /// The id up to which the store was looked at.
    through: i64,
}

impl Follower {
    /// A client that has everything up to a position.
    pub fn new(seat: Seat, store: Store, position: i64, slot: Arc<Slot>) -> Follower {
        let epoch = seat.epoch;
        Follower {
            seat,
            store,
            slot,
            position,
            told: position,
            epoch,
            limit: FIRST_LIMIT,
            heartbeat_at: Instant::now(),
        }
    }

    /// Gives the client all that comes, until streams are to end or its time is over.
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
        if self.position != self.told {
            self.slot.put(self.position_block());
        }
    }

    async fn follow(&mut self) {
        // An id without data is no event, but where the client goes on (WHATWG HTML, section 9.2.6).
        self.send(Bytes::from(format!("retry: 1000\nid: {}\n\n", self.position))).await;
        let mut horizon = self.seat.horizon.clone();
        loop {
            if Instant::now() >= self.heartbeat_at {
                self.send_heartbeat().await;
            }
            let Horizon { head, epoch, .. } = *horizon.borrow_and_update();
            if epoch != self.epoch {
                self.epoch = epoch;
                // Another store has taken the place of the one that the client knows.
                self.position = if self.position > head { 0 } else { self.position };
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

    /// Reads on in the store, up to an id that the store has reached.
    async fn catch_up(&mut self, head: i64) {
        let (after, limit) = (self.position, self.limit);
        let (store, hub, lane) =
            (self.store.clone(), Arc::clone(&self.seat.hub), Arc::clone(&self.seat.lane));
        let reading = async move {
            let _turn = hub.catching_up.acquire().await;
            let read =
                move |reader: &mut dyn Reader| read_history(reader, after, head, lane.filter.as_ref(), limit);
            let found = store.read(read).await?;
            // While it waits for room, no other stream reads what would have to wait as well.
            let length = found.piece.as_ref().map_or(0, |piece| piece.bytes.len());
            let room = hub.room_for(length).await;
            Ok::<_, StoreError>((found, room))
        };
        match self.with_heartbeats(reading).await {
            Ok((Found { piece, through }, room)) => {
                if let Some(piece) = piece {
                    let wanted = limit.saturating_mul(PIECE_BYTES) / piece.bytes.len().max(1);
                    self.limit = wanted.clamp(1, READ_LIMIT);
                    self.told = piece.last;
                    self.position = through;
                    self.send(Bytes::from_owner(Written { piece: piece.bytes, _room: room })).await;
                }
                self.position = through;
            }
            // The hub says so. The client keeps its place.
            Err(_) => self.with_heartbeats(sleep(FAILURE_PAUSE)).await,
        }
    }

    async fn send_piece(&mut self, piece: Piece) {
        let hub = Arc::clone(&self.seat.hub);
        let room = self.with_heartbeats(hub.room_for(piece.bytes.len())).await;
        self.position = piece.last;
        self.told = piece.last;
        self.send(Bytes::from_owner(Written { piece: piece.bytes, _room: room })).await;
    }

    async fn send(&mut self, chunk: Bytes) {
        self.slot.put(chunk);
        self.slot.taken().await;
        self.heartbeat_at = Instant::now() + self.seat.hub.heartbeat;
    }

    /// Waits for something, and meanwhile says that the stream lives.
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
            if self.position > self.told { self.position_block() } else { Bytes::from_static(b":\n\n") };
        self.told = self.told.max(self.position);
        self.send(block).await;
    }

    /// Where the client is to go on, for one whose filter selects little.
    fn position_block(&self) -> Bytes {
        Bytes::from(format!(":\nid: {}\n\n", self.position))
    }
}

/// The first events after an id, and up to another, that a filter selects: no more than make a piece.
fn read_history(
    reader: &mut dyn Reader,
    after: i64,
    head: i64,
    filter: Option<&Glob>,
    limit: usize,
) -> Result<Found, StoreError> {
    let until = if filter.is_some() { head.min(after.saturating_add(WINDOW)) } else { head };
    let query = Query {
        after: Some(after),
        before: Some(until.saturating_add(1)),
        event_type: filter.cloned(),
        limit,
        ..Query::default()
    };
    let page = reader.page(&query)?;
    let Some((piece, rest)) = next_piece(&page.events, None) else {
        // Ids can be far apart where events were forgotten.
        let next =
            Query { after: Some(until), before: Some(head.saturating_add(1)), limit: 1, ..Query::default() };
        let next = reader.page(&next)?.events.pop();
        return Ok(Found { piece: None, through: next.map_or(head, |event| event.id - 1) });
    };
    let through = if page.more || !rest.is_empty() { piece.last } else { until };
    Ok(Found { piece: Some(piece), through })
}

//! Events in the format of server-sent events, in pieces that many streams share.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

use hyper::body::Bytes;
use parking_lot::Mutex;

use crate::core::event::StoredEvent;
use crate::core::type_filter::TypeFilter;

/// The size of a piece, unless a single event is larger: about what a socket takes at once.
pub const PIECE_BYTES: usize = 64 << 10;

/// Successive events, with the ids of the first and the last.
#[derive(Debug, Clone)]
pub struct Piece {
    pub first: i64,
    pub last: i64,
    pub bytes: Bytes,
}

/// The first selected events of a page that fit into one piece, and the rest of the page; none where the filter selects none.
pub fn next_piece<'a>(events: &'a [StoredEvent], filter: &TypeFilter) -> Option<(Piece, &'a [StoredEvent])> {
    let selects = |event: &StoredEvent| filter.selects(&event.event_type);
    let start = events.iter().position(selects)?;
    let mut piece = Vec::new();
    let (mut last, mut rest) = (start, &events[events.len()..]);
    for (position, event) in events.iter().enumerate().skip(start).filter(|(_, event)| selects(event)) {
        if piece.len() >= PIECE_BYTES {
            rest = &events[position..];
            break;
        }
        render(event, &mut piece);
        last = position;
    }
    piece.shrink_to_fit();
    Some((Piece { first: events[start].id, last: events[last].id, bytes: piece.into() }, rest))
}

fn render(event: &StoredEvent, piece: &mut Vec<u8>) {
    piece.extend_from_slice(b"id: ");
    piece.extend_from_slice(event.id.to_string().as_bytes());
    piece.extend_from_slice(b"\ndata: ");
    // JSON escapes line breaks.
    event.write_json(piece);
    piece.extend_from_slice(b"\n\n");
}

/// The newest pieces for one filter.
pub struct Lane {
    pub filter: TypeFilter,
    /// The number of its streams; changed only while the hub's lanes are locked.
    pub streams: AtomicUsize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// All selected events after this id are held; none until the hub has polled for the lane.
    from: Option<i64>,
    pieces: VecDeque<Piece>,
}

/// What follows a position.
#[derive(Debug)]
pub enum Next {
    Piece(Piece),
    /// No selected event is known.
    Nothing,
    /// It has to be read from the store.
    NotHeld,
}

impl Lane {
    pub fn new(filter: TypeFilter) -> Lane {
        Lane { filter, streams: AtomicUsize::new(0), held: Mutex::default() }
    }

    pub fn next(&self, position: i64) -> Next {
        let held = self.held.lock();
        if held.from.is_none_or(|from| position < from) {
            return Next::NotHeld;
        }
        let following = held.pieces.partition_point(|piece| piece.last <= position);
        match held.pieces.get(following) {
            None => Next::Nothing,
            Some(piece) if piece.first > position => Next::Piece(piece.clone()),
            // The position is inside of the piece.
            Some(_) => Next::NotHeld,
        }
    }

    /// Holds events after this id from now on, unless the lane holds some already.
    pub fn begin(&self, head: i64) {
        self.held.lock().from.get_or_insert(head);
    }

    pub fn clear(&self) {
        *self.held.lock() = Held::default();
    }

    /// Drops everything up to this id. Returns the size of what it held.
    pub fn leave_behind(&self, head: i64) -> usize {
        let held = std::mem::replace(&mut *self.held.lock(), Held { from: Some(head), ..Held::default() });
        held.pieces.iter().map(|piece| piece.bytes.len()).sum()
    }

    pub fn push(&self, piece: Piece) {
        self.held.lock().pieces.push_back(piece);
    }

    /// Drops the oldest piece. Returns its size.
    pub fn evict(&self) -> usize {
        let mut held = self.held.lock();
        let Some(piece) = held.pieces.pop_front() else { return 0 };
        held.from = Some(piece.last);
        piece.bytes.len()
    }
}

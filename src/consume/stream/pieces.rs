//! Events as clients get them, in pieces that many streams share.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::body::Bytes;

use crate::consume::listing::write_event;
use crate::core::event::StoredEvent;
use crate::core::glob::Glob;

/// How large a piece is, unless a single event is larger: what a socket takes at once.
pub const PIECE_BYTES: usize = 64 << 10;

/// Some events, one after another, in the format of server-sent events.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The id of the first of them.
    pub first: i64,
    /// The id of the last of them.
    pub last: i64,
    /// The events.
    pub bytes: Bytes,
}

/// The first events of a page that fit into one piece, among those that a filter selects; none where it selects none.
/// The rest of the page comes back with it.
pub fn next_piece<'a>(
    events: &'a [StoredEvent],
    filter: Option<&Glob>,
) -> Option<(Piece, &'a [StoredEvent])> {
    let selects = |event: &StoredEvent| filter.is_none_or(|glob| glob.matches(&event.event_type));
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
    // JSON escapes what would end the line.
    write_event(event, piece);
    piece.extend_from_slice(b"\n\n");
}

/// The newest pieces for one filter.
pub struct Lane {
    pub filter: Option<Glob>,
    /// How many streams are on it; changed while the hub's lanes are locked.
    pub streams: AtomicUsize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// After which id all events that the filter selects are held; none until the hub knows of the lane.
    from: Option<i64>,
    pieces: VecDeque<Piece>,
}

/// What a lane has for a position.
#[derive(Debug)]
pub enum Next {
    /// The events that follow.
    Piece(Piece),
    /// No event that the filter selects is known to follow.
    Nothing,
    /// The store alone can tell.
    NotHeld,
}

impl Lane {
    /// A lane that holds nothing yet.
    pub fn new(filter: Option<Glob>) -> Lane {
        Lane { filter, streams: AtomicUsize::new(0), held: Mutex::default() }
    }

    /// What follows an id.
    pub fn next(&self, position: i64) -> Next {
        let held = self.lock();
        if held.from.is_none_or(|from| position < from) {
            return Next::NotHeld;
        }
        let following = held.pieces.partition_point(|piece| piece.last <= position);
        match held.pieces.get(following) {
            None => Next::Nothing,
            Some(piece) if piece.first > position => Next::Piece(piece.clone()),
            // The position lies within the piece.
            Some(_) => Next::NotHeld,
        }
    }

    /// From this id on events will be held, unless they are already.
    pub fn begin(&self, head: i64) {
        self.lock().from.get_or_insert(head);
    }

    /// Holds nothing any more.
    pub fn clear(&self) {
        *self.lock() = Held::default();
    }

    /// Holds nothing up to this id; how large what it held was.
    pub fn leave_behind(&self, head: i64) -> usize {
        let held = std::mem::replace(&mut *self.lock(), Held { from: Some(head), ..Held::default() });
        held.pieces.iter().map(|piece| piece.bytes.len()).sum()
    }

    pub fn push(&self, piece: Piece) {
        self.lock().pieces.push_back(piece);
    }

    /// Lets go of the oldest piece; how large it was.
    pub fn evict(&self) -> usize {
        let mut held = self.lock();
        let Some(piece) = held.pieces.pop_front() else { return 0 };
        held.from = Some(piece.last);
        piece.bytes.len()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! What the last polls of the store have found, for streams slightly behind, and to notice that the store was replaced.

use std::collections::VecDeque;
use std::sync::Arc;

use super::pieces::{Lane, Piece};
use crate::core::event::StoredEvent;
use crate::core::timestamp::Timestamp;
use crate::store::ReadError;
use crate::store::backend::EventReader;

/// The size of the pieces that are held. Streams further behind read from the store.
const RING_BYTES: usize = 8 << 20;

/// How many polls are remembered to find the last event that a store has in common with the one that it replaces.
const MARKS: usize = 1024;

/// An event's id, and when it was received: a store that has replaced another gives the id to another event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    id: i64,
    received_at: Timestamp,
}

impl Mark {
    pub fn of(event: &StoredEvent) -> Mark {
        Mark { id: event.id, received_at: event.received_at }
    }
}

/// The pieces of all lanes, the oldest first.
#[derive(Default)]
pub struct Ring {
    /// Whether the polls follow the store.
    pub following: bool,
    order: VecDeque<Arc<Lane>>,
    pub bytes: usize,
    /// The newest events of the last polls, the oldest first; none until the store has an event.
    marks: VecDeque<Mark>,
}

impl Ring {
    /// Begins to follow after an event, if there is one. Returns its id or 0.
    pub fn begin(&mut self, lanes: &[Arc<Lane>], newest: Option<Mark>) -> i64 {
        self.following = true;
        self.marks.extend(newest);
        let head = newest.map_or(0, |mark| mark.id);
        lanes.iter().for_each(|lane| lane.begin(head));
        head
    }

    /// Begins anew with a store that has replaced the one from before. Returns the newest marked event that both have, or 0.
    pub fn begin_anew(
        &mut self,
        lanes: &[Arc<Lane>],
        newest: &StoredEvent,
        reader: &mut dyn EventReader,
    ) -> Result<i64, ReadError> {
        let mut shared = 0;
        for mark in self.marks.iter().rev() {
            if reader.get(mark.id)?.is_some_and(|event| Mark::of(&event) == *mark) {
                shared = mark.id;
                break;
            }
        }
        self.clear(lanes);
        self.marks.retain(|mark| mark.id <= shared);
        self.begin(lanes, Some(Mark::of(newest)));
        Ok(shared)
    }

    pub fn end(&mut self, lanes: &[Arc<Lane>]) {
        self.clear(lanes);
        self.marks.clear();
        self.following = false;
    }

    /// Remembers the last event of a poll.
    pub fn mark(&mut self, last: &StoredEvent) {
        self.marks.push_back(Mark::of(last));
        if self.marks.len() > MARKS {
            self.marks.pop_front();
        }
    }

    /// Whether an event is the one that was marked last, and not another with its id.
    pub fn is_marked(&self, event: &StoredEvent) -> bool {
        self.marks.back().is_none_or(|mark| *mark == Mark::of(event))
    }

    /// Holds a piece, and so drops the oldest ones where they become too much.
    pub fn push(&mut self, lane: &Arc<Lane>, piece: Piece) {
        self.bytes += piece.bytes.len();
        lane.push(piece);
        self.order.push_back(Arc::clone(lane));
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

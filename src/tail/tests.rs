use super::*;
use crate::core::timestamp::Timestamp;
use crate::store::backend::Page;
use crate::store::statistics::Statistics;

/// A store whose reads fail as its script says.
struct Failing {
    events: Vec<StoredEvent>,
    /// Which of the reads of pages fail, from 0.
    failures: Vec<usize>,
    reads: usize,
}

impl EventReader for Failing {
    fn page(&mut self, query: &Query) -> Result<Page, ReadError> {
        self.reads += 1;
        if self.failures.contains(&(self.reads - 1)) {
            return Err(ReadError::from(anyhow::anyhow!("the connection is lost")));
        }
        let selected = |event: &&StoredEvent| {
            query.after.is_none_or(|after| event.id > after)
                && query.before.is_none_or(|before| event.id < before)
        };
        let mut events: Vec<StoredEvent> = self.events.iter().filter(selected).cloned().collect();
        let more = events.len() > query.limit;
        if query.after.is_some() {
            events.truncate(query.limit);
        } else {
            events.drain(..events.len().saturating_sub(query.limit));
        }
        Ok(Page { events, more })
    }

    fn get(&mut self, id: i64) -> Result<Option<StoredEvent>, ReadError> {
        Ok(self.events.iter().find(|event| event.id == id).cloned())
    }

    fn has_given(&mut self, id: i64) -> Result<bool, ReadError> {
        Ok(self.events.last().is_some_and(|last| last.id >= id))
    }

    fn statistics(&mut self, _: &Query) -> Result<Statistics, ReadError> {
        unimplemented!()
    }
}

fn settings() -> Settings {
    Settings {
        source: SourceSettings::Store("events.db".parse().unwrap()),
        lines: None,
        follow: true,
        after: None,
        event_type: None,
        since: None,
        until: None,
        verify: None,
        work: None,
        output: OutputSettings { content: Content::Events, format: EventFormat::Json, color: Color::Never },
    }
}

/// The ids that a follower prints of events that come at once, whichever reads fail.
fn followed(count: i64, failures: &[usize]) -> Vec<i64> {
    let event = |id| StoredEvent {
        id,
        received_at: Timestamp::from_microseconds(id),
        event_type: "message".to_owned(),
        event_payload: String::new(),
    };
    let reader = Failing { events: (1..=count).map(event).collect(), failures: failures.to_vec(), reads: 0 };
    let settings = settings();
    let mut output = Vec::new();
    let mut tail = Tail {
        settings: &settings,
        source: Source::Store(Box::new(reader)),
        printer: Printer::new(settings.output, false, &mut output),
        horizon: None,
        printed: None,
    };
    for _ in 0..=failures.len() {
        let _ = tail.print_new();
    }
    drop(tail);
    let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["id"].as_i64().unwrap())
        .collect()
}

#[test]
fn a_read_that_fails_halfway_prints_nothing_twice_and_leaves_nothing_out() {
    let count = 2 * PAGE as i64 + 500;
    let all: Vec<i64> = (1..=count).collect();
    // The first read asks for the newest event, the following ones for its pages.
    for failures in [&[][..], &[0], &[1], &[2], &[3], &[2, 4], &[3, 5], &[1, 3, 5]] {
        assert!(followed(count, failures) == all, "{failures:?}");
    }
}

//! Events of a file.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::next::Next;
use crate::core::outgoing::Outgoing;
use crate::error::hinted;
use crate::propagate::settings::Order;
use crate::propagate::template::{EventTemplates, TemplateClock};

pub const FILE_HINT: &str = "write a JSON array of objects, or concatenated objects: [{\"event_type\": \"message\", \"event_payload\": \"hello\"}]";

/// The events of a file, in the order of `--order`.
pub struct FileEvents {
    events: Vec<Arc<Outgoing>>,
    order: Order,
    random: fastrand::Rng,
    position: usize,
    /// The sums of the weights up to each event; none where all weigh the same.
    weights: Option<Vec<f64>>,
    /// By their places in the file, which `places` has for each event.
    templates: Option<Box<EventTemplates>>,
    places: Vec<usize>,
}

impl FileEvents {
    /// # Errors
    /// The file cannot be read, or holds something else than objects, or templates that are wrong.
    pub fn open(
        path: &Path,
        order: Order,
        random: fastrand::Rng,
        template: Option<TemplateClock>,
    ) -> anyhow::Result<FileEvents> {
        let mut file = FileEvents::new(read_file(path)?, order, random);
        if let Some(clock) = template {
            let templates = EventTemplates::new(&file.events, &file.random.clone().fork(), clock)?;
            file.templates = Some(Box::new(templates));
        }
        Ok(file)
    }

    /// The number of events before they repeat.
    pub fn cycle(&self) -> u64 {
        self.events.len() as u64
    }

    fn new(events: Vec<Arc<Outgoing>>, order: Order, random: fastrand::Rng) -> FileEvents {
        let first = events[0].envelope.weight;
        let is_weighted = events.iter().any(|event| event.envelope.weight != first);
        let sums = events.iter().scan(0.0, |sum, event| {
            *sum += event.envelope.weight;
            Some(*sum)
        });
        let weights = is_weighted.then(|| sums.collect());
        let places = (0..events.len()).collect();
        FileEvents { events, order, random, position: 0, weights, templates: None, places }
    }

    pub fn next(&mut self) -> Next {
        let place = self.next_place();
        let made = self.templates.as_mut().map(|templates| templates.next(place));
        match made {
            None => Next::Event { event: Arc::clone(&self.events[place]), waited: false },
            Some(Ok(event)) => Next::Event { event: Arc::new(event), waited: false },
            Some(Err(problem)) => Next::Invalid(problem),
        }
    }

    /// The place of the next event in the file.
    fn next_place(&mut self) -> usize {
        let position = self.position;
        self.position = (position + 1) % self.events.len();
        match self.order {
            Order::Sequential => {}
            Order::Random => return self.draw(),
            Order::Shuffle if position == 0 => self.random.shuffle(&mut self.places),
            Order::Shuffle => {}
        }
        self.places[position]
    }

    /// An event in random order, by its weight.
    fn draw(&mut self) -> usize {
        let count = self.events.len();
        match self.weights.as_ref().and_then(|sums| Some((sums, sums.last()?))) {
            None => self.random.usize(..count),
            Some((sums, total)) => {
                let at = self.random.f64() * total;
                sums.partition_point(|sum| *sum <= at).min(count - 1)
            }
        }
    }
}

fn read_file(path: &Path) -> anyhow::Result<Vec<Arc<Outgoing>>> {
    let shown = path.display();
    let bytes = fs::read(path).map_err(|error| {
        hinted(format!("cannot read events from `{shown}`: {error}"), "name a file of events with --file")
    })?;
    let wrong = |problem: String| hinted(format!("cannot read events from `{shown}`: {problem}"), FILE_HINT);
    let events = Outgoing::parse_file(&bytes).map_err(wrong)?;
    Ok(events.into_iter().map(Arc::new).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(order: Order, seed: u64, count: usize) -> Vec<String> {
        let events = Outgoing::parse_file(br#"[{"a":1},{"a":2},{"a":3},{"a":4}]"#).unwrap();
        let events = events.into_iter().map(Arc::new).collect();
        let mut file = FileEvents::new(events, order, fastrand::Rng::with_seed(seed));
        (0..count).map(|_| body_of(file.next())).collect()
    }

    fn body_of(next: Next) -> String {
        let Next::Event { event, .. } = next else { panic!("a file has an event") };
        event.body.clone()
    }

    #[test]
    fn orders_are_what_they_say() {
        let sequential = drawn(Order::Sequential, 1, 6);
        assert_eq!(
            sequential,
            [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#, r#"{"a":4}"#, r#"{"a":1}"#, r#"{"a":2}"#]
        );
        let shuffled = drawn(Order::Shuffle, 1, 400);
        for pass in shuffled.chunks(4) {
            let mut pass = pass.to_vec();
            pass.sort();
            assert_eq!(pass, sequential[..4], "every pass holds every event once");
        }
        assert!(shuffled.chunks(4).any(|pass| pass != &shuffled[..4]));
        let random = drawn(Order::Random, 1, 400);
        assert!(sequential[..4].iter().all(|event| random.contains(event)));
        assert_ne!(random[..4], random[4..8]);
    }

    #[test]
    fn what_weighs_more_is_drawn_more_often() {
        let text = br#"{"eventctl": 1, "event": {"a": 1}, "weight": 3} {"a": 2} {"eventctl": 1, "event": {"a": 3}, "weight": 0.5}"#;
        let events = Outgoing::parse_file(text).unwrap().into_iter().map(Arc::new).collect();
        let mut file = FileEvents::new(events, Order::Random, fastrand::Rng::with_seed(1));
        let mut counts = [0; 3];
        (0..9000).for_each(|_| counts[usize::from(body_of(file.next()).as_bytes()[6] - b'1')] += 1);
        let expected = [6000, 2000, 1000];
        assert!(
            counts
                .iter()
                .zip(expected)
                .all(|(count, expected)| (expected - 200..expected + 200).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_seed_repeats_the_order() {
        for order in [Order::Random, Order::Shuffle] {
            assert_eq!(drawn(order, 7, 100), drawn(order, 7, 100));
            assert_ne!(drawn(order, 7, 100), drawn(order, 8, 100));
        }
    }
}

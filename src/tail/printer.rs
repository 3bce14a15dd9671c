//! Events, alerts and statistics in one of the formats.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;
use serde_json::ser::Serializer;

use super::settings::{Color, Content, EventFormat, OutputSettings};
use super::stats;
use crate::core::event::StoredEvent;
use crate::core::text::{PrintableFormatter, padded, printable};
use crate::core::timestamp::Timestamp;
use crate::logging::allows_color;
use crate::store::outbox::{Delivery, DeliveryState};
use crate::store::statistics::{Statistics, TypeStatistics};

/// Writes events in one of the formats.
pub struct Printer<W: Write> {
    output: W,
    format: EventFormat,
    color: bool,
    on_terminal: bool,
    /// The header of the table, until it is printed.
    header: Option<&'static str>,
}

const EVENT_COLUMNS: &str = "id,received_at,event_type,event_payload";
const ALERT_COLUMNS: &str =
    "event_id,created_at,state,channel,event_type,attempts,due_at,settled_at,repeats,last_error";

impl<W: Write> Printer<W> {
    pub fn new(settings: OutputSettings, on_terminal: bool, output: W) -> Printer<W> {
        let OutputSettings { content, format, color } = settings;
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => on_terminal && allows_color(),
        };
        let columns = match content {
            Content::Alerts => ALERT_COLUMNS,
            Content::Statistics => "event_type,count,first,last",
            Content::Events => EVENT_COLUMNS,
        };
        let header = (format == EventFormat::Csv).then_some(columns);
        Printer { output, format, color, on_terminal, header }
    }

    /// Writes one event.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn print(&mut self, event: &StoredEvent) -> io::Result<()> {
        match self.format {
            EventFormat::Text => self.print_text(event),
            EventFormat::Json => self.print_json(event),
            EventFormat::Ndjson => {
                let StoredEvent { event_type, event_payload, .. } = event;
                self.print_json(&json!({"event_type": event_type, "event_payload": event_payload}))
            }
            EventFormat::Envelope => {
                let StoredEvent { id, received_at, event_type, event_payload } = event;
                let event = json!({"event_type": event_type, "event_payload": event_payload});
                self.print_json(&json!({"eventctl": 1, "event": event, "id": id, "received_at": received_at}))
            }
            EventFormat::Csv => self.print_csv(event),
        }
    }

    /// Writes how many events of which types there are.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn print_statistics(&mut self, statistics: &Statistics) -> io::Result<()> {
        match self.format {
            EventFormat::Text => stats::print_text(&mut self.output, statistics),
            EventFormat::Json | EventFormat::Ndjson | EventFormat::Envelope => {
                self.print_json(&stats::to_json(statistics))
            }
            EventFormat::Csv => {
                for kind in &statistics.types {
                    self.print_csv_header()?;
                    let TypeStatistics { event_type, count, first, last } = kind;
                    let event_type = self.field(event_type);
                    write!(self.output, "{event_type},{count},{first},{last}\r\n")?;
                }
                Ok(())
            }
        }
    }

    /// Brings everything to its reader: a table without events, too, has its header.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn flush(&mut self) -> io::Result<()> {
        self.print_csv_header()?;
        self.output.flush()
    }

    fn print_text(&mut self, event: &StoredEvent) -> io::Result<()> {
        let [dim, bold, plain] = if self.color { ["\x1b[2m", "\x1b[1m", "\x1b[0m"] } else { [""; 3] };
        let StoredEvent { id, received_at, .. } = event;
        let event_type = padded(&printable(&event.event_type), 16);
        let event_payload = printable(&event.event_payload);
        writeln!(self.output, "{dim}{received_at}{plain} {id:>8} {bold}{event_type}{plain} {event_payload}")
    }

    fn print_json(&mut self, event: &impl Serialize) -> io::Result<()> {
        event.serialize(&mut Serializer::with_formatter(&mut self.output, PrintableFormatter))?;
        self.output.write_all(b"\n")
    }

    fn print_csv_header(&mut self) -> io::Result<()> {
        match self.header.take() {
            Some(header) => write!(self.output, "{header}\r\n"),
            None => Ok(()),
        }
    }

    fn print_csv(&mut self, event: &StoredEvent) -> io::Result<()> {
        self.print_csv_header()?;
        let (event_type, event_payload) = (self.field(&event.event_type), self.field(&event.event_payload));
        write!(self.output, "{},{},{event_type},{event_payload}\r\n", event.id, event.received_at)
    }

    /// Writes how far an alert is.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn print_delivery(&mut self, delivery: &Delivery) -> io::Result<()> {
        match self.format {
            EventFormat::Text => self.print_delivery_text(delivery),
            EventFormat::Json | EventFormat::Ndjson | EventFormat::Envelope => self.print_json(delivery),
            EventFormat::Csv => {
                self.print_csv_header()?;
                let or_nothing =
                    |value: Option<String>| value.map_or_else(String::new, |text| self.field(&text));
                let fields = [
                    delivery.event_id.to_string(),
                    delivery.created_at.to_string(),
                    delivery.state.as_str().to_owned(),
                    self.field(&delivery.channel),
                    or_nothing(delivery.event_type.clone()),
                    delivery.attempts.to_string(),
                    or_nothing(delivery.due_at.as_ref().map(Timestamp::to_string)),
                    or_nothing(delivery.settled_at.as_ref().map(Timestamp::to_string)),
                    or_nothing(delivery.repeats.as_ref().map(i64::to_string)),
                    or_nothing(delivery.last_error.clone()),
                ];
                write!(self.output, "{}\r\n", fields.join(","))
            }
        }
    }

    fn print_delivery_text(&mut self, delivery: &Delivery) -> io::Result<()> {
        let [dim, bold, plain] = if self.color { ["\x1b[2m", "\x1b[1m", "\x1b[0m"] } else { [""; 3] };
        let Delivery { event_id, created_at, state, attempts, .. } = delivery;
        let state = state.as_str();
        let channel = printable(&delivery.channel);
        let event_type = delivery.event_type.as_deref().map_or("(gone)".to_owned(), printable);
        write!(
            self.output,
            "{dim}{created_at}{plain} {event_id:>8} {bold}{state:<9}{plain} {channel} {event_type}"
        )?;
        if let Some(original) = delivery.repeats {
            write!(self.output, ", repeats {original}")?;
        }
        if *attempts > 1 {
            write!(self.output, ", {attempts} attempts")?;
        }
        if let (DeliveryState::Pending, Some(due_at)) = (delivery.state, delivery.due_at) {
            write!(self.output, ", next {due_at}")?;
        }
        if let Some(error) = &delivery.last_error {
            write!(self.output, ": {}", printable(error))?;
        }
        writeln!(self.output)
    }

    fn field(&self, text: &str) -> String {
        csv_field(&if self.on_terminal { printable(text) } else { text.to_owned() })
    }
}

/// RFC 4180: quoted where it must be.
fn csv_field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

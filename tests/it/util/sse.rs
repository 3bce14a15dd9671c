//! A client of server-sent events, by the rules of WHATWG HTML, section 9.2.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::Value;

use super::PATIENCE;
use super::http::{Connection, Response};

/// What stands between two empty lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Block {
    pub id: Option<String>,
    pub data: Option<String>,
    pub retry: Option<String>,
    pub comments: usize,
}

impl Block {
    /// The event; none where the block holds no data.
    pub fn event(&self) -> Option<Value> {
        self.data.as_ref().map(|data| serde_json::from_str(data).unwrap())
    }

    fn parse(text: &str) -> Block {
        let mut block = Block::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match name {
                "" => block.comments += 1,
                "id" => block.id = Some(value),
                "data" => {
                    assert_eq!(block.data.replace(value), None, "data of several lines: {text:?}");
                }
                "retry" => block.retry = Some(value),
                other => panic!("unexpected field {other:?}: {text:?}"),
            }
        }
        block
    }
}

/// A stream that was opened.
pub struct EventStream<S = TcpStream> {
    pub connection: Connection<S>,
    /// The head of its response.
    pub response: Response,
    received: Vec<u8>,
    /// How much of that has been looked at.
    seen: usize,
    /// Where the client would go on.
    pub last_event_id: String,
    /// How many blocks had a comment and nothing else.
    pub heartbeats: usize,
}

impl<S: Read + Write> EventStream<S> {
    /// Asks for a stream, which must be given.
    pub fn open(mut connection: Connection<S>, query: &str, headers: &[(&str, &str)]) -> EventStream<S> {
        let response = connection.request("GET", &format!("/event/stream{query}"), headers, b"");
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.header("transfer-encoding"), Some("chunked"), "{response:?}");
        let received = Vec::new();
        EventStream { connection, response, received, seen: 0, last_event_id: String::new(), heartbeats: 0 }
    }

    /// The next block; none at the clean end of the stream.
    pub fn try_block(&mut self) -> io::Result<Option<Block>> {
        loop {
            let unseen = &self.received[self.seen..];
            if let Some(end) = unseen.windows(2).position(|pair| pair == b"\n\n") {
                let block = Block::parse(str::from_utf8(&unseen[..end]).unwrap());
                self.seen += end + 2;
                self.last_event_id = block.id.clone().unwrap_or_else(|| self.last_event_id.clone());
                self.heartbeats +=
                    usize::from(block == Block { comments: block.comments, ..Block::default() });
                return Ok(Some(block));
            }
            self.received.drain(..self.seen);
            self.seen = 0;
            match self.connection.receive_chunk()? {
                Some(chunk) => self.received.extend(chunk),
                None => {
                    assert_eq!(self.received, b"", "the stream ends within a block");
                    return Ok(None);
                }
            }
        }
    }

    pub fn block(&mut self) -> Block {
        self.try_block().unwrap().expect("the stream has ended")
    }

    /// The next event, whatever stands before it; none at the clean end of the stream.
    pub fn try_event(&mut self) -> io::Result<Option<Value>> {
        let started = Instant::now();
        while let Some(block) = self.try_block()? {
            // Heartbeats go on for ever.
            assert!(started.elapsed() < PATIENCE, "neither an event nor an end");
            let Some(event) = block.event() else { continue };
            assert_eq!(block.id, Some(event["id"].to_string()), "{block:?}");
            return Ok(Some(event));
        }
        Ok(None)
    }

    pub fn event(&mut self) -> Value {
        self.try_event().unwrap().expect("the stream has ended")
    }

    /// The payloads of so many events.
    pub fn payloads(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.event()["event_payload"].as_str().unwrap().to_owned()).collect()
    }
}

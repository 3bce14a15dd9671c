//! How far a value reaches in a text that may come in pieces.

use std::fmt;
use std::io::{BufRead, ErrorKind};

/// How deep a value may have been when it turned out to be wrong, so that its lines are read again: each line that is
/// may cost as many more.
const RECOVERY_DEPTH: usize = 128;

/// A place in a text, counted from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    /// The place behind a text that begins here.
    pub fn after(self, text: &str) -> Place {
        match text.rsplit_once('\n') {
            Some((before, last)) => {
                let line = self.line + before.matches('\n').count() + 1;
                Place { line, column: last.chars().count() + 1 }
            }
            None => Place { column: self.column + text.chars().count(), ..self },
        }
    }

    /// The place before this one in its line.
    pub fn before(self) -> Place {
        Place { column: self.column.saturating_sub(1).max(1), ..self }
    }

    fn pass(&mut self, byte: u8) {
        if byte == b'\n' {
            *self = Place { line: self.line + 1, column: 1 };
        } else if byte & 0xC0 != 0x80 {
            // All bytes of a character in UTF-8 but the first look like that.
            self.column += 1;
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {} column {}", self.line, self.column)
    }
}

/// What belongs together: a value, or what looks like the beginning of one.
pub struct Extent {
    pub start: Place,
    pub text: Vec<u8>,
    pub is_too_long: bool,
    /// Whether it was read to the end that it has by its brackets and quotes.
    is_whole: bool,
    depth: usize,
}

/// A text and how much of it is read.
pub struct Input<R> {
    reader: R,
    /// What was read and is to be read again, in reverse.
    again: Vec<u8>,
    place: Place,
    failed: bool,
}

impl<R: BufRead> Input<R> {
    pub fn new(reader: R) -> Input<R> {
        Input { reader, again: Vec::new(), place: Place { line: 1, column: 1 }, failed: false }
    }

    /// The place of the next byte.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether the reader has failed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The next byte.
    pub fn peek(&mut self) -> Result<Option<u8>, String> {
        if let Some(byte) = self.again.last() {
            return Ok(Some(*byte));
        }
        loop {
            match self.reader.fill_buf() {
                Ok(buffer) => return Ok(buffer.first().copied()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = true;
                    return Err(format!("{error} at {}", self.place));
                }
            }
        }
    }

    /// Takes the next byte.
    pub fn take(&mut self) -> Result<Option<u8>, String> {
        let next = self.peek()?;
        if let Some(byte) = next {
            if self.again.pop().is_none() {
                self.reader.consume(1);
            }
            self.place.pass(byte);
        }
        Ok(next)
    }

    /// Passes over these bytes where they are the next ones; whether they are.
    pub fn pass_over(&mut self, bytes: &[u8]) -> Result<bool, String> {
        let place = self.place;
        for (number, byte) in bytes.iter().enumerate() {
            if self.peek()? != Some(*byte) {
                self.again.extend(bytes[..number].iter().rev());
                self.place = place;
                return Ok(false);
            }
            self.take()?;
        }
        // They are no part of the text, and take no column of it.
        self.place = place;
        Ok(true)
    }

    /// Takes what belongs together, and keeps no more of it than the limit.
    pub fn read_extent(&mut self, limit_bytes: usize) -> Result<Extent, String> {
        let (start, mut text, mut length) = (self.place, Vec::new(), 0);
        let mut shape = Shape::default();
        let is_whole = loop {
            let Some(byte) = self.peek()? else { break shape.is_whole() };
            match shape.step(byte) {
                Step::Part => {}
                Step::Last => {
                    self.take()?;
                    length += 1;
                    text.push(byte);
                    break true;
                }
                Step::Behind => break true,
                Step::Wrong => {
                    if byte != b'\n' && length <= limit_bytes {
                        self.take()?;
                        text.push(byte);
                    }
                    break false;
                }
            }
            self.take()?;
            length += 1;
            if length <= limit_bytes {
                text.push(byte);
            }
        };
        Ok(Extent { start, text, is_too_long: length > limit_bytes, is_whole, depth: shape.open.len() })
    }

    /// Goes on behind something that is not JSON: where it has an end, there; where it has none and spans lines, at the
    /// first of them that looks like a line of NDJSON; else at the next line. What is in a value has an indent, or its
    /// line begins otherwise.
    pub fn recover(&mut self, extent: Extent) -> Result<(), String> {
        if extent.is_too_long && self.place.column == 1 {
            return Ok(());
        }
        let is_scalar = !matches!(extent.text.first(), Some(b'{' | b'[' | b'"'));
        if extent.is_whole && !is_scalar {
            return Ok(());
        }
        if !extent.is_too_long && extent.depth <= RECOVERY_DEPTH {
            let mut at = 0;
            let texts = extent.text.split_inclusive(|byte| *byte == b'\n');
            for (line, text) in (extent.start.line..).zip(texts) {
                if at > 0 && matches!(text[0], b'{' | b'[') {
                    self.again.extend(extent.text[at..].iter().rev());
                    self.place = Place { line, column: 1 };
                    return Ok(());
                }
                at += text.len();
            }
        }
        while self.peek()?.is_some_and(|byte| byte != b'\n') {
            self.take()?;
        }
        Ok(())
    }
}

/// As much of JSON's grammar as it takes to know where a value ends, and early that something has no end.
#[derive(Default)]
struct Shape {
    /// The brackets that are open.
    open: Vec<u8>,
    in_string: bool,
    escaped: bool,
    /// The last byte that is not white space; a quote for a string, `0` for other scalars.
    last: Option<u8>,
}

/// What a byte is to a value.
enum Step {
    Part,
    Last,
    /// No part of it any more.
    Behind,
    /// No value has it there.
    Wrong,
}

impl Shape {
    /// Whether the text may end here.
    fn is_whole(&self) -> bool {
        self.open.is_empty() && !self.in_string
    }

    fn step(&mut self, byte: u8) -> Step {
        if self.in_string {
            return self.step_in_string(byte);
        }
        let (inside, last) = (self.open.last().copied(), self.last);
        let value_may_begin = match inside {
            None => last.is_none(),
            Some(b'[') => matches!(last, Some(b'[' | b',')),
            Some(_) => last == Some(b':'),
        };
        let key_may_begin = inside == Some(b'{') && matches!(last, Some(b'{' | b','));
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' if inside.is_none() => return Step::Behind,
            b' ' | b'\t' | b'\r' | b'\n' => return Step::Part,
            // A scalar has ended, without white space behind it.
            b'{' | b'[' | b'"' | b',' | b'}' | b']' if inside.is_none() && last == Some(b'0') => {
                return Step::Behind;
            }
            b'{' | b'[' if value_may_begin => self.open.push(byte),
            b'"' if value_may_begin || key_may_begin => self.in_string = true,
            b'}' if inside == Some(b'{') => return self.close(),
            b']' if inside == Some(b'[') => return self.close(),
            b'{' | b'[' | b'"' | b'}' | b']' => return Step::Wrong,
            b',' | b':' if inside.is_none() => return Step::Wrong,
            b',' | b':' => {}
            _ => {
                self.last = Some(b'0');
                return Step::Part;
            }
        }
        self.last = Some(byte);
        Step::Part
    }

    fn step_in_string(&mut self, byte: u8) -> Step {
        match byte {
            // It must be escaped there: the line was cut off.
            b'\n' => return Step::Wrong,
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => {
                self.in_string = false;
                if self.open.is_empty() {
                    return Step::Last;
                }
            }
            _ => {}
        }
        Step::Part
    }

    fn close(&mut self) -> Step {
        self.open.pop();
        self.last = Some(b'}');
        if self.open.is_empty() { Step::Last } else { Step::Part }
    }
}

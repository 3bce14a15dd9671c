//! Finds where each JSON value ends in a stream of text, and where to resume after one that is malformed.

use std::fmt;
use std::io::{BufRead, ErrorKind};

/// The deepest malformed value whose lines are read again: each line that is may cost this many more.
const RECOVERY_DEPTH: usize = 128;

/// Line and column in a text, from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    /// The position after a text that begins here.
    pub fn after(self, text: &str) -> Position {
        match text.rsplit_once('\n') {
            Some((before, last)) => {
                let line = self.line + before.matches('\n').count() + 1;
                Position { line, column: last.chars().count() + 1 }
            }
            None => Position { column: self.column + text.chars().count(), ..self },
        }
    }

    /// The position before this one in its line.
    pub fn before(self) -> Position {
        Position { column: self.column.saturating_sub(1).max(1), ..self }
    }

    fn pass(&mut self, byte: u8) {
        if byte == b'\n' {
            *self = Position { line: self.line + 1, column: 1 };
        } else if byte & 0xC0 != 0x80 {
            // Not a continuation byte of UTF-8.
            self.column += 1;
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {} column {}", self.line, self.column)
    }
}

/// The text of a value, or of what looks like the beginning of one.
pub struct Extent {
    pub start: Position,
    pub text: Vec<u8>,
    pub is_too_long: bool,
    /// Whether its brackets and quotes are closed.
    is_whole: bool,
    depth: usize,
}

pub struct Input<R> {
    reader: R,
    /// Bytes that were read and are to be read again, in reverse.
    again: Vec<u8>,
    position: Position,
    failed: bool,
}

impl<R: BufRead> Input<R> {
    pub fn new(reader: R) -> Input<R> {
        Input { reader, again: Vec::new(), position: Position { line: 1, column: 1 }, failed: false }
    }

    /// The position of the next byte.
    pub fn position(&self) -> Position {
        self.position
    }

    pub fn has_failed(&self) -> bool {
        self.failed
    }

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
                    return Err(format!("{error} at {}", self.position));
                }
            }
        }
    }

    pub fn take(&mut self) -> Result<Option<u8>, String> {
        let next = self.peek()?;
        if let Some(byte) = next {
            if self.again.pop().is_none() {
                self.reader.consume(1);
            }
            self.position.pass(byte);
        }
        Ok(next)
    }

    /// Skips these bytes if they come next; returns whether they did.
    pub fn pass_over(&mut self, bytes: &[u8]) -> Result<bool, String> {
        let position = self.position;
        for (number, byte) in bytes.iter().enumerate() {
            if self.peek()? != Some(*byte) {
                self.again.extend(bytes[..number].iter().rev());
                self.position = position;
                return Ok(false);
            }
            self.take()?;
        }
        // They are not part of the text, and take no column.
        self.position = position;
        Ok(true)
    }

    /// Reads to the end of a value, and keeps at most `limit_bytes` of it.
    pub fn read_extent(&mut self, limit_bytes: usize) -> Result<Extent, String> {
        let (start, mut text, mut length) = (self.position, Vec::new(), 0);
        let mut scanner = Scanner::default();
        let is_whole = loop {
            let Some(byte) = self.peek()? else { break scanner.is_whole() };
            match scanner.step(byte) {
                Step::Part => {}
                Step::Last => {
                    self.take()?;
                    length += 1;
                    text.push(byte);
                    break true;
                }
                Step::After => break true,
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
        Ok(Extent { start, text, is_too_long: length > limit_bytes, is_whole, depth: scanner.open.len() })
    }

    /// Resumes after something that is not JSON: at its end, if it has one; else, if it spans lines, at the first of them that
    /// looks like a line of NDJSON (lines inside a value are indented or begin otherwise); else at the next line.
    pub fn recover(&mut self, extent: Extent) -> Result<(), String> {
        if extent.is_too_long && self.position.column == 1 {
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
                    self.position = Position { line, column: 1 };
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

/// As much of JSON's grammar as is needed to find the end of a value, and to notice early that it has none.
#[derive(Default)]
struct Scanner {
    /// The open brackets.
    open: Vec<u8>,
    in_string: bool,
    escaped: bool,
    /// The last byte that is not whitespace; a quote for a string, `0` for other scalars.
    last: Option<u8>,
}

enum Step {
    Part,
    Last,
    /// It follows the value.
    After,
    /// No value can have it there.
    Wrong,
}

impl Scanner {
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
            b' ' | b'\t' | b'\r' | b'\n' if inside.is_none() => return Step::After,
            b' ' | b'\t' | b'\r' | b'\n' => return Step::Part,
            // A scalar has ended, without whitespace after it.
            b'{' | b'[' | b'"' | b',' | b'}' | b']' if inside.is_none() && last == Some(b'0') => {
                return Step::After;
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
            // Strings hold no line breaks: the line was cut off.
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

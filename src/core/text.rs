//! Untrusted text, made safe to print.

use std::fmt::Write;
use std::io;

use serde_json::ser::Formatter;
use unicode_width::UnicodeWidthStr;

/// U+FEFF in UTF-8, which some programs write at the start of a text.
pub const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The text without a leading byte order mark, which is not part of it.
///
/// Source: RFC 8259, section 8.1, lets readers of JSON ignore it; other files are read alike.
pub fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

pub fn str_without_byte_order_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Whether a character can control a terminal or reorder its text: C0, DEL, C1, direction marks and overrides, line and
/// paragraph separators.
pub fn is_unsafe(character: char) -> bool {
    let moves_text = matches!(character,
        '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    character.is_control() || moves_text
}

/// The text with unsafe characters replaced by escapes such as `\n` and `\u{1b}`.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => printable.push_str("\\n"),
            '\r' => printable.push_str("\\r"),
            '\t' => printable.push_str("\\t"),
            _ if is_unsafe(character) => {
                write!(printable, "\\u{{{:x}}}", u32::from(character)).expect("memory takes all text");
            }
            _ => printable.push(character),
        }
    }
    printable
}

/// At most the first `limit` characters, printable, to quote in a message.
pub fn excerpt(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => printable(&text[..end]) + "…",
        None => printable(text),
    }
}

/// The text without its last line end, which files and the output of commands have after a value.
pub fn without_line_end(text: &str) -> &str {
    let line = text.strip_suffix('\n').unwrap_or(text);
    line.strip_suffix('\r').filter(|_| line.len() < text.len()).unwrap_or(line)
}

/// JSON text with unsafe characters escaped. They occur only inside strings, where an escape means the same; JSON itself
/// requires it of C0 only.
pub fn printable_json(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unsafe(character) {
            write!(printable, "\\u{:04x}", u32::from(character)).expect("memory takes all text");
        } else {
            printable.push(character);
        }
    }
    printable
}

/// The columns that a text takes on a terminal: two for each of most Chinese, Japanese and Korean characters.
pub fn width_of(text: &str) -> usize {
    text.width()
}

/// The text, padded with spaces to at least this many columns.
pub fn padded(text: &str, columns: usize) -> String {
    text.to_owned() + &" ".repeat(columns.saturating_sub(width_of(text)))
}

/// Writes JSON with unsafe characters escaped, of which JSON itself escapes only C0.
pub struct PrintableFormatter;

impl Formatter for PrintableFormatter {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(position) = rest.find(is_unsafe) {
            let (before, after) = rest.split_at(position);
            let character = after.chars().next().unwrap_or_default();
            // All unsafe characters are below U+10000, where one escape of four digits is enough.
            write!(writer, "{before}\\u{:04x}", u32::from(character))?;
            rest = &after[character.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Bytes in lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from hexadecimal digits.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    rest.is_empty().then(|| bytes.collect()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_a_cursor_or_text_is_escaped() {
        assert_eq!(printable("a\n\r\t\0\u{1b}[31m\u{7f}\u{9b}2J"), r"a\n\r\t\u{0}\u{1b}[31m\u{7f}\u{9b}2J");
        assert_eq!(
            printable("\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}"),
            r"\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}"
        );
        assert_eq!(printable("é😀 \"quoted\" \\"), "é😀 \"quoted\" \\");
    }

    #[test]
    fn only_one_leading_byte_order_mark_is_skipped() {
        for (text, expected) in [
            ("\u{FEFF}{}", "{}"),
            ("{}", "{}"),
            ("\u{FEFF}", ""),
            ("", ""),
            ("\u{FEFF}\u{FEFF}x", "\u{FEFF}x"),
            ("x\u{FEFF}", "x\u{FEFF}"),
        ] {
            assert_eq!(without_byte_order_mark(text.as_bytes()), expected.as_bytes(), "{text:?}");
        }
        assert_eq!(without_byte_order_mark(b"\xEF\xBB"), b"\xEF\xBB");
    }

    #[test]
    fn columns_are_counted_as_a_terminal_does() {
        for (text, expected) in [
            ("ab", "ab  "),
            ("消息", "消息"),
            ("é消", "é消 "),
            ("e\u{301}", "e\u{301}   "),
            ("abcde", "abcde"),
        ] {
            assert_eq!(padded(text, 4), expected);
        }
    }

    #[test]
    fn json_stays_what_it_is_when_it_is_printed() {
        let text = "{\"a\":\"\u{7f}\u{9b}2J\u{202e}é\"}";
        assert_eq!(printable_json(text), r#"{"a":"\u007f\u009b2J\u202eé"}"#);
    }

    #[test]
    fn excerpts_are_short_and_printable() {
        assert_eq!(excerpt("ab\ncd", 4), "ab\\nc…");
        assert_eq!(excerpt("éé", 2), "éé");
    }
}

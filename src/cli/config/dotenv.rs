//! The file `.env`, which other programs may share.
//!
//! A line is `NAME=value`, with or without `export` before it. Quotes around a value are taken off, and may span lines;
//! within double quotes `\n`, `\r`, `\t`, `\"`, `\\` and `\$` are escapes, within single quotes `\'` is. Without quotes a value ends at
//! ` #`. Nothing is expanded. An invalid line is an error only for a setting that it names.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;

use crate::core::text::without_byte_order_mark;
use crate::error::{Hint, hinted};

#[derive(Debug, Default)]
pub(super) struct Dotenv {
    variables: BTreeMap<String, Result<String, Wrong>>,
}

/// Why a variable has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wrong {
    line: usize,
    why: &'static str,
}

impl Dotenv {
    /// A file that does not exist has no variables, nor has a directory of that name.
    pub(super) fn read(path: &Path) -> anyhow::Result<Dotenv> {
        match fs::read(path) {
            Ok(bytes) => Ok(Dotenv { variables: parse(&bytes) }),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {
                Ok(Dotenv::default())
            }
            Err(error) => Err(error)
                .with_context(|| format!("cannot read `{}`", path.display()))
                .hint("let this user read the file, or run eventctl in another directory"),
        }
    }

    /// The value of a variable; empty is unset.
    ///
    /// # Errors
    /// The line of this variable is invalid.
    pub(super) fn get(&self, name: &str) -> anyhow::Result<Option<&str>> {
        match self.variables.get(name) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value.as_str()).filter(|value| !value.is_empty())),
            Some(Err(Wrong { line, why })) => {
                let problem = format!("cannot read `{name}` in line {line} of `.env`: {why}");
                Err(hinted(problem, "write NAME=value, or NAME='value' around spaces, quotes and #"))
            }
        }
    }
}

fn parse(bytes: &[u8]) -> BTreeMap<String, Result<String, Wrong>> {
    let text = String::from_utf8_lossy(without_byte_order_mark(bytes));
    let is_utf8 = matches!(text, Cow::Borrowed(_));
    let mut variables = BTreeMap::new();
    let mut rest = &*text;
    let mut line = 1;
    while !rest.is_empty() {
        let end = rest.find('\n').map_or(rest.len(), |end| end + 1);
        let mut taken = end;
        if let Some((name, after)) = split_name(&rest[..end]) {
            let value = match after.trim_start_matches([' ', '\t']).strip_prefix('=') {
                Some(value) => parse_value(&rest[end - value.len()..], &mut taken),
                None => Err("expected `=` behind the name"),
            };
            let value = value.and_then(|value| match is_utf8 || !value.contains('\u{fffd}') {
                true => Ok(value),
                false => Err("it is not UTF-8"),
            });
            variables.insert(name.to_owned(), value.map_err(|why| Wrong { line, why }));
        }
        line += rest[..taken].matches('\n').count();
        rest = &rest[taken..];
    }
    variables
}

/// The name that a line begins with and what follows it; `None` if it begins with something else.
fn split_name(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let exported = line.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t']));
    let line = exported.unwrap_or(line).trim_start();
    let is_in_name =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-');
    let end = line.find(|character| !is_in_name(character)).unwrap_or(line.len());
    let (name, after) = line.split_at(end);
    let ends = after.is_empty() || after.starts_with(['=', ':']) || after.starts_with(char::is_whitespace);
    (!name.is_empty() && ends).then_some((name, after))
}

/// The value at the start of a text that extends to the end of the file; `taken` grows by the additional lines that it
/// spans.
fn parse_value(text: &str, taken: &mut usize) -> Result<String, &'static str> {
    let line = text.lines().next().unwrap_or_default();
    let start = line.trim_start();
    let Some(quote) = start.chars().next().filter(|first| matches!(first, '"' | '\'')) else {
        let comment = line.match_indices('#').find(|(at, _)| line[..*at].ends_with([' ', '\t']));
        return Ok(line[..comment.map_or(line.len(), |(at, _)| at)].trim().to_owned());
    };
    let opened = line.len() - start.len() + 1;
    let (value, closed) = parse_quoted(&text[opened..], quote).ok_or("its quote is not closed")?;
    let closed = opened + closed;
    let behind = text[closed..].lines().next().unwrap_or_default();
    let is_comment = behind.trim().is_empty() || behind.trim_start().starts_with('#');
    if !is_comment {
        return Err("text follows the closing quote");
    }
    // The value began on the line that is taken already.
    let spanned = text[..closed].matches('\n').count();
    let first = text.find('\n').map_or(text.len(), |end| end + 1);
    let last = text[closed..].find('\n').map_or(text.len(), |end| closed + end + 1);
    if spanned > 0 {
        *taken += last - first;
    }
    Ok(value)
}

/// What precedes the closing quote, with escapes resolved, and the position after the quote.
fn parse_quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if character == quote {
            return Some((value, at + 1));
        }
        let escaped = match (character, characters.peek().map(|(_, next)| *next)) {
            ('\\', Some('\'')) if quote == '\'' => Some('\''),
            ('\\', Some('n')) if quote == '"' => Some('\n'),
            ('\\', Some('r')) if quote == '"' => Some('\r'),
            ('\\', Some('t')) if quote == '"' => Some('\t'),
            ('\\', Some(next @ ('"' | '\\' | '$'))) if quote == '"' => Some(next),
            _ => None,
        };
        value.push(escaped.unwrap_or(character));
        if escaped.is_some() {
            characters.next();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_value(text: &str, expected: Result<&str, &str>) {
        let variables = parse(text.as_bytes());
        let value = variables.get("X").unwrap_or_else(|| panic!("{text:?} has no X: {variables:?}"));
        assert_eq!(value.as_deref().map_err(|wrong| wrong.why), expected, "{text:?}");
    }

    #[test]
    fn values_are_what_they_look_like() {
        for (text, expected) in [
            ("X=1", "1"),
            ("\u{feff}X=1", "1"),
            ("export X=1\r\n", "1"),
            ("  X = a b  \n", "a b"),
            ("X=", ""),
            ("X= # a comment", ""),
            ("X=#a", "#a"),
            ("X=a#b # a comment", "a#b"),
            ("X=pa$word1", "pa$word1"),
            ("X=${HOME}$$\\n", "${HOME}$$\\n"),
            ("X=it's", "it's"),
            ("X=a=b", "a=b"),
            ("X='a # b'  # a comment", "a # b"),
            ("X='a$b\\n\"c\"'", "a$b\\n\"c\""),
            (r"X='it\'s'", "it's"),
            (r#"X="a\"b\\c\n$d\$e\f""#, "a\"b\\c\n$d$e\\f"),
            ("X=\"a\nb\"\nY=1", "a\nb"),
            ("X=1\nX=2", "2"),
        ] {
            assert_value(text, Ok(expected));
        }
    }

    #[test]
    fn what_is_wrong_is_said_of_its_name_alone() {
        assert_value("X", Err("expected `=` behind the name"));
        assert_value("X: 1", Err("expected `=` behind the name"));
        assert_value("X 1", Err("expected `=` behind the name"));
        assert_value("X='a", Err("its quote is not closed"));
        assert_value("X=\"a\nY=b", Err("its quote is not closed"));
        assert_value("X='a'b", Err("text follows the closing quote"));
        assert_eq!(parse(b"X=\xff")["X"], Err(Wrong { line: 1, why: "it is not UTF-8" }));
        assert_eq!(parse(b"Y=\xff\nX=1")["X"], Ok("1".to_owned()));
    }

    #[test]
    fn lines_of_others_hide_nothing() {
        for others in [
            "GREETING=hello world",
            "FOO",
            "it's",
            "# it's a comment",
            "= 1",
            "CERTIFICATE=\"-----BEGIN\nX=no\n-----END\"",
            "UNCLOSED='tis",
            "JSON={\"a\": \"b\"}",
            "\"quoted\": 1",
            "X{\"a\": 1}",
        ] {
            assert_eq!(parse(others.as_bytes()).get("X"), None, "{others}");
            assert_eq!(parse(format!("X=1\n{others}").as_bytes())["X"], Ok("1".to_owned()), "{others}");
            let text = format!("{others}\nX=1\nY='2'\nZ='\n");
            let variables = parse(text.as_bytes());
            assert_eq!(variables["X"], Ok("1".to_owned()), "{others}");
            assert_eq!(variables["Y"], Ok("2".to_owned()), "{others}");
            let line = text.lines().count();
            assert_eq!(variables["Z"], Err(Wrong { line, why: "its quote is not closed" }), "{others}");
        }
    }
}

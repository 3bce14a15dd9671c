//! Makes text from events harmless where it is shown.

use std::fmt::Write;

use minijinja::{Output, State, Value};

use super::part::Part;
use crate::core::text::{excerpt, is_unsafe, printable};

/// Escapes control characters. Line breaks stay, except in a subject.
pub fn clean(text: &str, limit: usize, part: Part) -> String {
    if part == Part::Subject {
        return excerpt(text, limit);
    }
    let mut cleaned = String::new();
    for (position, character) in text.chars().enumerate() {
        if position == limit {
            let _ = write!(cleaned, "… ({} bytes in all)", text.len());
            break;
        }
        match character {
            '\n' | '\t' => cleaned.push(character),
            _ if is_unsafe(character) => cleaned.push_str(&printable(character.encode_utf8(&mut [0; 4]))),
            _ => cleaned.push(character),
        }
    }
    cleaned
}

/// Cuts a text to the limit of its part, but no escape sequence in half.
pub fn shortened(text: String, part: Part) -> String {
    let text = if part == Part::Subject { text.replace(is_unsafe, " ") } else { text };
    let text = text.trim_end();
    let Some((end, _)) = text.char_indices().nth(part.limit()) else { return text.to_owned() };
    let mut kept = &text[..end];
    if part == Part::Slack
        && let Some(entity) = kept.rfind('&').filter(|at| !kept[*at..].contains(';'))
    {
        kept = &kept[..entity];
    }
    format!("{}…", kept.trim_end_matches('\\'))
}

/// A formatter that escapes values unless they are marked safe.
pub fn write_escaped(
    out: &mut Output<'_>,
    _: &State<'_, '_>,
    value: &Value,
    escape: fn(&str) -> String,
) -> Result<(), minijinja::Error> {
    let text = value.to_string();
    let text = if value.is_safe() { text } else { escape(&text) };
    out.write_str(&text).map_err(minijinja::Error::from)
}

/// Source: Slack, "Formatting text for app surfaces": escaping these three disables mentions and links. HTML needs the
/// same.
pub fn escape_for_slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Source: Google Chat, "Format messages": mentions and links are in angle brackets. A zero-width space disables them.
pub fn escape_for_google_chat(text: &str) -> String {
    text.replace('<', "<\u{200b}")
}

/// A backslash before every character of Markdown or a mention, for Discord and Mattermost.
pub fn escape_for_markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_punctuation()
            && !matches!(character, '.' | ',' | ';' | '"' | '\'' | '/' | '?' | '%')
        {
            escaped.push('\\');
        }
        escaped.push(character);
        // A zero-width space, so that `@everyone` mentions nobody.
        if character == '@' {
            escaped.push('\u{200b}');
        }
    }
    escaped
}

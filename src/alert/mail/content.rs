//! The mail of an alert.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message as Mail};

use super::super::delivery::message_id;
use super::super::render::{Part, Templates};
use crate::store::outbox::Message;

/// The bytes in an encoded word. With `Subject: ` before it, it fits into a line of 76 characters (RFC 2047).
const WORD_BYTES: usize = 39;

pub fn mail(
    from: &Mailbox,
    to: &Address,
    message: &Message,
    template: Option<&str>,
    templates: &Templates,
) -> Result<Mail, lettre::error::Error> {
    let render = |part| templates.render(&message.events, template, part);
    // The library would insert each carriage return by itself, which is quadratic.
    let part = |kind, text: String| SinglePart::builder().header(kind).body(text.replace('\n', "\r\n"));
    let subject = render(Part::Subject);
    let mut mail = Mail::builder()
        .message_id(Some(format!("<{}@{}>", message_id(message), from.email.domain())))
        .from(from.clone())
        .to(to.clone().into())
        .subject(subject.clone())
        .multipart(
            MultiPart::alternative()
                .singlepart(part(ContentType::TEXT_PLAIN, render(Part::Text)))
                .singlepart(part(ContentType::TEXT_HTML, render(Part::Html))),
        )?;
    // The library loses spaces between encoded words. It does not encode text that merely looks like an encoded word,
    // which readers would decode, line breaks included.
    if !subject.is_ascii() || subject.contains("=?") {
        let name = HeaderName::new_from_ascii_str("Subject");
        let encoded = encoded_words(&subject);
        mail.headers_mut().insert_raw(HeaderValue::dangerous_new_pre_encoded(name, subject, encoded));
    }
    // RFC 3834: no automatic replies.
    let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
    mail.headers_mut().insert_raw(HeaderValue::new(automatic, "auto-generated".to_owned()));
    Ok(mail)
}

/// Text as encoded words (RFC 2047), one in a line.
fn encoded_words(text: &str) -> String {
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        // A word must not split a character.
        let ends = rest.char_indices().map(|(at, character)| at + character.len_utf8());
        let end = ends.take_while(|end| *end <= WORD_BYTES).last().unwrap_or(rest.len());
        let (word, following) = rest.split_at(end);
        words.push(format!("=?utf-8?b?{}?=", STANDARD.encode(word)));
        rest = following;
    }
    words.join("\r\n ")
}

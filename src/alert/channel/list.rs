//! Lists of channels.

use std::str::FromStr;

use super::{Channel, is_scheme};

/// A list of channels, separated by commas or spaces. Each mailbox is a channel of its own, so a refused one does not
/// affect the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Channels(pub Vec<Channel>);

impl FromStr for Channels {
    type Err = String;

    fn from_str(text: &str) -> Result<Channels, String> {
        // An object of the config file.
        if text.starts_with('{') {
            return Ok(Channels(vec![text.parse()?]));
        }
        items_of(text).iter().map(|item| item.parse()).collect::<Result<_, _>>().map(Channels)
    }
}

/// The items of a list. `mailto:` holds for all addresses up to the next scheme, and a comma in a URL is part of it.
fn items_of(list: &str) -> Vec<String> {
    let list = list.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    let mut items: Vec<String> = Vec::new();
    for word in list.split_whitespace() {
        for (index, piece) in word.split(',').enumerate() {
            let begins = piece.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme));
            match items.last_mut() {
                Some(last) if !begins && last.starts_with("mailto:") => items.push(format!("mailto:{piece}")),
                Some(last) if !begins && index > 0 => *last += &format!(",{piece}"),
                _ => items.push(piece.to_owned()),
            }
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let channels: Channels = text.parse().unwrap();
        channels.0.iter().map(Channel::to_string).collect()
    }

    #[test]
    fn channels_are_separated_by_commas_or_spaces() {
        let mails = ["mailto:a@example.com", "mailto:b@example.com"];
        for text in [
            "mailto:a@example.com,b@example.com",
            "mailto:a@example.com b@example.com",
            "mailto:a@example.com, b@example.com",
            " mailto:a@example.com,mailto:b@example.com ",
            "mailto:a@example.com\nmailto:b@example.com",
        ] {
            assert_eq!(names(text), mails, "{text}");
        }
        for text in ["https://h/a,b,mailto:a@example.com", "https://h/a,b mailto:a@example.com"] {
            assert_eq!(names(text), [&names("https://h/a,b")[0], "mailto:a@example.com"], "{text}");
        }
        assert_ne!(names("https://h/a,b"), names("https://h/a"));
    }
}

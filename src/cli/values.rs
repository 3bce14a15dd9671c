//! Parsers of values that several settings share.

use std::str::FromStr;

/// Items separated by spaces, between the commas at which the parser splits: in one variable a list may have either.
#[derive(Debug, Clone)]
pub(super) struct Items<T>(pub(super) Vec<T>);

impl<T: FromStr> FromStr for Items<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Items<T>, T::Err> {
        // The type refuses an empty item.
        let words = text.split_whitespace().chain(text.trim().is_empty().then_some(""));
        words.map(str::parse).collect::<Result<_, _>>().map(Items)
    }
}

pub(super) fn flatten<T>(lists: Vec<Items<T>>) -> Vec<T> {
    lists.into_iter().flat_map(|items| items.0).collect()
}

pub(super) fn parse_port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "expected a port from 0 to 65535".to_owned())
}

pub(super) fn parse_count(text: &str) -> Result<usize, String> {
    let count: Option<usize> = text.parse().ok();
    // The maximum of tokio's semaphores.
    let fits = count.filter(|count| (1..=usize::MAX >> 3).contains(count));
    fits.ok_or_else(|| "expected a number of 1 or more".to_owned())
}

/// Whether a flag without a value is set, in the environment and in files.
pub(super) fn parse_switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("expected true or false, yes or no, 1 or 0".to_owned()),
    }
}

/// A name is part of every token, and a token must fit into the request headers.
pub(super) fn parse_username(text: &str) -> Result<String, String> {
    let fits = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err("expected a name of 1 to 255 bytes".to_owned()) }
}

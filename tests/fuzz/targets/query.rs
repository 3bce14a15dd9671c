//! The query string of `GET /event`: what is taken means what it says, and globs match as documented.
//!
//! The input is a query string and a pattern at once, with an event type to match behind a line break.

#![no_main]

use eventctl::testing::Glob;
use eventctl::testing::{Query, parse_page_query};
use eventctl_fuzz::assert_presentable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (text, event_type) = text.split_once('\n').unwrap_or((text, ""));
    match parse_page_query(text) {
        Ok(query) => {
            assert_says_what_was_asked(&query, text);
            assert_reads_back(&query);
        }
        Err(message) => assert_presentable(&message),
    }
    assert_matches_as_documented(text, event_type);
    // A random type seldom matches: the characters of a short pattern have a better chance.
    if text.len() <= 16 {
        text.chars().for_each(|character| assert_matches_as_documented(text, &character.to_string()));
    }
});

fn assert_says_what_was_asked(query: &Query, text: &str) {
    assert!((1..=1000).contains(&query.limit));
    let parameters: Vec<_> = form_urlencoded::parse(text.as_bytes()).collect();
    for (position, (name, value)) in parameters.iter().enumerate() {
        assert!(parameters[..position].iter().all(|(earlier, _)| earlier != name));
        match name.as_ref() {
            "after" => assert_eq!(value.parse().ok(), query.after),
            "before" => assert_eq!(value.parse().ok(), query.before),
            "limit" => assert_eq!(value.parse(), Ok(query.limit)),
            "type" => assert!(query.types.pattern.is_some() || value.bytes().all(|byte| byte == b'*')),
            "since" => assert!(query.since.is_some()),
            "until" => assert!(query.until.is_some()),
            _ => panic!("`{name}` was taken"),
        }
    }
}

/// The query written down again is the same query.
fn assert_reads_back(query: &Query) {
    let mut written = form_urlencoded::Serializer::new(format!("limit={}", query.limit));
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            written.append_pair(name, &value);
        }
    };
    add("after", query.after.map(|id| id.to_string()));
    add("before", query.before.map(|id| id.to_string()));
    add("type", query.types.pattern.as_ref().map(Glob::to_string));
    add("since", query.since.map(|timestamp| timestamp.to_string()));
    add("until", query.until.map(|timestamp| timestamp.to_string()));
    let read = parse_page_query(&written.finish()).expect("what was taken once is taken again");
    assert_eq!(format!("{read:?}"), format!("{query:?}"));
}

/// A glob must do what the documentation says of the pattern as it was typed.
fn assert_matches_as_documented(pattern: &str, event_type: &str) {
    let Ok(glob) = pattern.parse::<Glob>() else { return };
    assert!(!pattern.contains('\0'));
    let matched = glob.matches(event_type);
    let pattern_characters: Vec<char> = pattern.chars().collect();
    let characters: Vec<char> = event_type.chars().collect();
    assert_eq!(matched, matches(&pattern_characters, &characters), "`{event_type}` against `{pattern}`");
    if glob.is_literal() {
        assert_eq!(matched, event_type == glob.as_str());
    }
}

/// Matches by a table: `matched[n]` says whether the pattern so far matches the first n characters.
fn matches(pattern: &[char], text: &[char]) -> bool {
    let mut matched: Vec<bool> = (0..=text.len()).map(|length| length == 0).collect();
    let mut rest = pattern;
    while let Some((first, after)) = rest.split_first() {
        if *first == '*' {
            for length in 1..=text.len() {
                matched[length] |= matched[length - 1];
            }
            rest = after;
            continue;
        }
        let (takes, after): (Box<dyn Fn(char) -> bool>, &[char]) = match first {
            '?' => (Box::new(|_| true), after),
            '[' => set(after),
            literal => (Box::new(move |character| character == *literal), after),
        };
        for length in (1..=text.len()).rev() {
            matched[length] = matched[length - 1] && takes(text[length - 1]);
        }
        matched[0] = false;
        rest = after;
    }
    matched[text.len()]
}

/// The set behind a `[`, and what follows it.
fn set(pattern: &[char]) -> (Box<dyn Fn(char) -> bool>, &[char]) {
    let negated = matches!(pattern.first(), Some('!' | '^'));
    let pattern = &pattern[usize::from(negated)..];
    let first = usize::from(pattern.first() == Some(&']'));
    let close = first + pattern[first..].iter().position(|character| *character == ']').expect("sets close");
    let (members, after) = (pattern[..close].to_vec(), &pattern[close + 1..]);
    let contains = move |character: char| {
        let mut rest = members.as_slice();
        // A `]` that comes first stands for itself, and no range begins with it.
        if let Some((&']', after)) = rest.split_first() {
            if character == ']' {
                return !negated;
            }
            rest = after;
        }
        loop {
            let (found, after) = match rest {
                // Of a range that runs backwards there is the first end.
                [low, '-', high, after @ ..] => {
                    ((*low..=*high).contains(&character) || character == *low, after)
                }
                [member, after @ ..] => (*member == character, after),
                [] => return negated,
            };
            if found {
                return !negated;
            }
            rest = after;
        }
    };
    (Box::new(contains), after)
}

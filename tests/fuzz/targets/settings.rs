//! The values of settings: those that are taken mean what they say, and a refusal repeats no password.

#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::time::{Duration, Instant};

use eventctl::testing::{ByteSize, Endpoint, Header, Lines};
use eventctl::testing::retry_after;
use eventctl::testing::Glob;
use eventctl::testing::{Timestamp, parse_duration, parse_positive_duration};
use eventctl::testing::StoreLocation;
use eventctl_fuzz::assert_presentable;
use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use libfuzzer_sys::fuzz_target;

const PASSWORD: &str = "Tr0ub4dor";

fuzz_target!(|text: &str| {
    assert_size(text);
    assert_duration(text);
    assert_timestamp(text);
    assert_endpoint(text);
    assert_location(text);
    assert_header(text);
    assert_wait(text);
    let _ = read::<Lines>(text);
    let _ = read::<Glob>(text);
    assert_no_password(text);
});

fn read<T: FromStr<Err: Display>>(text: &str) -> Option<T> {
    text.parse().map_err(|error: T::Err| assert_presentable(&error.to_string())).ok()
}

fn assert_size(text: &str) {
    let Some(ByteSize(bytes)) = read(text) else { return };
    let end_of_number = text.find(['K', 'M', 'G']).unwrap_or(text.len());
    let number: u128 = text[..end_of_number].trim().parse().expect("a size begins with a number");
    let shift = match &text[end_of_number..] {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        unit => panic!("`{unit}` was taken"),
    };
    assert_eq!(number << shift, bytes as u128);
    assert!(bytes > 0);
}

fn assert_duration(text: &str) {
    let duration = parse_duration(text);
    let positive = duration.clone().ok().filter(|duration| *duration > Duration::ZERO);
    assert_eq!(parse_positive_duration(text).ok(), positive);
    match duration {
        Ok(duration) => {
            let written = humantime::format_duration(duration).to_string();
            assert_eq!(parse_duration(&written), Ok(duration), "{written}");
            // Deadlines are reckoned from now.
            assert!(Instant::now().checked_add(duration).is_some(), "{duration:?}");
        }
        Err(message) => assert_presentable(&message),
    }
}

/// What a receiver asks for is a time in seconds or a date, and never for long.
fn assert_wait(text: &str) {
    let Ok(value) = HeaderValue::from_str(text) else { return };
    let wait = retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]));
    assert!(wait.is_none_or(|wait| wait <= Duration::from_secs(3600)), "{wait:?}");
    if let Ok(seconds) = text.parse() {
        assert_eq!(wait, Some(Duration::from_secs(seconds).min(Duration::from_secs(3600))));
    }
}

fn assert_timestamp(text: &str) {
    let Some(timestamp) = read::<Timestamp>(text) else { return };
    assert_eq!(timestamp.to_string().parse(), Ok(timestamp));
}

fn assert_endpoint(text: &str) {
    let Some(endpoint) = read::<Endpoint>(text) else { return };
    assert!(endpoint.0.host().is_some_and(|host| !host.is_empty()));
    assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
}

fn assert_location(text: &str) {
    let Some(StoreLocation::Sqlite(path)) = read(text) else { return };
    assert!(text.ends_with(path.to_str().expect("a part of a text is a text")));
    assert!(!path.as_os_str().is_empty());
}

fn assert_header(text: &str) {
    let Some(header) = read::<Header>(text) else { return };
    assert_eq!(format!("{header:?}"), format!("{}: [not shown]", header.name));
    let (name, value) = text.split_once(':').expect("a header has a colon");
    assert!(header.name.as_str().eq_ignore_ascii_case(name.trim()));
    assert_eq!(header.value.as_bytes(), value.trim().as_bytes());
}

/// The text, cut at its first two line breaks, is what stands around a password in a URL.
fn assert_no_password(text: &str) {
    let mut pieces = text.splitn(3, '\n');
    let [scheme, user, host] = [(); 3].map(|()| pieces.next().unwrap_or_default());
    let url = format!("{scheme}://{user}:{PASSWORD}@{host}");
    fn assert_silent<T: FromStr<Err: Display> + Debug>(url: &str) {
        if let Err(error) = url.parse::<T>() {
            let message = error.to_string();
            assert!(!message.contains(PASSWORD), "{message}");
        }
    }
    assert_silent::<Endpoint>(&url);
    assert_silent::<StoreLocation>(&url);
    assert_silent::<Timestamp>(&url);
    assert_silent::<ByteSize>(&url);
    assert_silent::<Header>(&format!("Authorization {url}"));
}

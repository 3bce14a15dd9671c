//! W3C Trace Context.

use std::fmt;

/// A `traceparent`: the trace of a request, and the span that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

impl TraceParent {
    /// Reads a header value strictly.
    ///
    /// Source: Trace Context, section 3.2: lower-case digits, no id of zeros, no version ff. What a later version adds after
    /// another dash is ignored.
    pub fn parse(text: &str) -> Option<TraceParent> {
        const LENGTH: usize = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".len();
        let (known, added) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            u128::from_str_radix(part, 16).ok().filter(|_| part.bytes().all(is_digit))
        };
        let (version, trace_id, parent_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let fits = match version {
            0 => added.is_empty(),
            0xff => false,
            _ => added.is_empty() || added.starts_with('-'),
        };
        if !fits || trace_id == 0 || parent_id == 0 {
            return None;
        }
        Some(TraceParent { trace_id, parent_id: parent_id as u64, flags: flags as u8 })
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// 16 hexadecimal digits.
    pub fn parent_id(self) -> String {
        format!("{:016x}", self.parent_id)
    }

    /// A new span of the same trace. Flags other than "sampled" and "random" are not propagated.
    pub fn child(self) -> TraceParent {
        TraceParent { parent_id: fastrand::u64(1..), flags: self.flags & 0b11, ..self }
    }
}

/// The header value, version 00.
impl fmt::Display for TraceParent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

/// Whether a text is a valid `tracestate`, which can be propagated unchanged.
///
/// Source: Trace Context, section 3.3: up to 32 members `key=value` with commas between; a member may be empty.
pub fn is_trace_state(text: &str) -> bool {
    let members = || text.split(',').map(|member| member.trim_matches([' ', '\t']));
    let mut keys: Vec<&str> = members().filter_map(|member| Some(member.split_once('=')?.0)).collect();
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    let valid = |member: &str| {
        member.is_empty() || member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value))
    };
    (1..=32).contains(&count) && keys.len() == count && members().all(valid)
}

fn is_key(key: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let follows = |byte: u8| alphanumeric(byte) || b"_-*/@".contains(&byte);
    key.len() <= 256 && key.bytes().next().is_some_and(alphanumeric) && key.bytes().all(follows)
}

fn is_value(value: &str) -> bool {
    let allowed = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
    (1..=256).contains(&value.len()) && value.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    #[test]
    fn valid_headers_are_read() {
        for text in [
            format!("00-{TRACE}-{PARENT}-01"),
            format!("01-{TRACE}-{PARENT}-01"),
            format!("fe-{TRACE}-{PARENT}-01-and-more"),
        ] {
            let parent = TraceParent::parse(&text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((parent.trace_id().as_str(), parent.parent_id().as_str()), (TRACE, PARENT));
            assert_eq!(parent.to_string(), format!("00-{TRACE}-{PARENT}-01"));
        }
    }

    #[test]
    fn all_others_are_not() {
        let zeros = "0".repeat(32);
        for text in [
            String::new(),
            format!("00-{TRACE}-{PARENT}"),
            format!("00-{TRACE}-{PARENT}-0"),
            format!("00-{TRACE}-{PARENT}-01-"),
            format!("00-{TRACE}-{PARENT}-01 "),
            format!(" 00-{TRACE}-{PARENT}-01"),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("0g-{TRACE}-{PARENT}-01"),
            format!("01-{TRACE}-{PARENT}-01x"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", PARENT.to_uppercase()),
            format!("00-{zeros}-{PARENT}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-+{}-{PARENT}-01", &TRACE[1..]),
            format!("00_{TRACE}_{PARENT}_01"),
            format!("00-{TRACE}{PARENT}--01"),
            "é".repeat(55),
            "a".repeat(54) + "é",
        ] {
            assert_eq!(TraceParent::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn a_child_is_a_new_span_of_the_same_trace() {
        let parent = TraceParent::parse(&format!("01-{TRACE}-{PARENT}-ff")).unwrap();
        let (child, other) = (parent.child(), parent.child());
        assert_eq!(child.trace_id(), TRACE);
        assert!(child.parent_id() != PARENT && child.parent_id() != other.parent_id());
        assert!(child.to_string().ends_with("-03"), "{child}");
        assert_eq!(TraceParent::parse(&child.to_string()), Some(child));
    }

    #[test]
    fn trace_states_are_lists_of_members() {
        let many =
            |count: usize| (0..count).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
        for right in ["a=1", "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE", "0t@v=a b", "a=1,,b=2,", &many(32)] {
            assert!(is_trace_state(right), "{right}");
        }
        for wrong in
            ["", ",", "a", "=1", "a=", "A=1", "a=b=c", "a=é", "a=\n", "a=1,b", "a=1,a=2", "_a=1", &many(33)]
        {
            assert!(!is_trace_state(wrong), "{wrong}");
        }
    }
}

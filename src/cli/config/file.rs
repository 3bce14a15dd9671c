//! The config file: YAML, whose scalars are taken as they are written.

use std::collections::BTreeMap;
use std::env;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;
use serde_saphyr::{Location, NonFiniteFloatPolicy, Spanned, UserMessageFormatter};

use super::dotenv::Dotenv;
use super::redact::redacted_name;
use crate::core::text::{str_without_byte_order_mark, without_line_end};
use crate::error::hinted;

/// Values by section and key.
pub(super) type Sections = BTreeMap<String, BTreeMap<String, Value>>;

/// # Errors
/// What is wrong and where, without the advice that the library has for programmers.
pub(super) fn parse(text: &str) -> Result<Sections, String> {
    let text = str_without_byte_order_mark(text);
    let options = serde_saphyr::options! { non_finite_float_policy: NonFiniteFloatPolicy::PassThrough };
    type Parsed = Option<BTreeMap<String, Option<BTreeMap<String, Spanned<Node>>>>>;
    let sections: Parsed = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let problem = error.render_with_formatter(&UserMessageFormatter);
        problem.trim_start_matches("error: ").lines().next().unwrap_or_default().to_owned()
    })?;
    let values = |keys: BTreeMap<String, Spanned<Node>>| {
        keys.into_iter().map(|(key, node)| (key, Value::of(node, text))).collect()
    };
    let sections = sections.unwrap_or_default().into_iter();
    Ok(sections.map(|(section, keys)| (section, keys.map(values).unwrap_or_default())).collect())
}

/// The value of a key: a scalar as it would follow the flag, a list, or an object, which would follow the flag as JSON.
pub(super) enum Value {
    Scalar(String),
    List(Vec<Value>),
    Object(BTreeMap<String, Value>),
}

impl Value {
    fn of(node: Spanned<Node>, text: &str) -> Value {
        match node.value {
            Node::Text(text) => Value::Scalar(text),
            Node::Typed => Value::Scalar(written(text, node.defined)),
            Node::List(items) => Value::List(items.into_iter().map(|item| Value::of(item, text)).collect()),
            Node::Object(members) => {
                let members = members.into_iter().map(|(name, member)| (name, Value::of(member, text)));
                Value::Object(members.collect())
            }
        }
    }

    /// Whether it consists only of variables.
    pub(super) fn is_references(&self) -> bool {
        match self {
            Value::Scalar(text) => is_reference(text),
            Value::List(items) => items.iter().all(Value::is_references),
            Value::Object(members) => members.values().all(Value::is_references),
        }
    }

    /// The values of the flag: several for a list, none if everything in it is empty.
    pub(super) fn into_values(self, dotenv: &Dotenv) -> anyhow::Result<Vec<String>> {
        let items = match self {
            Value::List(items) => items,
            single => vec![single],
        };
        let mut values = Vec::new();
        for item in items {
            match item.into_json(dotenv)? {
                Some(Json::String(text)) => values.push(text),
                Some(json) => values.push(json.to_string()),
                None => {}
            }
        }
        Ok(values)
    }

    /// `None` if it is empty.
    fn into_json(self, dotenv: &Dotenv) -> anyhow::Result<Option<Json>> {
        Ok(match self {
            Value::Scalar(text) => {
                let text = interpolate(&text, dotenv)?;
                (!text.is_empty()).then_some(Json::String(text))
            }
            Value::List(items) => {
                let items = items.into_iter().filter_map(|item| item.into_json(dotenv).transpose());
                let items: Vec<Json> = items.collect::<anyhow::Result<_>>()?;
                (!items.is_empty()).then_some(Json::Array(items))
            }
            Value::Object(members) => {
                let member = |(name, value): (String, Value)| {
                    Some(value.into_json(dotenv).transpose()?.map(|value| (name, value)))
                };
                let members: serde_json::Map<String, Json> =
                    members.into_iter().filter_map(member).collect::<anyhow::Result<_>>()?;
                (!members.is_empty()).then_some(Json::Object(members))
            }
        })
    }
}

/// A node of the file. The text of a scalar that is not a string to YAML is looked up in the file afterwards.
enum Node {
    Text(String),
    /// A number, a boolean, a date, or nothing.
    Typed,
    List(Vec<Spanned<Node>>),
    Object(BTreeMap<String, Spanned<Node>>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value or a list of values")
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Typed)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Typed)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Typed)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Typed)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Typed)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Typed)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Typed)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = items.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut nodes = BTreeMap::new();
        while let Some((name, node)) = members.next_entry()? {
            nodes.insert(name, node);
        }
        Ok(Node::Object(nodes))
    }
}

/// A scalar as it stands in the file, without a tag such as `!!int`.
fn written(text: &str, at: Location) -> String {
    let range = at.span().byte_offset().zip(at.span().byte_len()).and_then(|(offset, length)| {
        let start = usize::try_from(offset).ok()?;
        Some(start..start.checked_add(usize::try_from(length).ok()?)?)
    });
    let written = range.and_then(|range| text.get(range)).unwrap_or_default();
    written.trim().to_owned()
}

/// Whether a value is only a variable, `${NAME}`, and so no secret itself.
fn is_reference(value: &str) -> bool {
    let name = value.strip_prefix("${").and_then(|value| value.strip_suffix('}'));
    name.is_some_and(|name| name.chars().all(|character| character.is_alphanumeric() || character == '_'))
}

/// Replaces `${NAME}` and `${NAME:-default}` by what the environment or `.env` has; `$$` is a `$`.
fn interpolate(text: &str, dotenv: &Dotenv) -> anyhow::Result<String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let Some((name, after)) = after.strip_prefix('{').and_then(|after| after.split_once('}')) else {
            result.push('$');
            rest = after;
            continue;
        };
        let (name, default) = match name.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (name, None),
        };
        let value = match env::var(name).ok().filter(|value| !value.is_empty()) {
            Some(value) => Some(without_line_end(&value).to_owned()),
            None => dotenv.get(name)?.map(str::to_owned),
        };
        match (value, default) {
            (Some(value), _) => result.push_str(&value),
            (None, Some(default)) => result.push_str(default),
            (None, None) => {
                let name = redacted_name(name);
                let problem = format!("the environment variable `{name}` is not set");
                return Err(hinted(problem, format!("set it, or give a default: ${{{name}:-default}}")));
            }
        }
        rest = after;
    }
    Ok(result + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of `key` in `section`.
    fn values(text: &str) -> Vec<String> {
        let value = parse(text).unwrap().remove("section").unwrap().remove("key").unwrap();
        value.into_values(&Dotenv::default()).unwrap()
    }

    #[test]
    fn scalars_are_the_text_of_the_file() {
        for scalar in [
            "0123456789",
            "1.10",
            "1e3",
            "yes",
            "No",
            "on",
            "y",
            "true",
            "TRUE",
            "~",
            "null",
            "Null",
            "0x1F",
            "0o17",
            "017",
            "1_000",
            "+5",
            "-0",
            "-017",
            ".inf",
            "-.INF",
            ".nan",
            "1e999",
            "99999999999999999999999",
            "2026-01-15",
            "2026-01-15 12:00:00",
            "2026-01-15T12:00:00Z",
            "12:30:45",
            "5s",
            "a b",
            "ä 1",
            "340282366920938463463374607431768211456",
            "1.",
            ".5",
            "=",
            "<<",
        ] {
            for text in [
                format!("section:\n  key: {scalar}\n"),
                format!("section:\n  key: {scalar}  # a comment\n"),
                format!("\u{feff}ä: {{}}\nsection: {{key: {scalar}}}"),
                format!("section:\n  key: '{scalar}'\n"),
                format!("section:\n  key: [{scalar}]\n"),
                format!("a: {{b: &x {scalar}}}\nsection:\n  key: *x\n"),
                format!("section:\r\n  key:    {scalar}\r\n  other: 1\r\n"),
            ] {
                assert_eq!(values(&text), [scalar], "{text}");
            }
        }
        assert_eq!(values("section:\n  key: !!float 1.10\n"), ["1.10"]);
        assert_eq!(values("section:\n  key: !!str 007\n"), ["007"]);
        assert_eq!(values("base: &b {key: 1.10}\nsection:\n  <<: *b\n"), ["1.10"]);
        assert_eq!(
            values("section:\n  key: {a: 1.10, b: [yes, 007]}\n"),
            [r#"{"a":"1.10","b":["yes","007"]}"#]
        );
    }

    #[test]
    fn empty_is_unset() {
        for empty in [
            "",
            "''",
            "\"\"",
            "${EVENTCTL_TEST_UNSET:-}",
            "[]",
            "['', \"\"]",
            "[[]]",
            "[{}]",
            "{}",
            "{a: ''}",
            "!!null",
        ] {
            assert_eq!(values(&format!("section:\n  key: {empty}\n")), [""; 0], "{empty}");
        }
        assert_eq!(values("section:\n  key: ['', a, {b: '', c: d}]\n"), ["a", r#"{"c":"d"}"#]);
        assert!(parse("").unwrap().is_empty());
        assert!(parse("# a comment\n").unwrap().is_empty());
        assert!(parse("section:\n").unwrap()["section"].is_empty());
    }

    #[test]
    fn variables_are_interpolated() {
        for (text, expected) in
            [("${EVENTCTL_TEST_UNSET:-x:-y}", "x:-y"), ("$$5 and $5 and ${", "$5 and $5 and ${")]
        {
            assert_eq!(interpolate(text, &Dotenv::default()).unwrap(), expected);
        }
        let error = interpolate("${EVENTCTL_TEST_UNSET}", &Dotenv::default()).unwrap_err();
        assert!(error.to_string().contains("EVENTCTL_TEST_UNSET"));
        // A value in the place of a name may be a secret.
        let error = interpolate("${postgres://user:secret@host/events}", &Dotenv::default()).unwrap_err();
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }

    #[test]
    fn a_reference_holds_no_secret() {
        assert!(is_reference("${PASSWORD_2}"));
        for literal in
            ["secret", "${NAME:-secret}", "a${NAME}", "${NAME}a", "${A}b${C}", "$${NAME}", "pa$$${X}"]
        {
            assert!(!is_reference(literal), "{literal}");
        }
    }
}

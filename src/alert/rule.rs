//! Rules: which events alert which channels (`--alert-on`).

use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;

use super::channel::{Channel, Channels};
use crate::core::glob::Glob;

/// Sends events of matching types to channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub event_type: Glob,
    /// `None` for all channels.
    pub channels: Option<Vec<Channel>>,
    /// `None` for the template of the event's type.
    pub template: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleObject {
    #[serde(rename = "type")]
    event_type: String,
    alert: Option<OneOrMore<Value>>,
    template: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    More(Vec<T>),
    One(T),
}

/// Parses a pattern, or an object `{"type": "order_*", "alert": ["slack:https://…"], "template": "orders"}`, of which
/// only `type` is required.
impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Rule, String> {
        if !text.starts_with('{') {
            return Ok(Rule { event_type: text.parse()?, channels: None, template: None });
        }
        // The library's message could contain a URL, which is a secret.
        let object: RuleObject = serde_json::from_str(text)
            .map_err(|_| "expected a pattern, or a rule of `type`, `alert` and `template`".to_owned())?;
        let urls = object.alert.map(|alert| match alert {
            OneOrMore::One(url) => vec![url],
            OneOrMore::More(urls) => urls,
        });
        let channels = urls.map(|urls| {
            let text = |url: &Value| url.as_str().map_or_else(|| url.to_string(), str::to_owned);
            let channels: Result<Vec<Channels>, String> = urls.iter().map(|url| text(url).parse()).collect();
            channels.map(|channels| channels.into_iter().flat_map(|channels| channels.0).collect())
        });
        Ok(Rule {
            event_type: object.event_type.parse()?,
            channels: channels.transpose()?,
            template: object.template,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_pattern_or_an_object() {
        let rule: Rule = "order_*".parse().unwrap();
        assert!(rule.event_type.matches("order_1") && rule.channels.is_none() && rule.template.is_none());
        let rule: Rule =
            r#"{"type": "a", "alert": "mailto:a@b.example,c@b.example", "template": "t"}"#.parse().unwrap();
        assert_eq!(rule.channels.unwrap().len(), 2);
        assert_eq!(rule.template.as_deref(), Some("t"));
        let rule: Rule = r#"{"type": "a", "alert": [{"to": "https://h/", "method": "PUT"}, "https://i/"]}"#
            .parse()
            .unwrap();
        assert_eq!(rule.channels.unwrap().len(), 2);
        for wrong in ["[", r#"{"alert": "mailto:a@b.example"}"#, r#"{"type": "a", "url": "s3cret"}"#, "{"] {
            let error = wrong.parse::<Rule>().unwrap_err();
            assert!(error.contains("expected") && !error.contains("s3cret"), "{error}");
        }
    }
}

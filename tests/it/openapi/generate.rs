//! Requests made up from the document: such that fit, such that nearly do, and such that HTTP does not allow.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fastrand::Rng;
use serde_json::{Map, Value};

use super::document::{DOCUMENT, Operation, escaped};
use super::values::{Values, with_escapes};
use super::wire::{Expectation, Framing, Request};

/// Values of `Accept`.
const ACCEPTED: [&str; 8] = [
    "*/*",
    "application/json",
    "application/x-ndjson",
    "application/x-ndjson;q=0",
    "text/html, */*;q=0.1",
    "",
    "Application/X-NDJSON; q=0.5",
    "nonsense",
];

/// No schema says which durations and globs there are, and that a body may be left out.
fn is_of_subscriptions(operation: &Operation) -> bool {
    operation.path.as_ref().is_some_and(|path| path.starts_with("/subscription"))
}

/// Makes up requests.
pub struct Generator {
    values: Values,
    /// What lets a request in, where anything is asked for.
    pub token: Option<String>,
    /// Name and password of HTTP Basic.
    pub basic: String,
}

impl Generator {
    pub fn new(random: Rng, token: Option<String>) -> Generator {
        let basic = format!("Basic {}", STANDARD.encode("ada:correct-horse-battery"));
        Generator { values: Values { random }, token, basic }
    }

    /// A request of an operation.
    pub fn request(&mut self, operation: &Operation) -> Request {
        let method = self.method(operation);
        let (target, target_fits) = self.target(operation);
        let mut request = Request::new(operation, &method, &target);
        let mut fits = target_fits;
        if let Some(path) = &operation.path
            && operation.method.is_some()
        {
            fits &= self.add_key(operation, &mut request);
            fits &= self.add_body(operation, &mut request);
            fits &= path != "/token" || request.headers.iter().all(|(name, _)| name != "Content-Encoding");
        }
        if self.values.one_in(3) {
            let accepted = self.values.choose(&ACCEPTED);
            request = request.header("Accept", accepted);
        }
        fits &= self.add_authorization(&mut request);
        fits &= self.spoil_head(&mut request);
        request.expectation = match operation.method {
            Some(_) if fits && !is_of_subscriptions(operation) => Expectation::Fits,
            // A hook that verifies nothing takes what no schema says.
            Some(_) if operation.path.as_deref() == Some("/hook/{name}") => Expectation::Anything,
            Some(_) if is_of_subscriptions(operation) => Expectation::Anything,
            _ => Expectation::DoesNotFit,
        };
        request
    }

    fn method(&mut self, operation: &Operation) -> String {
        if let Some(method) = &operation.method {
            return method.clone();
        }
        let listed = operation.path.as_ref().map_or_else(Vec::new, |path| DOCUMENT.methods_of(path));
        loop {
            let method = self
                .values
                .choose(&["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"]);
            if !listed.iter().any(|listed| listed == method) {
                return method.to_owned();
            }
        }
    }

    /// Path and query, and whether they fit.
    fn target(&mut self, operation: &Operation) -> (String, bool) {
        let Some(path) = &operation.path else {
            let other =
                ["/events", "//event", "/event/1/2", "/Health", "/health/x", "/%65vent", "/openapi.yaml"];
            return (self.values.choose(&other).to_owned(), false);
        };
        let mut path = path.clone();
        let mut query = form_urlencoded::Serializer::new(String::new());
        let (mut fits, mut named, mut has_query) = (true, Vec::new(), false);
        for (pointer, parameter) in DOCUMENT.parameters(operation) {
            let name = parameter["name"].as_str().unwrap();
            let value = self.parameter(&pointer, parameter);
            let value_fits = DOCUMENT.validate_text(&format!("{pointer}/schema"), &value).is_ok();
            match parameter["in"].as_str().unwrap() {
                "path" => {
                    let value: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
                    // Without a value it is another path.
                    let value = if value.is_empty() { "x".to_owned() } else { value };
                    path = path.replace(&format!("{{{name}}}"), &value);
                    fits &= value_fits;
                }
                "query" => {
                    has_query = true;
                    if self.values.one_in(3) {
                        query.append_pair(name, &value);
                        named.push((name.to_owned(), value));
                        // What no schema tells: the limit of a pattern is in bytes.
                        fits &= value_fits && named.last().is_some_and(|(_, value)| value.len() <= 1020);
                    }
                }
                _ => {}
            }
        }
        if self.values.one_in(20) {
            query.append_pair("unknown", "1");
            fits &= !has_query;
        }
        if let Some((name, value)) = named.first()
            && self.values.one_in(20)
        {
            query.append_pair(name, value);
            fits = false;
        }
        if self.values.one_in(10) && path != "/" {
            path.push('/');
        }
        let query = query.finish();
        (if query.is_empty() { path } else { format!("{path}?{query}") }, fits)
    }

    /// A value for a parameter, as text.
    fn parameter(&mut self, pointer: &str, parameter: &Value) -> String {
        let value = match parameter.get("example") {
            Some(example) if self.values.one_in(3) => example.clone(),
            _ => self.values.value(&format!("{pointer}/schema")),
        };
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    }

    fn add_key(&mut self, operation: &Operation, request: &mut Request) -> bool {
        let parameters = DOCUMENT.parameters(operation);
        let mut headers = parameters.iter().filter(|(_, parameter)| parameter["in"] == "header");
        let Some((pointer, parameter)) = headers.next().filter(|_| self.values.one_in(2)) else {
            return true;
        };
        let name = parameter["name"].as_str().unwrap();
        let value = self.parameter(pointer, parameter);
        // The rest cannot be sent in a header, or does not arrive as it is.
        if value.chars().any(char::is_control) || value.trim() != value {
            return true;
        }
        let twice = self.values.one_in(20);
        for _ in 0..=usize::from(twice) {
            request.headers.push((name.to_owned(), value.clone().into_bytes()));
        }
        !twice && DOCUMENT.validate_text(&format!("{pointer}/schema"), &value).is_ok()
    }

    fn add_body(&mut self, operation: &Operation, request: &mut Request) -> bool {
        let Some((pointer, described)) = DOCUMENT.follow(&format!("{}/requestBody", operation.pointer))
        else {
            // Nothing is made of it.
            if self.values.one_in(10) {
                request.body = b"{}".to_vec();
            }
            return true;
        };
        let types: Vec<&String> = described["content"].as_object().unwrap().keys().collect();
        let media_type = types[self.values.random.usize(..types.len())].clone();
        let pointer = format!("{pointer}/content/{}", escaped(&media_type));
        let (body, mut fits) = self.body(&pointer, &media_type);
        request.body = body;
        let named = match self.values.random.u32(..40) {
            0 => Some("text/plain"),
            1 => Some("application/json; charset=latin1"),
            _ => None,
        };
        if let Some(other) = named.filter(|_| media_type != "application/x-www-form-urlencoded") {
            fits = false;
            request.headers.push(("Content-Type".to_owned(), other.into()));
        } else if self.values.one_in(20) {
            fits = false;
        } else {
            request.headers.push(("Content-Type".to_owned(), media_type.into_bytes()));
        }
        if self.values.one_in(30) {
            request.headers.push(("Content-Encoding".to_owned(), b"gzip".to_vec()));
            fits = false;
        }
        match self.values.random.u32(..20) {
            0..3 => request.framing = Framing::Chunked,
            3 => {
                request.framing = Framing::CutOff;
                fits = false;
            }
            _ => {}
        }
        if self.values.one_in(20) && request.framing != Framing::CutOff {
            request.headers.push(("Expect".to_owned(), b"100-continue".to_vec()));
        }
        fits
    }

    /// A body of a media type, and whether it fits.
    fn body(&mut self, pointer: &str, media_type: &str) -> (Vec<u8>, bool) {
        if media_type == "application/x-www-form-urlencoded" {
            return self.form(pointer);
        }
        let item = format!("{pointer}/x-itemSchema");
        if DOCUMENT.root().pointer(&item).is_some() {
            let lines: Vec<Value> =
                (0..self.values.random.usize(..4)).map(|_| self.values.mutated(&item)).collect();
            let fits = !lines.is_empty() && lines.iter().all(|line| DOCUMENT.validate(&item, line).is_ok());
            let end = self.values.choose(&["\n", "\r\n", "\n\n"]);
            return (lines.iter().map(|line| line.to_string() + end).collect::<String>().into_bytes(), fits);
        }
        let schema = format!("{pointer}/schema");
        let mut value = self.values.mutated(&schema);
        if let Some(members) = value.as_object_mut().filter(|_| pointer.contains("~1claim")) {
            // Nobody waits here.
            members.remove("wait");
        }
        let fits = DOCUMENT.validate(&schema, &value).is_ok();
        let text = if self.values.one_in(4) { with_escapes(&value) } else { value.to_string() };
        if self.values.one_in(4) { (self.values.spoilt(text), false) } else { (text.into_bytes(), fits) }
    }

    fn form(&mut self, pointer: &str) -> (Vec<u8>, bool) {
        let schema = format!("{pointer}/schema");
        let value = self.values.mutated(&schema);
        let members = value.as_object().cloned().unwrap_or_default();
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut pairs: Vec<(String, String)> =
            members.into_iter().map(|(name, value)| (name, text(value))).collect();
        let object: Map<String, Value> =
            pairs.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        let mut fits = DOCUMENT.validate(&schema, &Value::Object(object)).is_ok();
        let doubled = pairs.iter().find(|(_, value)| !value.is_empty()).cloned();
        if let Some(doubled) = doubled.filter(|_| self.values.one_in(15)) {
            pairs.push(doubled);
            fits = false;
        }
        (form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish().into_bytes(), fits)
    }

    /// Adds what lets the request in, or something near it; whether the request fits with it.
    fn add_authorization(&mut self, request: &mut Request) -> bool {
        let is_token = request.operation.path.as_deref() == Some("/token");
        if is_token {
            let value = match self.values.random.u32(..4) {
                0 => return true,
                1 => "Basic !".to_owned(),
                _ => self.basic.clone(),
            };
            request.headers.push(("Authorization".to_owned(), value.into_bytes()));
            return true;
        }
        let Some(token) = self.token.clone() else { return true };
        let guarded = DOCUMENT.is_guarded(&request.operation) || request.operation.method.is_none();
        let bearer = format!("Bearer {token}");
        let values = match self.values.random.u32(..12) {
            0 => Vec::new(),
            1 => vec![format!("{bearer}x")],
            2 => vec!["Bearer".to_owned()],
            3 => vec![bearer.clone(), bearer],
            4 => vec![self.basic.clone()],
            5 => vec!["é".to_owned()],
            _ => vec![bearer.clone()],
        };
        let good = values.len() == 1 && values[0] == format!("Bearer {token}");
        for value in values {
            request.headers.push(("Authorization".to_owned(), value.into_bytes()));
        }
        good || !guarded
    }

    /// Makes something of the head that HTTP does not allow; whether it was left as it was.
    fn spoil_head(&mut self, request: &mut Request) -> bool {
        match self.values.random.u32(..60) {
            0 => request.headers.push(("Host".to_owned(), b"test".to_vec())),
            1 => drop(request.headers.remove(0)),
            2 => request.headers[0].1 = b"a b@c".to_vec(),
            3 => request.headers.push(("Bad Name".to_owned(), Vec::new())),
            4 => request.headers.push(("Long".to_owned(), vec![b'x'; 300 << 10])),
            5 => request.headers.extend((0..120).map(|number| (format!("Many-{number}"), Vec::new()))),
            6 => request.target = format!("/event?type={}", "x".repeat(70 << 10)),
            7 => {
                request.headers.push(("Transfer-Encoding".to_owned(), b"gzip, chunked".to_vec()));
                request.framing = Framing::Given;
                request.body = b"0\r\n\r\n".to_vec();
            }
            8 => request.headers.push(("Null".to_owned(), b"a\0b".to_vec())),
            9 => {
                request.headers.push(("Content-Length".to_owned(), b"1, 2".to_vec()));
                request.framing = Framing::Given;
            }
            _ => return true,
        }
        false
    }
}

//! The document, and whether a response is one that it describes.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::{Draft, Registry, Validator};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::util::http::Response;

/// Methods that an OpenAPI document can list.
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// What the document is called where its schemas refer to it.
const NAME: &str = "urn:openapi";

/// Of a JSON pointer, what a fragment cannot hold as it is.
const NOT_IN_FRAGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'~').remove(b'-').remove(b'.');

/// Headers that the document does not list, as it says itself.
const UNLISTED: [&str; 8] = [
    "date",
    "content-length",
    "transfer-encoding",
    "content-type",
    "x-content-type-options",
    "cross-origin-resource-policy",
    "content-encoding",
    "vary",
];

/// The document of the sources.
pub static DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/consume/routes/openapi.json");
    Document::new(serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
});

/// An OpenAPI document.
pub struct Document {
    root: Value,
    registry: Registry<'static>,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// What can be asked for, and how it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The path as the document writes it; none for paths that it does not have.
    pub path: Option<String>,
    /// The method; none for those that the path does not have.
    pub method: Option<String>,
    /// Where its description is.
    pub pointer: String,
}

impl Operation {
    pub fn name(&self) -> String {
        let (method, path) = (self.method.as_deref(), self.path.as_deref());
        format!("{} {}", method.unwrap_or("other"), path.unwrap_or("other"))
    }
}

/// An answer that was given: the operation, the status and the media type.
pub type Seen = BTreeSet<(String, String, Option<String>)>;

impl Document {
    pub fn new(root: Value) -> Document {
        let registry = Registry::new().add(NAME, root.clone()).unwrap().prepare().unwrap();
        Document { root, registry, validators: Mutex::default() }
    }

    pub fn root(&self) -> &Value {
        &self.root
    }

    /// All operations, those that are told by extensions too.
    pub fn operations(&self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (path, item) in self.root["paths"].as_object().unwrap() {
            let methods = METHODS.iter().filter(|method| item.get(**method).is_some());
            for member in methods.copied().chain(["x-other-methods"]) {
                let method = METHODS.contains(&member).then(|| member.to_uppercase());
                let pointer = format!("/paths/{}/{member}", escaped(path));
                operations.push(Operation { path: Some(path.clone()), method, pointer });
            }
        }
        operations.push(Operation { path: None, method: None, pointer: "/x-other-paths".to_owned() });
        operations
    }

    /// The methods that a path lists.
    pub fn methods_of(&self, path: &str) -> Vec<String> {
        let of_path =
            self.operations().into_iter().filter(|operation| operation.path.as_deref() == Some(path));
        of_path.filter_map(|operation| operation.method).collect()
    }

    /// What is at a pointer, and where it really is: references are followed.
    pub fn follow(&self, pointer: &str) -> Option<(String, &Value)> {
        let value = self.root.pointer(pointer)?;
        match value.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#')) {
            Some(target) => self.follow(target),
            None => Some((pointer.to_owned(), value)),
        }
    }

    /// The parameters of an operation, each with the pointer to it.
    pub fn parameters(&self, operation: &Operation) -> Vec<(String, &Value)> {
        let of_path = operation.path.as_ref().map(|path| format!("/paths/{}/parameters", escaped(path)));
        let lists = of_path.into_iter().chain([format!("{}/parameters", operation.pointer)]);
        let count = |list: &str| self.root.pointer(list).and_then(Value::as_array).map_or(0, Vec::len);
        let pointers = lists.flat_map(|list| (0..count(&list)).map(move |index| format!("{list}/{index}")));
        pointers.map(|pointer| self.follow(&pointer).unwrap()).collect()
    }

    /// Whether an operation asks for a token where the server knows any.
    pub fn is_guarded(&self, operation: &Operation) -> bool {
        let described = self.root.pointer(&operation.pointer).unwrap();
        let security = described.get("security").unwrap_or(&self.root["security"]);
        let named = security.as_array().unwrap().iter().filter_map(Value::as_object);
        operation.method.is_some() && named.flat_map(|scheme| scheme.keys()).any(|name| name == "bearer")
    }

    /// All (operation, status, media type) that are described.
    pub fn described(&self) -> Seen {
        let mut described = Seen::new();
        for operation in self.operations() {
            let responses = format!("{}/responses", operation.pointer);
            for status in self.root.pointer(&responses).unwrap().as_object().unwrap().keys() {
                let (_, response) = self.follow(&format!("{responses}/{status}")).unwrap();
                let content = response.get("content").and_then(Value::as_object);
                let types = content.into_iter().flat_map(|content| content.keys()).cloned().map(Some);
                let without = content.is_none() || response.get("x-without-content").is_some();
                for media_type in types.chain(without.then_some(None)) {
                    described.insert((operation.name(), status.clone(), media_type));
                }
            }
        }
        described
    }

    /// The validator of the schema at a pointer.
    pub fn validator(&self, pointer: &str) -> Arc<Validator> {
        let mut validators = self.validators.lock().unwrap();
        if let Some(validator) = validators.get(pointer) {
            return Arc::clone(validator);
        }
        let target = format!("{NAME}#{}", utf8_percent_encode(pointer, NOT_IN_FRAGMENT));
        let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true);
        let validator = options.with_registry(&self.registry).build(&json!({"$ref": target}));
        let validator = Arc::new(validator.unwrap_or_else(|error| panic!("{pointer}: {error}")));
        validators.insert(pointer.to_owned(), Arc::clone(&validator));
        validator
    }

    /// Makes sure that a value fits the schema at a pointer.
    pub fn validate(&self, pointer: &str, value: &Value) -> Result<(), String> {
        let validator = self.validator(pointer);
        validator
            .validate(value)
            .map_err(|error| format!("{pointer}: {error}, at `{}`", error.instance_path()))
    }

    /// The same for a header or a parameter: an integer unless it is to be a string.
    pub fn validate_text(&self, pointer: &str, text: &str) -> Result<(), String> {
        let (_, schema) = self.follow(pointer).unwrap();
        let value = if schema["type"] == "string" { text.into() } else { from_text(text) };
        self.validate(pointer, &value)
    }

    /// Makes sure that a response to a request with this method is described, in all that it has.
    pub fn check(
        &self,
        operation: &Operation,
        method: &str,
        response: &Response,
    ) -> Result<(String, String, Option<String>), String> {
        let status = response.status;
        let Some((pointer, described)) = self.follow(&format!("{}/responses/{status}", operation.pointer))
        else {
            return Err(format!("the status {status} is not described"));
        };
        self.check_headers(&pointer, described, response)?;
        let media_type = response.header("content-type").map(str::to_owned);
        if method == "HEAD" {
            self.check_head(operation, described, response)?;
        } else {
            self.check_content(&pointer, described, response)?;
        }
        let listed = described.get("content").is_some();
        Ok((operation.name(), status.to_string(), media_type.filter(|_| listed)))
    }

    fn check_headers(&self, pointer: &str, described: &Value, response: &Response) -> Result<(), String> {
        let none = serde_json::Map::new();
        let listed = described.get("headers").and_then(Value::as_object).unwrap_or(&none);
        for (name, value) in &response.headers {
            let listed_name = listed.keys().find(|listed| listed.eq_ignore_ascii_case(name));
            if listed_name.is_none() && UNLISTED.iter().any(|unlisted| name.eq_ignore_ascii_case(unlisted)) {
                continue;
            }
            let Some(listed_name) = listed_name else {
                return Err(format!("the header `{name}: {value}` is not described"));
            };
            let (header, _) = self.follow(&format!("{pointer}/headers/{listed_name}")).unwrap();
            self.validate_text(&format!("{header}/schema"), value)?;
        }
        for name in listed.keys() {
            let (_, header) = self.follow(&format!("{pointer}/headers/{name}")).unwrap();
            let given = response.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name)).count();
            if given == 0 && header["required"] == true {
                return Err(format!("the header `{name}` is missing"));
            }
            if given > 1 && name != "Link" {
                return Err(format!("the header `{name}` is given {given} times"));
            }
        }
        Ok(())
    }

    /// A response to HEAD has no content, and announces what GET would have.
    fn check_head(
        &self,
        operation: &Operation,
        described: &Value,
        response: &Response,
    ) -> Result<(), String> {
        if !response.body.is_empty() {
            return Err("HEAD has content".to_owned());
        }
        let get = operation.pointer.replace("/head", "/get");
        let of_get = self.follow(&format!("{get}/responses/{}", response.status));
        let described = of_get.map_or(described, |(_, of_get)| of_get);
        match response.header("content-type") {
            None => without_content(described),
            Some(media_type) if described["content"].get(media_type).is_some() => Ok(()),
            Some(media_type) => Err(format!("the content type `{media_type}` is not described")),
        }
    }

    fn check_content(&self, pointer: &str, described: &Value, response: &Response) -> Result<(), String> {
        let Some(media_type) = response.header("content-type") else {
            return if response.body.is_empty() {
                without_content(described)
            } else {
                Err("the content has no type".to_owned())
            };
        };
        let Some(content) = described["content"].get(media_type) else {
            return Err(format!("the content type `{media_type}` is not described"));
        };
        let pointer = format!("{pointer}/content/{}", escaped(media_type));
        let text = str::from_utf8(&response.body).map_err(|error| error.to_string())?;
        let parse = |text: &str| serde_json::from_str(text).map_err(|error| format!("{error}: {text}"));
        let body = if media_type.ends_with("json") && !media_type.ends_with("ndjson") {
            parse(text)?
        } else {
            Value::String(text.to_owned())
        };
        if content.get("x-itemSchema").is_some() {
            for line in text.lines() {
                self.validate(&format!("{pointer}/x-itemSchema"), &parse(line)?)?;
            }
        }
        self.validate(&format!("{pointer}/schema"), &body)
    }
}

fn without_content(described: &Value) -> Result<(), String> {
    if described.get("content").is_none() || described.get("x-without-content").is_some() {
        return Ok(());
    }
    Err("the content is missing".to_owned())
}

/// An integer where the text is one.
fn from_text(text: &str) -> Value {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let integer = text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from));
    integer.ok().filter(|_| is_integer).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// A member's name inside of a JSON pointer.
pub fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

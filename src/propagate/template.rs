//! Events that vary (`--template`): type and payload are templates in Jinja's language.
//!
//! All that is random comes from one generator, so that a seed repeats a run to the byte.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use minijinja::value::Rest;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, context};
use parking_lot::Mutex;
use uuid::Builder;

use crate::core::members::Members;
use crate::core::outgoing::Outgoing;
use crate::core::text::excerpt;
use crate::core::timestamp::Timestamp;
use crate::error::hinted;

const HINT: &str =
    "templates know seq, uuid(), now(), int(1, 6), float(0, 1), pick('a', 'b') and line('users.txt')";

/// The members that are templates where they are strings.
const TEMPLATES: [&str; 2] = ["event_type", "event_payload"];

/// How many instructions a template may take, so that none delays a send.
const FUEL: u64 = 500_000;

/// The largest file of lines.
const FILE_LIMIT_BYTES: u64 = 64 << 20;

/// The most characters of an error in a template.
const REASON_LIMIT: usize = 300;

/// The clock of a run.
#[derive(Debug, Clone, Copy)]
pub enum TemplateClock {
    Wall,
    /// The n-th event is this much later than the first, so that the run can be repeated.
    Steady {
        start: Timestamp,
        gap: Duration,
    },
}

impl TemplateClock {
    fn time_of(self, number: u64) -> Timestamp {
        match self {
            TemplateClock::Wall => Timestamp::now(),
            TemplateClock::Steady { start, gap } => {
                let offset = gap.as_nanos().saturating_mul(u128::from(number - 1));
                start.after(Duration::from_nanos(u64::try_from(offset).unwrap_or(u64::MAX)))
            }
        }
    }
}

/// The templates of all events of a file.
pub struct EventTemplates {
    environment: Environment<'static>,
    /// By the place of the event in the file.
    events: Vec<Vec<Member>>,
    clock: TemplateClock,
    /// How many events were made.
    made: u64,
}

/// A member of an event.
enum Member {
    /// As it stands: its name and value.
    Fixed(String, String),
    /// The name, and that of its template.
    Template(&'static str, String),
}

impl EventTemplates {
    /// # Errors
    /// A template is wrong, or a file of lines cannot be read.
    pub fn new(
        events: &[Arc<Outgoing>],
        random: &fastrand::Rng,
        clock: TemplateClock,
    ) -> anyhow::Result<EventTemplates> {
        let mut templates = EventTemplates {
            environment: environment_of(random.clone()),
            events: Vec::new(),
            clock,
            made: 0,
        };
        for (place, event) in events.iter().enumerate() {
            let members = Members::of(&event.body).context("an event is an object")?;
            let members = members.iter().map(|(name, value)| templates.member(place, name, value));
            let members = members.collect::<anyhow::Result<_>>()?;
            templates.events.push(members);
        }
        // What is misspelt is found before the first send.
        for place in 0..events.len() {
            templates.render(place, 1).map_err(|problem| hinted(problem, HINT))?;
        }
        // What the trial has drawn is drawn again.
        add_functions(&mut templates.environment, random.clone());
        Ok(templates)
    }

    fn member(&mut self, place: usize, name: &str, value: &str) -> anyhow::Result<Member> {
        let known = TEMPLATES.into_iter().find(|known| *known == name);
        let text: Option<String> = serde_json::from_str(value).ok();
        let (Some(known), Some(text)) = (known, text) else {
            return Ok(Member::Fixed(name.to_owned(), value.to_owned()));
        };
        let template = format!("{known} of event {}", place + 1);
        self.environment
            .add_template_owned(template.clone(), text)
            .map_err(|error| hinted(problem_of(&template, &error), HINT))?;
        Ok(Member::Template(known, template))
    }

    /// The next event that is made of the one at this place.
    ///
    /// # Errors
    /// A template fails.
    pub fn next(&mut self, place: usize) -> Result<Outgoing, String> {
        self.made += 1;
        Outgoing::recorded(self.render(place, self.made)?)
    }

    fn render(&self, place: usize, number: u64) -> Result<String, String> {
        let values = context! { seq => number, now_ => self.clock.time_of(number).to_string() };
        let mut body = "{".to_owned();
        for (position, member) in self.events[place].iter().enumerate() {
            if position > 0 {
                body.push(',');
            }
            let (name, value) = match member {
                Member::Fixed(name, value) => (name.as_str(), value.clone()),
                Member::Template(name, template) => {
                    let found = self.environment.get_template(template).expect("it was added");
                    let text = found.render(&values).map_err(|error| problem_of(template, &error))?;
                    (*name, serde_json::Value::from(text).to_string())
                }
            };
            body += &format!("{}:{value}", serde_json::Value::from(name));
        }
        body.push('}');
        Ok(body)
    }
}

fn environment_of(random: fastrand::Rng) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    add_functions(&mut environment, random);
    environment
}

fn add_functions(environment: &mut Environment<'static>, random: fastrand::Rng) {
    let random = Arc::new(Mutex::new(random));
    let generator = Arc::clone(&random);
    environment.add_function("uuid", move || {
        let bytes: [u8; 16] = generator.lock().u128(..).to_be_bytes();
        Builder::from_random_bytes(bytes).into_uuid().to_string()
    });
    environment.add_function("now", |state: &minijinja::State<'_, '_>| state.lookup("now_"));
    let generator = Arc::clone(&random);
    environment.add_function("int", move |from: i64, to: i64| match from <= to {
        true => Ok(generator.lock().i64(from..=to)),
        false => Err(invalid("int() needs the smaller number first")),
    });
    let generator = Arc::clone(&random);
    environment.add_function("float", move |from: f64, to: f64| from + generator.lock().f64() * (to - from));
    let generator = Arc::clone(&random);
    environment.add_function("pick", move |values: Rest<Value>| {
        // Of a list, or of several values.
        let values: Vec<Value> = match &values[..] {
            [list] => list.try_iter()?.collect(),
            several => several.to_vec(),
        };
        let index = (!values.is_empty()).then(|| generator.lock().usize(..values.len()));
        index.and_then(|index| values.get(index).cloned()).ok_or_else(|| invalid("pick() needs a value"))
    });
    let files: Mutex<HashMap<String, Arc<[String]>>> = Mutex::default();
    environment.add_function("line", move |path: String| {
        let mut files = files.lock();
        let lines = match files.get(&path) {
            Some(lines) => Arc::clone(lines),
            None => files.entry(path.clone()).or_insert(lines_of(&path)?).clone(),
        };
        Ok::<String, Error>(lines[random.lock().usize(..lines.len())].clone())
    });
}

fn lines_of(path: &str) -> Result<Arc<[String]>, Error> {
    let cannot =
        |problem: &dyn std::fmt::Display| invalid(&format!("cannot read lines from `{path}`: {problem}"));
    let length = fs::metadata(path).map_err(|error| cannot(&error))?.len();
    if length > FILE_LIMIT_BYTES {
        return Err(cannot(&format!("it is larger than {FILE_LIMIT_BYTES} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|error| cannot(&error))?;
    let lines: Arc<[String]> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() { Err(cannot(&"it has none")) } else { Ok(lines) }
}

fn invalid(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.to_owned())
}

fn problem_of(template: &str, error: &Error) -> String {
    let detail = match error.kind() {
        ErrorKind::OutOfFuel => "it takes too long".to_owned(),
        _ => excerpt(error.detail().unwrap_or("a value is missing or cannot be used"), REASON_LIMIT),
    };
    format!("the template `{template}` is wrong: {detail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str, seed: u64, count: usize) -> Vec<String> {
        let events: Vec<Arc<Outgoing>> =
            Outgoing::parse_file(text.as_bytes()).unwrap().into_iter().map(Arc::new).collect();
        let clock = TemplateClock::Steady {
            start: Timestamp::from_microseconds(1_705_320_000_000_000),
            gap: Duration::from_millis(250),
        };
        let mut templates = EventTemplates::new(&events, &fastrand::Rng::with_seed(seed), clock).unwrap();
        (0..count).map(|number| templates.next(number % events.len()).unwrap().body).collect()
    }

    #[test]
    fn values_vary_and_a_seed_repeats_them() {
        let text = r#"[{"event_type": "t{{ int(1, 3) }}", "n": 1.0, "event_payload": "{\"id\": \"{{ uuid() }}\", \"n\": {{ seq }}, \"at\": \"{{ now() }}\", \"x\": {{ pick('1', '2') }}{{ pick([3]) }}}"}]"#;
        let first = made(text, 7, 50);
        assert_eq!(first, made(text, 7, 50));
        assert_ne!(first, made(text, 8, 50));
        for (body, number) in first.iter().zip(1..) {
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            let payload: serde_json::Value =
                serde_json::from_str(body["event_payload"].as_str().unwrap()).unwrap();
            assert_eq!((&payload["n"], &body["n"]), (&number.into(), &1.0.into()));
            assert_eq!(payload["id"].as_str().unwrap().len(), 36);
        }
        assert!(first[1].contains("2024-01-15T12:00:00.250000Z"), "{}", first[1]);
        assert!(
            first.iter().any(|body| body.contains("\"t1\""))
                && first.iter().any(|body| body.contains("\"t3\""))
        );
    }

    #[test]
    fn lines_come_from_their_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "ada\n\nbob \"x\"\n").unwrap();
        let text = format!(r#"{{"event_payload": "{{{{ line('{}') }}}}"}}"#, file.path().display());
        let found = made(&text, 1, 20);
        let expected = [r#"{"event_payload":"ada"}"#, r#"{"event_payload":"bob \"x\""}"#];
        assert!(found.iter().all(|body| expected.contains(&body.as_str())), "{found:?}");
        assert!(expected.iter().all(|body| found.iter().any(|found| found == body)));
    }

    #[test]
    fn wrong_templates_are_named_before_the_first_send() {
        for (payload, problem) in [
            ("{{ nothing }}", "event_payload of event 1"),
            ("{{ int(3, 1) }}", "smaller number first"),
            ("{{ line('missing.txt') }}", "cannot read lines from `missing.txt`"),
            ("{{ pick() }}", "needs a value"),
            ("{{", "event_payload of event 1"),
        ] {
            let text = serde_json::json!({"event_payload": payload}).to_string();
            let events = [Arc::new(Outgoing::parse_file(text.as_bytes()).unwrap().remove(0))];
            let templates = EventTemplates::new(&events, &fastrand::Rng::new(), TemplateClock::Wall);
            let error = templates.err().unwrap().to_string();
            assert!(error.contains(problem), "{payload}: {error}");
        }
    }
}

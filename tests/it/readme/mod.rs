//! README, manual pages and the READMEs of the examples: what they tell people to type works.

mod running;

use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use eventctl::testing::command;
use tempfile::tempdir;

use crate::util::{assert_eventctl, write_file};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file with commands for people.
struct Document {
    path: PathBuf,
    text: String,
}

/// A block of code: its language and its text.
struct Block<'a> {
    language: &'a str,
    text: &'a str,
}

impl Document {
    fn read(path: impl AsRef<Path>) -> Document {
        let path = repository().join(path);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Document { path, text }
    }

    /// README, CONTRIBUTING, the READMEs of the examples and the manual pages.
    fn all() -> Vec<Document> {
        let mut paths: Vec<PathBuf> = vec!["README.md".into(), ".github/CONTRIBUTING.md".into()];
        for example in fs::read_dir(repository().join("examples")).unwrap() {
            let example = example.unwrap().path();
            paths.extend(example.is_dir().then(|| example.join("README.md")));
        }
        paths.extend(Document::manual_pages());
        paths.into_iter().map(Document::read).collect()
    }

    fn manual_pages() -> Vec<PathBuf> {
        let pages = fs::read_dir(repository().join("src/cli/manual")).unwrap();
        pages.map(|page| page.unwrap().path()).filter(|path| path.extension().unwrap() == "md").collect()
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap()
    }

    fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        // Every second part is inside of a pair of fences.
        self.text.split("```").skip(1).step_by(2).map(|part| {
            let (language, text) = part.split_once('\n').unwrap();
            Block { language, text }
        })
    }

    /// The commands of blocks and of code within sentences, each on one line.
    fn commands(&self) -> Vec<String> {
        let mut commands = Vec::new();
        for block in self.blocks().filter(|block| ["sh", "text"].contains(&block.language)) {
            let lines = block.text.replace("\\\n", " ");
            commands.extend(
                lines
                    .lines()
                    .flat_map(|line| line.split(" | "))
                    .map(|part| part.trim_end_matches(" |").trim().to_owned()),
            );
        }
        let prose = self.text.split("```").step_by(2);
        let code = prose.flat_map(|part| part.split('`').skip(1).step_by(2));
        commands.extend(code.map(|code| code.split(" | ").next().unwrap().replace('\n', " ")));
        commands
    }
}

/// The words of a command as a shell would split them, up to a redirection, an `&` or a comment.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in command.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => (quote, word) = (Some(character), Some(word.unwrap_or_default())),
            (None, ' ') => words.extend(word.take()),
            (None, '#' | '&' | '>' | '<' | ')') if word.is_none() || character == ')' => break,
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_command_that_is_shown_is_one_that_the_program_has() {
    let mut seen = 0;
    for document in Document::all() {
        for shown in document.commands() {
            let Some(start) = shown.strip_prefix("eventctl ").map(|_| 0).or_else(|| {
                // Behind a program that hands it on.
                ["docker run ", "source <("].iter().find(|prefix| shown.starts_with(**prefix))?;
                shown.find("eventctl ")
            }) else {
                continue;
            };
            let words = words(&shown[start..].replace("SUBCOMMAND", "consume"));
            let parsed = command().try_get_matches_from(&words);
            let is_help = |error: &clap::Error| error.kind() == ErrorKind::DisplayHelp;
            if let Err(error) = parsed
                && !is_help(&error)
            {
                panic!("{}: {shown}: {error}", document.path.display());
            }
            seen += 1;
        }
    }
    assert!(seen >= 50, "only {seen} commands were found");
}

#[test]
fn every_file_and_test_that_is_named_exists() {
    const PREFIXES: [&str; 5] = ["examples/", "src/", "tests/", ".ci/", ".github/"];
    for document in Document::all() {
        let mut names: Vec<String> = Vec::new();
        for shown in document.commands() {
            let words = words(&shown);
            let examples = words.windows(2).filter(|pair| pair[0] == "--example");
            names.extend(examples.map(|pair| format!("examples/{}", pair[1])));
            if words.first().is_some_and(|word| word.starts_with("./")) {
                let script = document.folder().join(&words[0]);
                assert!(script.is_file(), "{}: {}", document.path.display(), words[0]);
            }
            let paths =
                words.into_iter().filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)));
            names.extend(paths);
        }
        for name in names {
            assert!(repository().join(&name).exists(), "{}: {name}", document.path.display());
        }
        for link in document.text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let is_outside = link.starts_with("http") || link.starts_with('#');
            let exists = document.folder().join(link).exists();
            assert!(is_outside || exists, "{}: {link}", document.path.display());
        }
    }
}

#[test]
fn every_config_file_that_is_shown_is_read() {
    let mut seen = 0;
    for document in Document::all() {
        for block in document.blocks().filter(|block| block.language == "yaml") {
            let directory = tempdir().unwrap();
            write_file(directory.path(), "settings.yaml", block.text);
            write_file(directory.path(), "events.json", "[{}]");
            let mut run = assert_eventctl(directory.path());
            run.env("ORDERS_WEBHOOK", "https://hooks.slack.com/services/a/b/c");
            run.args(["propagate", "--config", "settings.yaml", "--dry-run", "--count", "1"]);
            run.assert().code(0).stdout("{}\n");
            seen += 1;
        }
    }
    assert_eq!(seen, 5);
}

#[test]
fn words_end_where_a_shell_ends_them() {
    assert_eq!(words(r#"a --b 'c d' "e" f"g"'h' i"#), ["a", "--b", "c d", "e", "fgh", "i"]);
    assert_eq!(words("a b & c"), ["a", "b"]);
    assert_eq!(words("a b > c"), ["a", "b"]);
    assert_eq!(words("a ''  # b"), ["a", ""]);
    assert_eq!(words("a b#c <d"), ["a", "b#c"]);
}

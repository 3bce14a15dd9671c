//! Who may use whom: dependencies point down only. Read from the sources themselves.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

const SUBCOMMANDS: [&str; 6] = ["consume", "propagate", "init_db", "tail", "alert_test", "manual"];
/// Each uses none of those before it.
const BELOW_SUBCOMMANDS: [&str; 9] =
    ["alert", "auth", "store", "client", "exposition", "systemd", "tls", "shutdown", "logging"];
const SQL_CRATES: [&str; 3] = ["rusqlite", "postgres", "mysql"];
const NOT_IN_CORE: [&str; 7] = ["rusqlite", "postgres", "mysql", "hyper", "rustls", "clap", "tokio"];
const MAY_USE_CLAP: [&str; 4] = ["main", "cli", "config", "manual"];

/// A path that a source file names: `crate::core::event::Event`, with `super` and `self` resolved.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    file: PathBuf,
    line: usize,
    /// The module that names it, below the crate: `["consume", "routes"]`.
    module: Vec<String>,
    path: Vec<String>,
}

impl Named {
    /// The top module that names it: `consume` for `src/consume/routes.rs`.
    fn from(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    /// The top module of this crate that it names.
    fn to_own(&self) -> Option<&str> {
        let own = matches!(self.path[0].as_str(), "crate" | "eventctl");
        self.path.get(1).map(String::as_str).filter(|_| own)
    }

    fn names_crate(&self, names: &[&str]) -> bool {
        names.contains(&self.path[0].as_str())
    }
}

impl fmt::Display for Named {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: `{}`", self.file.display(), self.line, self.path.join("::"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Everything that the sources name.
fn sources() -> Vec<Named> {
    let mut folders = vec![root().join("src")];
    let mut named = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(root()).unwrap();
                named.extend(names_in(file, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    named
}

/// All paths of `use` declarations, and all others that start at a crate.
fn names_in(file: &Path, source: &str) -> Vec<Named> {
    let module = module_of(file);
    let code = without_comments_and_strings(source);
    let mut named = Vec::new();
    let mut add = |offset: usize, path: &str| {
        let line = code[..offset].matches('\n').count() + 1;
        let path = resolve(&module, path);
        named.push(Named { file: file.to_owned(), line, module: module.clone(), path });
    };
    for (offset, _) in code.match_indices("use ") {
        let starts = code[..offset].chars().next_back().is_none_or(|before| !is_identifier(before));
        let Some((tree, _)) = code[offset + 4..].split_once(';').filter(|_| starts) else { continue };
        expand("", tree).iter().for_each(|path| add(offset, path));
    }
    // A path inside of code: a first segment, `::` and what follows it.
    for (offset, _) in code.match_indices("::") {
        let before = &code[..offset];
        let start = before.rfind(|character| !is_identifier(character)).map_or(0, |at| at + 1);
        let first = start < offset && !before[..start].ends_with("::");
        let end = code[offset..].find(|character| !is_identifier(character) && character != ':');
        let path = &code[start..end.map_or(code.len(), |end| offset + end)];
        if first && !path.ends_with("::") {
            add(start, path);
        }
    }
    named
}

fn is_identifier(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// `src/consume/routes.rs` is `["consume", "routes"]`, `src/lib.rs` is empty.
fn module_of(file: &Path) -> Vec<String> {
    let inside = file.strip_prefix("src").unwrap().with_extension("");
    let mut module: Vec<String> = inside.iter().map(|segment| segment.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

/// The paths of a `use` tree: `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn expand(prefix: &str, tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, inside)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        return if path.is_empty() { Vec::new() } else { vec![format!("{prefix}{path}")] };
    };
    let prefix = format!("{prefix}{}", before.trim());
    let inside = inside.trim_end().strip_suffix('}').expect("a brace that opens is closed");
    let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
    for (at, character) in inside.char_indices().chain([(inside.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                paths.extend(expand(&prefix, &inside[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    paths
}

/// The segments of a path, counted from the crate where it begins in this one.
fn resolve(module: &[String], path: &str) -> Vec<String> {
    let segments: Vec<&str> = path.split("::").map(str::trim).filter(|segment| !segment.is_empty()).collect();
    let ups = segments.iter().take_while(|segment| **segment == "super").count();
    let relative = ups > 0 || segments.first() == Some(&"self");
    if !relative {
        return segments.into_iter().map(str::to_owned).collect();
    }
    let parents = module[..module.len().saturating_sub(ups)].iter().map(String::as_str);
    let rest = segments[ups..].iter().copied().filter(|segment| *segment != "self");
    ["crate"].into_iter().chain(parents).chain(rest).map(str::to_owned).collect()
}

/// The code with blanks in place of comments and of what stands in strings.
fn without_comments_and_strings(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(character) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(inside) = rest.strip_prefix("r#\"") {
            inside.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if character == '"' {
            end_of_string(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2)
        } else {
            code.push(character);
            rest = &rest[character.len_utf8()..];
            continue;
        };
        // Lines must keep their numbers.
        code.extend(rest[..length].chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    code
}

fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    let mut characters = text.char_indices().skip(1);
    let end = characters.find(|(_, character)| {
        let ends = *character == '"' && !escaped;
        escaped = *character == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// Asserts that none of the names breaks a rule; the message names file and line of those that do.
fn assert_none(rule: &str, breaks: impl Fn(&Named) -> bool) {
    let broken: Vec<String> = sources().iter().filter(|named| breaks(named)).map(Named::to_string).collect();
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

#[test]
fn subcommands_do_not_know_each_other() {
    assert_none("a subcommand uses another", |named| {
        let other = |to: &str| SUBCOMMANDS.contains(&to) && to != named.from();
        SUBCOMMANDS.contains(&named.from()) && named.to_own().is_some_and(other)
    });
}

#[test]
fn core_uses_nothing_of_the_crate_but_itself() {
    assert_none("core uses what lies above it", |named| {
        named.from() == "core" && named.to_own().is_some_and(|to| to != "core")
    });
}

#[test]
fn core_knows_neither_sql_nor_http_nor_clap_nor_tokio() {
    assert_none("core uses a package that it must not know", |named| {
        named.from() == "core" && named.names_crate(&NOT_IN_CORE)
    });
}

#[test]
fn sql_stands_in_the_store_alone() {
    assert_none("SQL outside of the store", |named| {
        named.from() != "store" && named.names_crate(&SQL_CRATES)
    });
}

#[test]
fn the_command_line_stands_in_main_cli_config_and_manual_alone() {
    assert_none("clap outside of main, cli, config and manual", |named| {
        let clap = ["clap", "clap_complete", "clap_mangen"];
        !MAY_USE_CLAP.contains(&named.from()) && named.names_crate(&clap)
    });
}

#[test]
fn store_auth_and_alert_know_no_subcommand_and_no_command_line() {
    assert_none("what is below the subcommands uses them or cli", |named| {
        let above = |to: &str| SUBCOMMANDS.contains(&to) || to == "cli" || to == "config";
        BELOW_SUBCOMMANDS.contains(&named.from()) && named.to_own().is_some_and(above)
    });
}

#[test]
fn what_is_below_the_subcommands_uses_what_is_below_itself() {
    assert_none("a module uses one above it", |named| {
        let place = |name: &str| BELOW_SUBCOMMANDS.iter().position(|below| *below == name);
        let above = |to: &str| place(to) < place(named.from()) && place(to).is_some();
        place(named.from()).is_some() && named.to_own().is_some_and(above)
    });
}

#[test]
fn nothing_uses_main() {
    assert_none("a module uses main", |named| named.to_own() == Some("main"));
}

#[test]
fn what_is_known_to_be_used_is_found() {
    let sources = sources();
    for (from, path) in [
        ("config", "clap::Command"),
        ("store", "rusqlite::Connection"),
        ("consume", "crate::store::backend::Append"),
        ("consume", "crate::consume::routes::Answer"),
        ("consume", "hyper::header::HOST"),
        ("auth", "crate::store::Store"),
        ("tail", "crate::core::event::StoredEvent"),
    ] {
        let path: Vec<&str> = path.split("::").collect();
        let found = sources.iter().any(|named| named.from() == from && named.path == path);
        assert!(found, "{path:?} was not found in {from}");
    }
}

#[test]
fn names_are_found_wherever_they_stand() {
    let source = "use super::super::tail::{self, Printer as P};\n\
        // use crate::comment::A;\n\
        pub(crate) use crate::{\n    cli::{A, B},\n    store,\n};\n\
        fn f() -> clap::Result<()> { crate::tail::run(\"crate::text::B // \\\" \") }\n\
        const QUOTE: char = '\"'; type T = Vec<rusqlite::Row>;\n";
    let names = names_in(Path::new("src/consume/routes.rs"), source);
    let found = |line: usize, path: &str| {
        let path: Vec<&str> = path.split("::").collect();
        names.iter().any(|named| named.line == line && named.path == path)
    };
    for (line, path) in [
        (1, "crate::tail"),
        (1, "crate::tail::Printer"),
        (3, "crate::cli::A"),
        (3, "crate::cli::B"),
        (3, "crate::store"),
        (7, "clap::Result"),
        (7, "crate::tail::run"),
        (8, "rusqlite::Row"),
    ] {
        assert!(found(line, path), "{path} was not found in line {line}: {names:?}");
    }
    let hidden = |named: &Named| named.path.iter().any(|segment| segment == "comment" || segment == "text");
    assert!(!names.iter().any(hidden), "{names:?}");
    assert!(names.iter().all(|named| named.from() == "consume"));
}

#[test]
fn the_top_of_the_repository_holds_what_the_design_names() {
    const NAMED: [&str; 9] = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "tests",
        "examples",
        "events.json",
        "README.md",
        "LICENSE",
        "target",
    ];
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap();
    let is_ignored = |name: &str| {
        ignored.lines().any(|pattern| match pattern.strip_prefix('*') {
            Some(suffix) => name.ends_with(suffix),
            None => name == pattern.trim_matches('/'),
        })
    };
    let names = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let others: Vec<String> = names
        .filter(|name| !name.starts_with('.') && !NAMED.contains(&name.as_str()) && !is_ignored(name))
        .collect();
    assert!(others.is_empty(), "{} has entries that the design does not name: {others:?}", root().display());
}

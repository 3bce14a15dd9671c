//! Who may import whom, read from the sources themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

const SQL_CRATES: [&str; 3] = ["rusqlite", "postgres", "mysql"];
const NOT_IN_CORE: [&str; 7] = ["rusqlite", "postgres", "mysql", "hyper", "rustls", "clap", "tokio"];
const CLAP_CRATES: [&str; 3] = ["clap", "clap_complete", "clap_mangen"];
const MAY_USE_CLAP: [&str; 2] = ["main", "cli"];

/// A path that a source file names, such as `crate::core::event::Event`, with `super` and `self` resolved.
#[derive(Debug)]
struct Import {
    /// The file, below `src`.
    file: PathBuf,
    /// The module, which may be one inside of the file: `["consume", "routes", "tests"]`.
    module: Vec<String>,
    path: Vec<String>,
    /// The name that a `use` declaration gives it.
    name: Option<String>,
    is_reexport: bool,
}

impl Import {
    /// The top module that names it: `consume` for `src/consume/routes.rs`.
    fn from(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    fn is_of(&self, crates: &[&str]) -> bool {
        crates.contains(&self.path[0].as_str())
    }
}

/// All files of `src`, and what they import.
struct Sources {
    files: BTreeMap<Vec<String>, PathBuf>,
    imports: Vec<Import>,
}

impl Sources {
    fn read() -> Sources {
        let root = root().join("src");
        let mut folders = vec![root.clone()];
        let mut texts = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    texts.push((path.strip_prefix(&root).unwrap().to_owned(), text));
                }
            }
        }
        Sources::of(&texts)
    }

    fn of(texts: &[(PathBuf, String)]) -> Sources {
        let files = texts.iter().map(|(file, _)| (module_of(file), file.clone())).collect();
        let mut sources = Sources { files, imports: Vec::new() };
        for (file, text) in texts {
            sources.scan(file, &module_of(file), text.parse().unwrap());
        }
        sources
    }

    /// Finds all paths of `use` declarations and all others of several segments, in macros too.
    fn scan(&mut self, file: &Path, module: &[String], tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at..] {
                [TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Group(inside), ..]
                    if word == "mod" =>
                {
                    self.scan(file, &[module, &[name.to_string()]].concat(), inside.stream());
                    at += 3;
                }
                [TokenTree::Group(group), ..] => {
                    self.scan(file, module, group.stream());
                    at += 1;
                }
                [TokenTree::Ident(word), ..] => {
                    let is_use = word == "use";
                    let is_public = is_use && is_public(&tokens[..at]);
                    at += usize::from(is_use);
                    let (paths, length) = paths_of(&tokens[at..]);
                    for (path, name) in paths.into_iter().filter(|(path, _)| is_use || path.len() > 1) {
                        self.imports.push(Import {
                            file: file.to_owned(),
                            module: module.to_owned(),
                            path: self.resolve(module, path),
                            name: is_use.then_some(name),
                            is_reexport: is_public && (file.ends_with("mod.rs") || file.ends_with("lib.rs")),
                        });
                    }
                    at += length;
                }
                _ => at += 1,
            }
        }
    }

    /// The path, counted from the crate where it begins in this one.
    fn resolve(&self, module: &[String], path: Vec<String>) -> Vec<String> {
        let ups = path.iter().take_while(|segment| *segment == "super").count();
        let parent = &module[..module.len().saturating_sub(ups)];
        let is_child = || self.files.contains_key(&[module, &path[..1]].concat());
        let (parent, rest) = match path[0].as_str() {
            "crate" | "eventctl" => (&[][..], &path[1..]),
            "self" => (module, &path[1..]),
            "super" => (parent, &path[ups..]),
            _ if is_child() => (module, &path[..]),
            _ => return path,
        };
        [&["crate".to_owned()][..], parent, rest].concat()
    }

    /// The file that defines what a path names, through all re-exports; none where it is of another crate.
    fn definition(&self, path: &[String]) -> Option<&Path> {
        let inside = path.strip_prefix(&["crate".to_owned()])?;
        let length = (0..=inside.len()).rev().find(|length| self.files.contains_key(&inside[..*length]))?;
        let (module, rest) = inside.split_at(length);
        let imported = rest.first().and_then(|name| {
            let names = |import: &&Import| import.module == module && import.name.as_ref() == Some(name);
            self.imports.iter().find(names)
        });
        match imported {
            Some(import) if import.path != path => self.definition(&[&import.path, &rest[1..]].concat()),
            _ => self.files.get(module).map(PathBuf::as_path),
        }
    }

    /// Which file uses which other one. A re-export of a `mod.rs` is no use.
    fn edges(&self) -> Vec<(&Path, &Path, &Import)> {
        let used = self.imports.iter().filter(|import| !import.is_reexport);
        let edges =
            used.filter_map(|import| Some((import.file.as_path(), self.definition(&import.path)?, import)));
        edges.filter(|(from, to, _)| from != to).collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `consume/routes.rs` is `["consume", "routes"]`, `lib.rs` is empty.
fn module_of(file: &Path) -> Vec<String> {
    let inside = file.with_extension("");
    let mut module: Vec<String> = inside.iter().map(|segment| segment.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

/// The path that begins here, or all paths of a `use` tree, with the names that they get; and the number of its tokens.
fn paths_of(tokens: &[TokenTree]) -> (Vec<(Vec<String>, String)>, usize) {
    let mut path: Vec<String> = Vec::new();
    let mut at = 0;
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(segment)) => path.push(segment.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace && !path.is_empty() => {
                let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                let parts = inside.split(|token| is_punct(token, ',')).flat_map(|part| paths_of(part).0);
                let whole = parts.map(|(part, name)| match part.as_slice() {
                    [part] if part == "self" => (path.clone(), path.last().cloned().unwrap_or_default()),
                    part => ([&path, part].concat(), name),
                });
                return (whole.collect(), at + 1);
            }
            _ => break,
        }
        at += 1;
        match &tokens[at..] {
            [first, second, ..] if is_punct(first, ':') && is_punct(second, ':') => at += 2,
            _ => break,
        }
    }
    let name = match &tokens[at..] {
        [TokenTree::Ident(word), TokenTree::Ident(name), ..] if word == "as" => Some(name.to_string()),
        _ => path.last().cloned(),
    };
    (name.map(|name| (path, name)).into_iter().collect(), at)
}

fn is_punct(token: &TokenTree, expected: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == expected)
}

/// Whether an item is public that follows these tokens.
fn is_public(before: &[TokenTree]) -> bool {
    let is_pub = |token: &TokenTree| matches!(token, TokenTree::Ident(word) if word == "pub");
    match before {
        [.., last] if is_pub(last) => true,
        [.., first, TokenTree::Group(group)] => is_pub(first) && group.delimiter() == Delimiter::Parenthesis,
        _ => false,
    }
}

/// The order that the documentation of `src/lib.rs` states, a line a floor: for a folder, its entries from the top down.
/// Those of one floor must not use each other; `*` is whatever is not named.
fn stated_order() -> BTreeMap<String, Vec<Vec<String>>> {
    let documentation = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let lines = documentation.lines().map(|line| line.trim_start_matches("//! "));
    let lines = lines.skip_while(|line| !line.starts_with("main ")).take_while(|line| *line != "```");
    let mut order: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for line in lines {
        let (names, _) = line.split_once("  ").expect("each floor has its modules and what they are for");
        let names = names.split(", ").map(|name| name.rsplit_once("::").unwrap_or(("src", name)));
        let names: Vec<(&str, &str)> = names.collect();
        let floor = names.iter().map(|(_, entry)| (*entry).to_owned()).collect();
        order.entry(names[0].0.replace("::", "/")).or_default().push(floor);
    }
    order
}

/// On which floor of its folder a file is: what contains it there, and its number from the top.
fn floor_of(file: &Path, folder: &str, floors: &[Vec<String>]) -> Option<(String, usize)> {
    let inside = if folder == "src" { file } else { file.strip_prefix(folder).ok()? };
    let entry = Path::new(inside.iter().next()?).with_extension("").to_str()?.to_owned();
    let is_on = |wanted: &str| floors.iter().position(|floor| floor.iter().any(|name| name == wanted));
    let floor = is_on(&entry).or_else(|| is_on("*"));
    Some((entry.clone(), floor.unwrap_or_else(|| panic!("src/lib.rs does not state where {entry} stands"))))
}

/// Asserts that no import breaks a rule; the message names those that do.
fn assert_none(rule: &str, breaks: impl Fn(&Import) -> bool) {
    let imports = Sources::read().imports;
    let broken = imports.iter().filter(|import| breaks(import));
    let broken: Vec<String> =
        broken.map(|import| format!("{}: {}", import.file.display(), import.path.join("::"))).collect();
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

/// Names the imports from one file to another that break a rule.
fn assert_no_edge(rule: &str, sources: &Sources, breaks: impl Fn(&Path, &Path) -> bool) {
    let broken = sources.edges().into_iter().filter(|(from, to, _)| breaks(from, to));
    let broken: BTreeSet<String> = broken
        .map(|(from, to, import)| {
            format!("{} -> {}: {}", from.display(), to.display(), import.path.join("::"))
        })
        .collect();
    assert!(broken.is_empty(), "{rule}:\n{}", Vec::from_iter(broken).join("\n"));
}

/// Whether one of two files is a `mod.rs`, and the other a module that it declares.
fn are_parent_and_child(one: &Path, other: &Path) -> bool {
    let declares = |parent: &Path, child: &Path| {
        let place = if child.ends_with("mod.rs") { child.parent() } else { Some(child) };
        parent.ends_with("mod.rs") && place.and_then(Path::parent) == parent.parent()
    };
    one != other && (declares(one, other) || declares(other, one))
}

#[test]
fn no_two_files_import_each_other_in_a_loop() {
    let sources = Sources::read();
    let mut reached: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
    for (from, to, _) in sources.edges().into_iter().filter(|(from, to, _)| !are_parent_and_child(from, to)) {
        reached.entry(from).or_default().insert(to);
    }
    for through in sources.files.values() {
        let beyond = reached.get(through.as_path()).cloned().unwrap_or_default();
        for files in reached.values_mut().filter(|files| files.contains(through.as_path())) {
            files.extend(&beyond);
        }
    }
    assert_no_edge("imports in a loop", &sources, |from, to| {
        !are_parent_and_child(from, to) && reached.get(to).is_some_and(|files| files.contains(from))
    });
}

#[test]
fn no_import_climbs_against_the_stated_order() {
    let (sources, order) = (Sources::read(), stated_order());
    for file in sources.files.values() {
        floor_of(file, "src", &order["src"]);
    }
    let climbs = |from: &Path, to: &Path, folder: &str, floors: &[Vec<String>]| {
        let (upper, lower) = (floor_of(from, folder, floors)?, floor_of(to, folder, floors)?);
        let are_others = upper.1 == lower.1 && floors[upper.1] == ["*"];
        Some(upper.0 != lower.0 && upper.1 >= lower.1 && !are_others)
    };
    assert_no_edge("imports upwards", &sources, |from, to| {
        order.iter().any(|(folder, floors)| climbs(from, to, folder, floors).unwrap_or(false))
    });
}

#[test]
fn core_knows_neither_sql_nor_http_nor_clap_nor_tokio() {
    assert_none("core uses a package that it must not know", |import| {
        import.from() == "core" && import.is_of(&NOT_IN_CORE)
    });
}

#[test]
fn sql_stands_in_the_store_alone() {
    assert_none("SQL outside of the store", |import| import.from() != "store" && import.is_of(&SQL_CRATES));
}

#[test]
fn only_main_and_cli_use_clap() {
    assert_none("clap outside of main and cli", |import| {
        // The owner of a value may derive how it is read.
        let is_derive = import.path == ["clap", "ValueEnum"];
        !MAY_USE_CLAP.contains(&import.from()) && import.is_of(&CLAP_CRATES) && !is_derive
    });
}

#[test]
fn imports_are_found_wherever_they_stand() {
    let texts = [
        (
            "consume/routes.rs",
            "use super::super::tail::{self, Printer as P};\n\
            // use crate::comment::A;\n\
            pub(crate) use crate::{\n    cli::{A, B},\n    store,\n};\n\
            fn f() -> clap::Result<()> { crate::tail::run(\"crate::text::B // \\\" \") }\n\
            const QUOTE: char = '\"'; type T = Vec<rusqlite::Row>;\n\
            mod tests { use super::*; fn g() { info!(x = crate::logging::X); } }\n",
        ),
        ("tail/mod.rs", "mod printer; pub use self::printer::Printer; fn f() { printer::print() }"),
        ("tail/printer.rs", "pub struct Printer;"),
    ];
    let sources = Sources::of(&texts.map(|(file, text)| (PathBuf::from(file), text.to_owned())));
    let paths: BTreeSet<String> = sources.imports.iter().map(|import| import.path.join("::")).collect();
    let expected = [
        "clap::Result",
        "crate::cli::A",
        "crate::cli::B",
        "crate::consume::routes",
        "crate::logging::X",
        "crate::store",
        "crate::tail",
        "crate::tail::Printer",
        "crate::tail::printer::Printer",
        "crate::tail::printer::print",
        "crate::tail::run",
        "rusqlite::Row",
    ];
    assert_eq!(Vec::from_iter(paths), expected);
    let edges: BTreeSet<(&str, &str)> =
        sources.edges().iter().map(|(from, to, _)| (from.to_str().unwrap(), to.to_str().unwrap())).collect();
    let expected = [
        ("consume/routes.rs", "tail/mod.rs"),
        ("consume/routes.rs", "tail/printer.rs"),
        ("tail/mod.rs", "tail/printer.rs"),
    ];
    assert_eq!(Vec::from_iter(edges), expected, "a re-export is no use, and is seen through");
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

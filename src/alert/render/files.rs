//! Template files.

use std::fs;
use std::path::Path;

use anyhow::Context;
use minijinja::{Environment, ErrorKind};

use crate::core::text::excerpt;
use crate::error::{Hint, hinted};

const FILE_LIMIT_BYTES: u64 = 256 << 10;

/// The most characters of an error in a template.
const REASON_LIMIT: usize = 300;

const SUFFIXES: [&str; 6] = ["subject", "txt", "html", "chat", "slack", "discord"];

/// Adds the templates of a folder, in place of built-in ones with the same name.
pub fn add_files(environment: &mut Environment<'static>, folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    let cannot = || format!("cannot read the templates of `{shown}`");
    let hint = "name a folder with files such as health_alert.txt, order_created.slack, event.html";
    for entry in fs::read_dir(folder).with_context(cannot).hint(hint)? {
        let entry = entry.with_context(cannot)?;
        let metadata = fs::metadata(entry.path()).with_context(cannot)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Editors and Kubernetes leave other files beside the templates.
        if !metadata.is_file() || name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        if !name.rsplit_once('.').is_some_and(|(_, suffix)| SUFFIXES.contains(&suffix)) {
            let problem = format!("cannot use the template `{name}` of `{shown}`: unknown ending");
            return Err(hinted(problem, format!("end its name in one of .{}", SUFFIXES.join(", ."))));
        }
        if metadata.len() > FILE_LIMIT_BYTES {
            let problem = format!("cannot use the template `{name}` of `{shown}`: too large");
            return Err(hinted(problem, format!("write at most {FILE_LIMIT_BYTES} bytes")));
        }
        let source = fs::read_to_string(entry.path())
            .with_context(|| format!("cannot read the template `{name}` of `{shown}`"))?;
        environment.add_template_owned(name.clone(), source).map_err(|error| {
            let problem = format!("cannot use the template `{name}` of `{shown}`: {}", reason_of(&error));
            hinted(problem, "write it in Jinja's language: {{ event.type }}, {% for issue in issues %}")
        })?;
    }
    Ok(())
}

pub fn reason_of(error: &minijinja::Error) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.kind() {
        ErrorKind::OutOfFuel => format!("it takes too long{line}"),
        _ => format!("{}{line}", excerpt(&detail, REASON_LIMIT)),
    }
}

//! What the manual pages say beyond the command line's definition, in Markdown.

/// The text of a page: that of a subcommand, or of `eventctl` itself.
pub fn text_of(name: &str) -> &'static str {
    match name {
        "consume" => include_str!("consume.md"),
        "propagate" => include_str!("propagate.md"),
        "init-db" => include_str!("init-db.md"),
        "tail" => include_str!("tail.md"),
        "alert-test" => include_str!("alert-test.md"),
        "completions" => include_str!("completions.md"),
        "man" => include_str!("man.md"),
        _ => include_str!("eventctl.md"),
    }
}

/// The examples of a page, as `--help` shows them too.
pub fn examples_of(name: &str) -> &'static str {
    let (_, examples) = text_of(name).split_once("\n## Examples\n").unwrap_or_default();
    examples.split("```").nth(1).and_then(|block| block.strip_prefix("sh\n")).unwrap_or_default().trim_end()
}

//! From the part of Markdown that the pages use to roff, in the macros of man(7).

use std::fmt::Write;

/// Headings of the second and third level, paragraphs, lists of one level, blocks of code, `code` and **bold**.
pub fn from_markdown(text: &str) -> String {
    let mut roff = String::new();
    let mut in_block = false;
    let mut follows_gap = false;
    let mut fonts = Fonts::default();
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
            roff.push_str(if in_block { ".PP\n.RS 4\n.nf\n" } else { ".fi\n.RE\n" });
        } else if in_block {
            push_line(&mut roff, &escaped(line, true));
        } else if let Some(title) = line.strip_prefix("## ") {
            let _ = writeln!(roff, ".SH \"{}\"", title.to_uppercase());
        } else if let Some(title) = line.strip_prefix("### ") {
            let _ = writeln!(roff, ".SS \"{title}\"");
        } else if let Some((mark, item)) = list_item(line) {
            let _ = writeln!(roff, ".IP {mark} 3");
            push_line(&mut roff, &fonts.apply(item));
        } else if !line.is_empty() {
            if follows_gap && !line.starts_with(' ') {
                roff.push_str(".PP\n");
            }
            push_line(&mut roff, &fonts.apply(line.trim_start()));
        }
        follows_gap = line.is_empty();
    }
    roff
}

/// The mark of a list's item, and the item.
fn list_item(line: &str) -> Option<(&str, &str)> {
    if let Some(item) = line.strip_prefix("- ") {
        return Some(("\\(bu", item));
    }
    let (number, item) = line.split_once(". ")?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some((number, item))
}

/// A line of text must not begin as a request does.
fn push_line(roff: &mut String, line: &str) {
    if line.starts_with(['.', '\'']) {
        roff.push_str("\\&");
    }
    roff.push_str(line);
    roff.push('\n');
}

/// Which font is on; code may go on in the next line.
#[derive(Default)]
struct Fonts {
    in_code: bool,
    in_bold: bool,
}

impl Fonts {
    fn apply(&mut self, line: &str) -> String {
        let mut roff = String::new();
        for (index, part) in line.split('`').enumerate() {
            if index > 0 {
                self.in_code = !self.in_code;
                roff.push_str(if self.in_code { "\\fB" } else { "\\fR" });
            }
            if self.in_code {
                roff.push_str(&escaped(part, true));
                continue;
            }
            for (index, part) in part.split("**").enumerate() {
                if index > 0 {
                    self.in_bold = !self.in_bold;
                    roff.push_str(if self.in_bold { "\\fB" } else { "\\fR" });
                }
                roff.push_str(&escaped(part, false));
            }
        }
        roff
    }
}

/// Backslashes start escapes, and a hyphen in code is a minus sign, which can be copied.
fn escaped(text: &str, is_code: bool) -> String {
    let text = text.replace('\\', "\\e");
    if is_code { text.replace('-', "\\-") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_becomes_roff() {
        let text = "## Title\nFirst `--a\nb` **c**.\n\n- d\n  e\n2. f\n\n.g\n```sh\nh \\\n'i'\n```\n";
        let expected = ".SH \"TITLE\"\nFirst \\fB\\-\\-a\nb\\fR \\fBc\\fR.\n.IP \\(bu 3\nd\ne\n.IP 2 3\nf\n.PP\n\\&.g\n\
            .PP\n.RS 4\n.nf\nh \\e\n\\&'i'\n.fi\n.RE\n";
        assert_eq!(from_markdown(text), expected);
    }
}

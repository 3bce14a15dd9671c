//! Passwords, keys and tokens: read from files that nobody else can read, never shown.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use rustix::process::{Uid, geteuid};
use zeroize::Zeroizing;

use crate::core::text::{str_without_byte_order_mark, without_line_end};
use crate::error::{Hint, hinted};

/// The largest file that is read as a secret: a key with a long chain of certificates has some KiB.
const FILE_LIMIT_BYTES: u64 = 256 << 10;

/// A password, a key or a token. `Debug` does not show it, and its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a secret from a file: all of it but a byte order mark and the end of its last line.
    ///
    /// # Errors
    /// The file cannot be read, is empty, or is not private.
    pub fn read(path: &Path) -> anyhow::Result<Secret> {
        let text = read_private(path)?;
        let shown = path.display();
        let text = std::str::from_utf8(&text).map_err(|_| {
            hinted(
                format!("cannot use `{shown}`: it is not UTF-8"),
                "write the secret as text, such as base64",
            )
        })?;
        text.parse().map_err(|_| {
            hinted(format!("cannot use `{shown}`: it is empty"), "write the secret into it, and nothing else")
        })
    }

    /// A secret that a client or a URL shows, every character of it.
    pub fn verbatim(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    /// The secret of a setting that names a file or, in the environment, holds the secret itself.
    ///
    /// # Errors
    /// Both are given, or the file cannot be used.
    pub fn choose(file: Option<&Path>, value: Option<&Secret>, flag: &str) -> anyhow::Result<Option<Secret>> {
        match (file, value) {
            (Some(_), Some(_)) => {
                let name = flag.trim_start_matches('-').trim_end_matches("-file").replace('-', "_");
                let prefix = if name.starts_with("smtp_") { "" } else { "EVENTCTL_" };
                let variable = format!("{prefix}{}", name.to_ascii_uppercase());
                let problem = format!("both `{flag}` and `{variable}` are given");
                Err(hinted(problem, "give one of them"))
            }
            (Some(path), None) => Secret::read(path).map(Some),
            (None, value) => Ok(value.cloned()),
        }
    }
}

/// Takes a text as a file would hold it: what commands and editors add at its ends is not part of the secret.
impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Secret, String> {
        let text = without_line_end(str_without_byte_order_mark(text));
        if text.is_empty() {
            return Err("expected a secret, got nothing".to_owned());
        }
        Ok(Secret(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[not shown]")
    }
}

/// Reads a file that is private, as [`check_private`] has it.
///
/// # Errors
/// The file cannot be read, is too large, or is not private.
pub fn read_private(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let shown = path.display();
    let mut file = File::open(path)
        .with_context(|| format!("cannot read `{shown}`"))
        .hint("check the path, and that this user may read the file")?;
    check_private(path, &file)?;
    let mut content = Zeroizing::new(Vec::new());
    let read = file.by_ref().take(FILE_LIMIT_BYTES + 1).read_to_end(&mut content);
    let hint = "name the file that holds the secret";
    let length = read.with_context(|| format!("cannot read `{shown}`")).hint(hint)?;
    if length as u64 > FILE_LIMIT_BYTES {
        let problem = format!("cannot use `{shown}`: it is larger than {FILE_LIMIT_BYTES} bytes");
        return Err(hinted(problem, hint));
    }
    Ok(content)
}

/// Makes sure that neither the group of a file nor others have access to it. The group may read what belongs to root,
/// unless we are root ourselves: so a service is given a secret that it cannot change.
///
/// # Errors
/// They have, with the command that ends it.
pub fn check_private(path: &Path, file: &File) -> anyhow::Result<()> {
    let shown = path.display();
    let metadata = file.metadata().with_context(|| format!("cannot read `{shown}`"))?;
    let mode = metadata.mode() & 0o7777;
    let most = most_access(Uid::from_raw(metadata.uid()), geteuid());
    // A pipe, as the shell makes of `<(pass show eventctl)`, is nobody's but ours.
    if metadata.is_file() && mode & 0o077 & !most != 0 {
        let problem = match most {
            0o640 => "its group may do more than read it, or others have access to it",
            _ => "group or others have access to it",
        };
        let problem = format!("cannot use `{shown}`: {problem} (mode {mode:04o})");
        return Err(hinted(problem, format!("run chmod {most:o} {shown}")));
    }
    Ok(())
}

/// The most access that a private file of an owner may give, where a user reads it.
///
/// Source: PostgreSQL, which has the same rule for its own keys (`check_ssl_key_file_permissions`). Kubernetes gives secrets to
/// services by it: root's, and readable by the group of a pod.
fn most_access(owner: Uid, user: Uid) -> u32 {
    if owner.is_root() && !user.is_root() { 0o640 } else { 0o600 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_group_may_read_what_is_root_s_and_not_ours() {
        for (owner, user, most) in
            [(0, 0, 0o600), (0, 1000, 0o640), (1000, 1000, 0o600), (1000, 0, 0o600), (1000, 1001, 0o600)]
        {
            assert_eq!(most_access(Uid::from_raw(owner), Uid::from_raw(user)), most, "{owner} {user}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret: Secret = "s3cret".parse().unwrap();
        assert_eq!(secret.expose(), "s3cret");
        assert!(!format!("{secret:?}").contains("s3cret"));
        assert!("".parse::<Secret>().is_err());
    }

    #[test]
    fn a_file_holds_a_secret_and_the_end_of_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let read = |content: &str, mode: u32| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Secret::read(&path)
        };
        for (content, expected) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            (" a b \r\n", " a b "),
            ("\n\n", "\n"),
            ("\u{feff}s3cret\n", "s3cret"),
        ] {
            assert_eq!(content.parse::<Secret>().unwrap().expose(), expected);
            assert_eq!(read(content, 0o600).unwrap().expose(), expected);
            assert_eq!(read(content, 0o400).unwrap().expose(), expected);
        }
        for (content, mode) in
            [("", 0o600), ("\n", 0o600), ("s3cret", 0o640), ("s3cret", 0o604), ("s3cret", 0o620)]
        {
            let error = read(content, mode).unwrap_err().to_string();
            assert!(error.contains("cannot use") && !error.contains("s3cret"), "{error}");
        }
    }
}

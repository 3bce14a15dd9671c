//! The password of a server, where the URL has none: from the variables and files of its own client tools.

use std::env;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{ServerAddress, ServerDatabase};
use crate::secret::{Secret, read_private};

impl ServerDatabase {
    /// The password of the URL, of `PGPASSWORD`, or of the file that `PGPASSFILE` names (`~/.pgpass`).
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn postgres_password(&self, address: &ServerAddress) -> anyhow::Result<Option<Secret>> {
        if let Some(password) = self.password().cloned().or_else(|| secret_of("PGPASSWORD")) {
            return Ok(Some(password));
        }
        let file = env::var_os("PGPASSFILE").map(PathBuf::from).or_else(|| in_home(".pgpass"));
        let Some(lines) = read_if_there(file.as_deref())? else { return Ok(None) };
        let host = if address.is_local_socket() { "localhost" } else { &address.host };
        let port = address.port.unwrap_or(5432).to_string();
        let wanted = [host, &port, &self.database, self.user.as_deref().unwrap_or_default()];
        Ok(lines.lines().find_map(|line| pgpass_password(line, wanted)))
    }

    /// The password of the URL, of `MYSQL_PWD`, or of the section `client` of `~/.my.cnf`.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn mysql_password(&self) -> anyhow::Result<Option<Secret>> {
        if let Some(password) = self.password().cloned().or_else(|| secret_of("MYSQL_PWD")) {
            return Ok(Some(password));
        }
        let Some(lines) = read_if_there(in_home(".my.cnf").as_deref())? else { return Ok(None) };
        Ok(option_file_password(&lines))
    }
}

fn secret_of(variable: &str) -> Option<Secret> {
    env::var(variable).ok()?.parse().ok()
}

fn in_home(name: &str) -> Option<PathBuf> {
    env::home_dir().map(|home| home.join(name))
}

/// The text of a file that is its owner's alone; nothing where there is none.
fn read_if_there(path: Option<&Path>) -> anyhow::Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    if File::open(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let content = read_private(path)?;
    Ok(Some(String::from_utf8_lossy(&content).into_owned()))
}

/// A line `host:port:database:user:password`, `*` for any, with `\` before a `:` or `\` that is meant.
///
/// Source: PostgreSQL's documentation, "The Password File".
fn pgpass_password(line: &str, wanted: [&str; 4]) -> Option<Secret> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => fields.last_mut()?.extend(characters.next()),
            ':' if fields.len() < 5 => fields.push(String::new()),
            character => fields.last_mut()?.push(character),
        }
    }
    let [patterns @ .., password] = fields.as_slice() else { return None };
    let fits = |(pattern, wanted): (&String, &str)| pattern == "*" || pattern == wanted;
    let matches = patterns.len() == wanted.len() && patterns.iter().zip(wanted).all(fits);
    (matches && !password.is_empty()).then(|| Secret::verbatim(password.as_str()))
}

/// Source: MySQL's manual, "Using Option Files".
fn option_file_password(lines: &str) -> Option<Secret> {
    let mut section = "";
    let mut found = None;
    for line in lines.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if section == "client"
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == "password"
        {
            let value = value.trim();
            let quoted =
                ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
            // The last one counts.
            found = quoted.unwrap_or(value).parse().ok();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(secret: Option<Secret>) -> Option<String> {
        secret.map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn the_password_file_of_postgres_is_read() {
        let wanted = ["db", "5432", "events", "user"];
        for (line, expected) in [
            ("db:5432:events:user:s3cret", Some("s3cret")),
            ("*:*:*:*:a\\:b\\\\c", Some("a:b\\c")),
            ("*:*:*:user:a:b", Some("a:b")),
            ("other:*:*:*:x", None),
            ("# *:*:*:*:x", None),
            ("*:*:*:x", None),
            ("", None),
        ] {
            assert_eq!(exposed(pgpass_password(line, wanted)).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn the_option_file_of_mysql_is_read() {
        let lines = "[mysqld]\npassword=no\n[client]\nuser = u\n password = 's3=cret'\n# password=x\n";
        assert_eq!(exposed(option_file_password(lines)).as_deref(), Some("s3=cret"));
        assert_eq!(exposed(option_file_password("[mysql]\npassword=x\n")), None);
    }
}

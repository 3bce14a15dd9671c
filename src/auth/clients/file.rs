//! The file of `--clients`: YAML, or JSON, which is YAML as well.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::Client;
use crate::auth::password::StoredPassword;
use crate::auth::scope::{Permissions, Scopes};
use crate::core::glob::Glob;
use crate::core::text::{from_hex, str_without_byte_order_mark};
use crate::core::type_filter::PermittedTypes;
use crate::error::hinted;
use crate::secret::Secret;

const HINT: &str = "write a client as `relay: {token-sha256: \"…\", scopes: [write], types: [\"order.*\"]}`; token-sha256 is \
    what `printf %s TOKEN | sha256sum` prints, password-hash what `printf %s PASSWORD | argon2 SALT -id -e` prints";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ClientEntry {
    password_hash: Option<String>,
    token_sha256: Option<String>,
    scopes: Vec<String>,
    types: Option<Vec<String>>,
}

/// # Errors
/// The file cannot be read, is not private, or does not hold clients. No error repeats a hash.
pub fn read(path: &Path) -> anyhow::Result<Vec<Client>> {
    let text = Secret::read(path)?;
    let shown = path.display();
    let text = str_without_byte_order_mark(text.expose());
    let entries: BTreeMap<String, ClientEntry> = serde_saphyr::from_str(text).map_err(|error| {
        let location = error.location().map(|at| format!(", line {}", at.line())).unwrap_or_default();
        hinted(format!("cannot use `{shown}`: it does not hold clients{location}"), HINT)
    })?;
    let client = |(name, entry): (String, ClientEntry)| {
        let client_of = client_of(&name, entry);
        client_of.map_err(|problem| {
            hinted(format!("cannot use the client `{name}` of `{shown}`: {problem}"), HINT)
        })
    };
    entries.into_iter().map(client).collect()
}

fn client_of(name: &str, entry: ClientEntry) -> Result<Client, String> {
    if !(1..=255).contains(&name.len()) || name.chars().any(char::is_control) {
        return Err("expected a name of 1 to 255 bytes".to_owned());
    }
    if entry.password_hash.is_none() && entry.token_sha256.is_none() {
        return Err("expected `password-hash` or `token-sha256`".to_owned());
    }
    let scopes: Scopes = entry.scopes.join(" ").parse()?;
    if scopes.is_empty() {
        return Err("expected a scope at least".to_owned());
    }
    let globs = |patterns: Vec<String>| patterns.iter().map(|pattern| pattern.parse()).collect();
    let types: Option<Vec<Glob>> = entry.types.map(globs).transpose()?;
    Ok(Client {
        name: name.to_owned(),
        password: entry.password_hash.as_deref().map(StoredPassword::parse).transpose()?,
        token_digest: entry.token_sha256.as_deref().map(digest_in_hex).transpose()?,
        permissions: Permissions {
            scopes,
            types: types.map_or_else(PermittedTypes::default, PermittedTypes::only),
        },
    })
}

fn digest_in_hex(text: &str) -> Result<[u8; 32], String> {
    let digest = from_hex(text).and_then(|bytes| bytes.try_into().ok());
    digest.ok_or_else(|| "expected `token-sha256` as 64 hexadecimal digits".to_owned())
}

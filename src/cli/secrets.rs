//! Secrets that several subcommands take: from a file, or from the environment.

use std::path::PathBuf;

use clap::Args;

use crate::auth::grant::Credentials;
use crate::error::hinted;
use crate::secret::Secret;

#[derive(Debug, Args)]
pub struct PasswordOptions {
    /// File with the password; or EVENTCTL_PASSWORD holds it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    #[arg(long, hide = true)]
    password: Option<Secret>,
}

impl PasswordOptions {
    pub(super) fn is_given(&self) -> bool {
        self.password_file.is_some() || self.password.is_some()
    }

    /// # Errors
    /// A name has no password or a password no name, or the file cannot be used.
    pub(super) fn credentials(&self, username: Option<String>) -> anyhow::Result<Option<Credentials>> {
        let password =
            Secret::choose(self.password_file.as_deref(), self.password.as_ref(), "--password-file")?;
        match (username, password) {
            (None, None) => Ok(None),
            (Some(username), Some(password)) => Ok(Some(Credentials { username, password })),
            (Some(_), None) => {
                let hint = "give --password-file FILE, or set EVENTCTL_PASSWORD";
                Err(hinted("`--username` has no password", hint))
            }
            (None, Some(_)) => Err(hinted("a password has no name", "give --username NAME")),
        }
    }
}

#[derive(Debug, Args)]
pub struct TokenOptions {
    /// File with a token that never changes; or EVENTCTL_TOKEN holds it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    #[arg(long, hide = true)]
    token: Option<Secret>,
}

impl TokenOptions {
    pub(super) fn read(&self) -> anyhow::Result<Option<Secret>> {
        Secret::choose(self.token_file.as_deref(), self.token.as_ref(), "--token-file")
    }
}

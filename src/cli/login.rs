//! How `propagate` and `tail` authenticate to a server and verify it.

use std::path::PathBuf;

use clap::Args;

use super::secrets::{PasswordOptions, TokenOptions};
use super::values::parse_username;
use crate::auth::login::LoginSettings;
use crate::auth::token_source::GrantType;
use crate::client::{Endpoint, TlsSettings};
use crate::error::hinted;

#[derive(Debug, Args)]
pub struct LoginOptions {
    /// Fetch a token with this name and its password before the first request,
    /// and a new one before it expires
    #[arg(long, value_name = "NAME", value_parser = parse_username)]
    username: Option<String>,

    #[command(flatten)]
    password: PasswordOptions,

    /// Where to fetch tokens [default: token beside the endpoint]
    #[arg(long, value_name = "URL")]
    token_url: Option<Endpoint>,

    /// How to ask for a token
    #[arg(long, value_enum, default_value_t = GrantType::ClientCredentials)]
    grant: GrantType,

    /// Scope to ask a token for, several separated by spaces
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,

    /// API that the token is for, if the token server requires it
    #[arg(long, value_name = "URL")]
    audience: Option<String>,

    #[command(flatten)]
    token: TokenOptions,
}

impl LoginOptions {
    /// # Errors
    /// A secret is missing or cannot be used, or settings contradict each other.
    pub(super) fn into_settings(self) -> anyhow::Result<LoginSettings> {
        let token = self.token.read()?;
        if token.is_some() && (self.username.is_some() || self.password.is_given()) {
            return Err(hinted("both a token and a name or password are given", "give one of them"));
        }
        Ok(match (token, self.password.credentials(self.username)?) {
            (Some(token), _) => LoginSettings::Token(token),
            (None, None) => LoginSettings::Anonymous,
            (None, Some(credentials)) => LoginSettings::Password {
                credentials,
                token_url: self.token_url,
                grant_type: self.grant,
                scope: self.scope,
                audience: self.audience,
            },
        })
    }
}

#[derive(Debug, Args)]
pub struct ClientTlsOptions {
    /// Verify the server with the CA certificates in this PEM file, instead of those
    /// of the system's trust store (SSL_CERT_FILE and SSL_CERT_DIR name another)
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,

    /// Client certificate to present to the server, as PEM
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,

    /// Private key of the certificate, as PEM
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// Do not verify the server's certificate
    #[arg(long)]
    insecure_skip_verify: bool,
}

impl ClientTlsOptions {
    /// # Errors
    /// A certificate has no key, or a key no certificate.
    pub(super) fn into_settings(self) -> anyhow::Result<TlsSettings> {
        let identity = match (self.cert, self.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(hinted("`--cert` has no private key", "give --key FILE")),
            (None, Some(_)) => return Err(hinted("`--key` has no certificate", "give --cert FILE")),
        };
        Ok(TlsSettings {
            ca_certificates: self.cacert,
            identity,
            skip_verification: self.insecure_skip_verify,
        })
    }
}

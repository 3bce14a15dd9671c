//! Builds what authenticates requests from the settings.

use std::sync::Arc;

use crate::auth::access_token::{KEY_MINIMUM_BYTES, SigningKey, SigningKeys};
use crate::auth::{self, Authenticator, Issuer, RegisteredClients};
use crate::consume::settings::AccessSettings;
use crate::error::hinted;
use crate::secret::Secret;
use crate::store::{Store, tokens};

/// The shortest fixed token, in bytes: guesses at it are not rate limited.
const TOKEN_MINIMUM_BYTES: usize = 16;

pub struct Secrets {
    /// `None` where requests need no authentication.
    clients: Option<Arc<RegisteredClients>>,
    issues_tokens: bool,
    signing_key: Option<SigningKey>,
    previous_signing_key: Option<SigningKey>,
}

impl Secrets {
    /// # Errors
    /// A token or a key is too weak, or the file of clients cannot be used.
    pub fn new(settings: AccessSettings) -> anyhow::Result<Secrets> {
        let AccessSettings { credentials, token, clients, signing_key, previous_signing_key } = settings;
        token.as_ref().map_or(Ok(()), check_token)?;
        let key_of = |secret: Option<Secret>, flag: &str| {
            secret.map(|secret| parse_signing_key(&secret, flag)).transpose()
        };
        let issues_tokens = credentials.is_some() || clients.is_some();
        let clients = match issues_tokens || token.is_some() {
            true => Some(RegisteredClients::load(credentials.as_ref(), token.as_ref(), clients)?),
            false => None,
        };
        Ok(Secrets {
            clients: clients.map(Arc::new),
            issues_tokens,
            signing_key: key_of(signing_key, "--signing-key-file")?,
            previous_signing_key: key_of(previous_signing_key, "--previous-signing-key-file")?,
        })
    }

    /// Whether requests will need a token.
    pub fn guard(&self) -> bool {
        self.clients.is_some()
    }

    /// `None` where requests need no authentication. Of passwords only hashes are kept.
    pub async fn into_access(self, store: &Store) -> anyhow::Result<Option<Authenticator>> {
        let Some(clients) = self.clients else { return Ok(None) };
        if !self.issues_tokens {
            return Ok(Some(Authenticator::new(clients, None)));
        }
        let current = match self.signing_key {
            Some(key) => key,
            None => stored_signing_key(store).await?,
        };
        let keys = SigningKeys { current, previous: self.previous_signing_key };
        let issuer = Issuer::new(Arc::clone(&clients), keys, store.clone())?;
        Ok(Some(Authenticator::new(clients, Some(issuer))))
    }
}

fn check_token(token: &Secret) -> anyhow::Result<()> {
    let problem = if token.expose().len() < TOKEN_MINIMUM_BYTES {
        format!("the token of `--token-file` is shorter than {TOKEN_MINIMUM_BYTES} bytes")
    } else if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        "the token of `--token-file` holds what a header cannot: spaces or other than ASCII".to_owned()
    } else {
        return Ok(());
    };
    Err(hinted(problem, "make one with openssl rand -hex 32"))
}

fn parse_signing_key(key: &Secret, flag: &str) -> anyhow::Result<SigningKey> {
    SigningKey::new(key.expose().as_bytes()).ok_or_else(|| {
        let problem = format!("the key of `{flag}` is shorter than {KEY_MINIMUM_BYTES} bytes");
        hinted(problem, "make one with openssl rand -base64 48")
    })
}

/// The key in the store, so that tokens outlive the process that issued them.
async fn stored_signing_key(store: &Store) -> anyhow::Result<SigningKey> {
    let candidate = auth::random()?;
    let key = store.write(move |backend| tokens::signing_key(backend, candidate)).await;
    let key = key.map_err(|error| anyhow::anyhow!("cannot keep a signing key in the store: {error}"))?;
    Ok(SigningKey::new(&key).expect("a key of the store has 32 bytes"))
}

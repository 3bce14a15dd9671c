//! From the settings to what lets requests in.

use crate::auth::access_token::{KEY_MINIMUM_BYTES, SigningKey, SigningKeys};
use crate::auth::grant::Credentials;
use crate::auth::{self, Access, Issuer};
use crate::cli::AccessOptions;
use crate::core::hint::hinted;
use crate::core::secret::Secret;
use crate::store::Store;

/// The shortest token that never changes, in bytes: whoever guesses is not slowed down.
const TOKEN_MINIMUM_BYTES: usize = 16;

/// What the settings say of passwords, keys and tokens.
pub struct Secrets {
    credentials: Option<Credentials>,
    signing_key: Option<SigningKey>,
    previous_signing_key: Option<SigningKey>,
    token: Option<Secret>,
}

impl Secrets {
    /// Takes the secrets out of the settings, and reads those that are in files.
    ///
    /// # Errors
    /// A file cannot be used, or something is missing.
    pub fn read(options: &mut AccessOptions) -> anyhow::Result<Secrets> {
        let choose = |file: &Option<_>, value: Option<Secret>, flag: &str| {
            Secret::choose(file.as_deref(), value.as_ref(), flag)
        };
        let password = choose(&options.password_file, options.password.take(), "--password-file")?;
        let key = choose(&options.signing_key_file, options.signing_key.take(), "--signing-key-file")?;
        let previous_key = choose(
            &options.previous_signing_key_file,
            options.previous_signing_key.take(),
            "--previous-signing-key-file",
        )?;
        let token = choose(&options.token_file, options.token.take(), "--token-file")?;
        token.as_ref().map_or(Ok(()), check_token)?;
        let credentials = match (options.username.clone(), password) {
            (Some(username), Some(password)) => Some(Credentials { username, password }),
            (Some(_), None) => {
                let hint = "give --password-file FILE, or set EVENTCTL_PASSWORD";
                return Err(hinted("`--username` has no password", hint));
            }
            (None, Some(_)) => return Err(hinted("a password has no name", "give --username NAME")),
            (None, None) => None,
        };
        Ok(Secrets {
            credentials,
            signing_key: key.map(|key| signing_key(&key, "--signing-key-file")).transpose()?,
            previous_signing_key: previous_key
                .map(|key| signing_key(&key, "--previous-signing-key-file"))
                .transpose()?,
            token,
        })
    }

    /// Whether requests will need a token.
    pub fn guard(&self) -> bool {
        self.credentials.is_some() || self.token.is_some()
    }

    /// What lets requests in; nothing where anyone may come in. Of the password only a hash is left.
    ///
    /// # Errors
    /// The store has no key to sign with.
    pub async fn into_access(self, store: &Store) -> anyhow::Result<Option<Access>> {
        let issuer = match self.credentials {
            None => None,
            Some(credentials) => {
                let current = match self.signing_key {
                    Some(key) => key,
                    None => stored_signing_key(store).await?,
                };
                let keys = SigningKeys { current, previous: self.previous_signing_key };
                Some(Issuer::new(credentials, keys, store.clone())?)
            }
        };
        Ok(Access::new(self.token.as_ref(), issuer))
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

fn signing_key(key: &Secret, flag: &str) -> anyhow::Result<SigningKey> {
    SigningKey::new(key.expose().as_bytes()).ok_or_else(|| {
        let problem = format!("the key of `{flag}` is shorter than {KEY_MINIMUM_BYTES} bytes");
        hinted(problem, "make one with openssl rand -base64 48")
    })
}

/// The key that the store keeps, so that tokens outlive the process that gave them.
async fn stored_signing_key(store: &Store) -> anyhow::Result<SigningKey> {
    let candidate = auth::random()?;
    let key = store.write(move |backend| backend.signing_key(candidate)).await;
    let key = key.map_err(|error| anyhow::anyhow!("cannot keep a signing key in the store: {error}"))?;
    Ok(SigningKey::new(&key).expect("a key of the store has 32 bytes"))
}

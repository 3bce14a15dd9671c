//! From a request for tokens to the tokens.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::access_token::{ACCESS_TOKEN_LIFETIME, InvalidToken, SigningKeys};
use super::grant::{Credentials, Grant};
use super::password::PasswordChecker;
use super::rate_limit::RateLimit;
use super::recent_logins::RecentLogins;
use super::{digest_of, random};
use crate::core::network::network_of;
use crate::core::secret::Secret;
use crate::core::timestamp::Timestamp;
use crate::store::backend::{Backend, RefreshToken, Rotation, StoreError};
use crate::store::{AppendError, Store};

/// How long a refresh token can be exchanged.
const REFRESH_TOKEN_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Gives tokens to whoever knows the password.
pub struct Issuer {
    username: String,
    passwords: PasswordChecker,
    /// Makes the digests by which refresh tokens are known. Its key comes from name and password: a change of
    /// either makes all that were given unknown.
    refresh_tokens: Hmac<Sha256>,
    keys: SigningKeys,
    store: Store,
    logins: RateLimit<LoginKey>,
    networks: RateLimit<IpAddr>,
    recent_logins: RecentLogins,
}

/// Who shares the attempts to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum LoginKey {
    /// All who use a name, known by its digest.
    Name([u8; 32]),
    /// Those who use the name that there is, where it has logged in lately.
    Network(IpAddr),
}

/// What a client gets (RFC 6749, section 5.1).
pub struct Tokens {
    /// Lets requests in.
    pub access_token: String,
    /// How long it does.
    pub expires_in: Duration,
    /// Gets new tokens, once. Machines that show their password each time need none (section 4.4.3).
    pub refresh_token: Option<String>,
}

/// Why a client gets no tokens.
#[derive(Debug)]
pub enum GrantError {
    /// The request makes no sense.
    InvalidRequest(&'static str),
    /// No such grant is known.
    UnsupportedGrantType,
    /// There are no scopes.
    InvalidScope,
    /// Name or password of HTTP Basic are wrong or missing.
    InvalidClient,
    /// Name, password or refresh token are wrong.
    InvalidGrant(&'static str),
    /// The refresh token was used before: all that stem from the same login are revoked.
    RefreshTokenReused,
    /// There were too many wrong attempts: how long to wait.
    TooManyAttempts(Duration),
    /// Too many logins are being checked.
    Busy,
    /// The store does not do its part.
    Store(AppendError),
}

impl Issuer {
    /// An issuer for one name and password.
    ///
    /// # Errors
    /// The password cannot be hashed.
    pub fn new(credentials: Credentials, keys: SigningKeys, store: Store) -> anyhow::Result<Issuer> {
        let username = credentials.username.clone();
        let (passwords, key) = PasswordChecker::start(credentials)?;
        Ok(Issuer {
            username,
            passwords,
            refresh_tokens: Hmac::new_from_slice(&key).expect("HMAC takes keys of any length"),
            keys,
            store,
            logins: RateLimit::new(),
            networks: RateLimit::new(),
            recent_logins: RecentLogins::default(),
        })
    }

    /// Makes sure that an access token is valid: until when.
    ///
    /// # Errors
    /// It is not.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Timestamp, InvalidToken> {
        self.keys.verify(token, &self.username, now)
    }

    /// Gives tokens to a client at an address, or to one that has none: those are not taken for one another.
    ///
    /// # Errors
    /// Why it gets none.
    pub async fn grant(&self, grant: Grant, address: Option<IpAddr>) -> Result<Tokens, GrantError> {
        let network = address.map(network_of);
        let now = Instant::now();
        let attempt = network.map(|network| self.networks.take(network, now)).transpose();
        let attempt = attempt.map_err(GrantError::TooManyAttempts)?;
        let granted = match grant {
            Grant::Password(credentials) => self.log_in(vec![credentials], true, network, now).await,
            Grant::ClientCredentials(readings) => {
                self.log_in(readings, false, network, now).await.map_err(|error| match error {
                    GrantError::InvalidGrant(_) => GrantError::InvalidClient,
                    error => error,
                })
            }
            Grant::RefreshToken(token) => self.refresh(&token).await,
        };
        let wrong = |error: &GrantError| {
            use GrantError::{InvalidClient, InvalidGrant, RefreshTokenReused};
            matches!(error, InvalidGrant(_) | RefreshTokenReused | InvalidClient)
        };
        match (&granted, attempt, network) {
            (Ok(_), _, Some(network)) => self.recent_logins.note(network, now),
            (Err(error), Some(attempt), _) if wrong(error) => attempt.was_wrong(),
            _ => {}
        }
        granted
    }

    /// `readings` are the same name and password, as they can be read; there is at least one.
    async fn log_in(
        &self,
        readings: Vec<Credentials>,
        with_refresh_token: bool,
        network: Option<IpAddr>,
        now: Instant,
    ) -> Result<Tokens, GrantError> {
        let key = self.login_key(&readings, network, now);
        let attempt = self.logins.take(key, now).map_err(GrantError::TooManyAttempts)?;
        if !self.passwords.check(readings).await.map_err(|_| GrantError::Busy)? {
            attempt.was_wrong();
            return Err(GrantError::InvalidGrant("name or password is wrong"));
        }
        drop(attempt);
        let refresh_token = if with_refresh_token { Some(self.first_refresh_token().await?) } else { None };
        self.tokens(refresh_token)
    }

    /// Whose attempts a login is one of: who guesses from elsewhere must not use up those of the name's owner.
    fn login_key(&self, readings: &[Credentials], network: Option<IpAddr>, now: Instant) -> LoginKey {
        let own = digest_of(&self.username);
        let mut names = readings.iter().map(|reading| digest_of(&reading.username));
        let first = names.next().unwrap_or_default();
        let name = if names.any(|name| name == own) { own } else { first };
        match network.filter(|network| name == own && self.recent_logins.include(*network, now)) {
            Some(network) => LoginKey::Network(network),
            None => LoginKey::Name(name),
        }
    }

    async fn first_refresh_token(&self) -> Result<String, GrantError> {
        let (text, digest) = self.new_refresh_token()?;
        let now = Timestamp::now();
        let token =
            RefreshToken { digest, family: random().map_err(no_randomness)?, expires_at: expiry(now) };
        let added = self.store.write(move |backend| backend.add_refresh_token(&token, now)).await;
        added.map_err(GrantError::Store)?;
        Ok(text)
    }

    async fn refresh(&self, token: &Secret) -> Result<Tokens, GrantError> {
        let digest = self.refresh_token_digest(token.expose());
        let (text, successor) = self.new_refresh_token()?;
        let now = Timestamp::now();
        let rotate = move |backend: &mut dyn Backend| {
            backend.rotate_refresh_token(digest, (successor, expiry(now)), now)
        };
        match self.store.write(rotate).await.map_err(GrantError::Store)? {
            Rotation::Rotated => self.tokens(Some(text)),
            Rotation::Reused => Err(GrantError::RefreshTokenReused),
            Rotation::Unknown => {
                Err(GrantError::InvalidGrant("the refresh token is not valid: log in again"))
            }
        }
    }

    /// A token of 256 random bits, and its digest.
    fn new_refresh_token(&self) -> Result<(String, [u8; 32]), GrantError> {
        let text = URL_SAFE_NO_PAD.encode(random::<32>().map_err(no_randomness)?);
        let digest = self.refresh_token_digest(&text);
        Ok((text, digest))
    }

    fn refresh_token_digest(&self, token: &str) -> [u8; 32] {
        self.refresh_tokens.clone().chain_update(token).finalize().into_bytes().into()
    }

    fn tokens(&self, refresh_token: Option<String>) -> Result<Tokens, GrantError> {
        let id: [u8; 16] = random().map_err(no_randomness)?;
        let access_token = self.keys.issue(&self.username, &id, Timestamp::now());
        Ok(Tokens { access_token, expires_in: ACCESS_TOKEN_LIFETIME, refresh_token })
    }
}

fn expiry(now: Timestamp) -> Timestamp {
    Timestamp::from_microseconds(now.as_microseconds() + REFRESH_TOKEN_LIFETIME.as_micros() as i64)
}

fn no_randomness(error: anyhow::Error) -> GrantError {
    GrantError::Store(AppendError::Store(StoreError::Refused(format!("{error:#}"))))
}

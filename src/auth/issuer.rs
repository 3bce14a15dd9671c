//! Issues access tokens and refresh tokens.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::access_token::{ACCESS_TOKEN_LIFETIME, InvalidToken, SigningKeys};
use super::bytes::{digest_of, random};
use super::grant::{Credentials, Grant, GrantError};
use super::password::PasswordChecker;
use super::rate_limit::RateLimit;
use super::recent_logins::RecentLogins;
use crate::core::network::network_of;
use crate::core::timestamp::Timestamp;
use crate::secret::Secret;
use crate::store::Store;
use crate::store::backend::Backend;
use crate::store::tokens::{self, RefreshToken, Rotation};

const REFRESH_TOKEN_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Issues tokens to clients that know the password.
pub struct Issuer {
    username: String,
    passwords: PasswordChecker,
    /// The store knows refresh tokens by their HMAC. Its key is derived from name and password, so a change of either
    /// invalidates all refresh tokens.
    refresh_token_mac: Hmac<Sha256>,
    keys: SigningKeys,
    store: Store,
    attempts_by_login: RateLimit<LoginKey>,
    attempts_by_network: RateLimit<IpAddr>,
    recent_logins: RecentLogins,
}

/// Which logins share a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum LoginKey {
    /// All with the same name, by its digest.
    Name([u8; 32]),
    /// All with the right name from a network that has recently logged in.
    Network(IpAddr),
}

/// A token response (RFC 6749, section 5.1).
pub struct Tokens {
    pub access_token: String,
    /// The lifetime of the access token.
    pub expires_in: Duration,
    /// Single-use. `None` for the client credentials grant (section 4.4.3).
    pub refresh_token: Option<String>,
}

impl Issuer {
    pub fn new(credentials: Credentials, keys: SigningKeys, store: Store) -> anyhow::Result<Issuer> {
        let username = credentials.username.clone();
        let (passwords, key) = PasswordChecker::start(credentials)?;
        Ok(Issuer {
            username,
            passwords,
            refresh_token_mac: Hmac::new_from_slice(&key).expect("HMAC takes keys of any length"),
            keys,
            store,
            attempts_by_login: RateLimit::new(),
            attempts_by_network: RateLimit::new(),
            recent_logins: RecentLogins::default(),
        })
    }

    /// Verifies an access token. Returns when it expires.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Timestamp, InvalidToken> {
        self.keys.verify(token, &self.username, now)
    }

    /// Issues tokens. Attempts are limited for each network; clients without an address do not share one limit.
    pub async fn grant(&self, grant: Grant, address: Option<IpAddr>) -> Result<Tokens, GrantError> {
        let network = address.map(network_of);
        let now = Instant::now();
        let attempt = network.map(|network| self.attempts_by_network.take(network, now)).transpose();
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
            (Ok(_), _, Some(network)) => self.recent_logins.record(network, now),
            (Err(error), Some(attempt), _) if wrong(error) => attempt.was_wrong(),
            _ => {}
        }
        granted
    }

    /// `readings` are the possible decodings of the same credentials; there is at least one.
    async fn log_in(
        &self,
        readings: Vec<Credentials>,
        with_refresh_token: bool,
        network: Option<IpAddr>,
        now: Instant,
    ) -> Result<Tokens, GrantError> {
        let key = self.login_key(&readings, network, now);
        let attempt = self.attempts_by_login.take(key, now).map_err(GrantError::TooManyAttempts)?;
        if !self.passwords.check(readings).await.map_err(|_| GrantError::Busy)? {
            attempt.was_wrong();
            return Err(GrantError::InvalidGrant("name or password is wrong"));
        }
        drop(attempt);
        let refresh_token = if with_refresh_token { Some(self.first_refresh_token().await?) } else { None };
        self.tokens(refresh_token)
    }

    /// The rate limit that a login counts against. Guesses from elsewhere must not lock the owner of the name out.
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
        let token = RefreshToken { digest, family: random()?, expires_at: expiry(now) };
        let added = self.store.write(move |backend| tokens::add_refresh_token(backend, &token, now)).await;
        added.map_err(GrantError::Store)?;
        Ok(text)
    }

    async fn refresh(&self, token: &Secret) -> Result<Tokens, GrantError> {
        let digest = self.refresh_token_digest(token.expose());
        let (text, successor) = self.new_refresh_token()?;
        let now = Timestamp::now();
        let rotate = move |backend: &mut dyn Backend| {
            tokens::rotate_refresh_token(backend, digest, (successor, expiry(now)), now)
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
        let text = URL_SAFE_NO_PAD.encode(random::<32>()?);
        let digest = self.refresh_token_digest(&text);
        Ok((text, digest))
    }

    fn refresh_token_digest(&self, token: &str) -> [u8; 32] {
        self.refresh_token_mac.clone().chain_update(token).finalize().into_bytes().into()
    }

    fn tokens(&self, refresh_token: Option<String>) -> Result<Tokens, GrantError> {
        let id: [u8; 16] = random()?;
        let access_token = self.keys.issue(&self.username, &id, Timestamp::now());
        Ok(Tokens { access_token, expires_in: ACCESS_TOKEN_LIFETIME, refresh_token })
    }
}

fn expiry(now: Timestamp) -> Timestamp {
    Timestamp::from_microseconds(now.as_microseconds() + REFRESH_TOKEN_LIFETIME.as_micros() as i64)
}

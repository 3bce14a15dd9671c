//! Issues access tokens and refresh tokens.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::access_token::{ACCESS_TOKEN_LIFETIME, AccessToken, InvalidToken, SigningKeys};
use super::bytes::{digest_of, random};
use super::clients::{Client, RegisteredClients};
use super::grant::{Credentials, Grant, GrantError, GrantRequest};
use super::password::PasswordChecker;
use super::rate_limit::RateLimit;
use super::recent_logins::{LoginOrigin, RecentLogins};
use super::scope::Scopes;
use crate::core::network::network_of;
use crate::core::timestamp::Timestamp;
use crate::secret::Secret;
use crate::store::Store;
use crate::store::backend::Backend;
use crate::store::tokens::{self, RefreshToken, Rotation};

const REFRESH_TOKEN_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Issues tokens to clients that know their password.
pub struct Issuer {
    clients: Arc<RegisteredClients>,
    passwords: PasswordChecker,
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
    /// All with the name of a client from a network where it has recently logged in.
    Recent(LoginOrigin),
}

/// A token response (RFC 6749, section 5.1).
pub struct Tokens {
    pub access_token: String,
    /// The lifetime of the access token.
    pub expires_in: Duration,
    pub scopes: Scopes,
    /// Single-use. `None` for the client credentials grant (section 4.4.3).
    pub refresh_token: Option<String>,
}

impl Issuer {
    pub fn new(clients: Arc<RegisteredClients>, keys: SigningKeys, store: Store) -> anyhow::Result<Issuer> {
        Ok(Issuer {
            clients,
            passwords: PasswordChecker::start()?,
            keys,
            store,
            attempts_by_login: RateLimit::new(),
            attempts_by_network: RateLimit::new(),
            recent_logins: RecentLogins::default(),
        })
    }

    pub fn verify(&self, token: &str, now: Timestamp) -> Result<AccessToken, InvalidToken> {
        self.keys.verify(token, now)
    }

    /// Issues tokens. Attempts are limited for each network; clients without an address do not share one limit.
    pub async fn grant(&self, request: GrantRequest, address: Option<IpAddr>) -> Result<Tokens, GrantError> {
        let network = address.map(network_of);
        let now = Instant::now();
        let attempt = network.map(|network| self.attempts_by_network.take(network, now)).transpose();
        let attempt = attempt.map_err(GrantError::TooManyAttempts)?;
        let scopes = request.scopes;
        let granted = match request.grant {
            Grant::Password(credentials) => self.log_in(vec![credentials], scopes, true, network, now).await,
            Grant::ClientCredentials(readings) => {
                self.log_in(readings, scopes, false, network, now).await.map_err(|error| match error {
                    GrantError::InvalidGrant(_) => GrantError::InvalidClient,
                    error => error,
                })
            }
            Grant::RefreshToken(token) => self.refresh(&token, scopes).await,
        };
        let wrong = |error: &GrantError| {
            use GrantError::{InvalidClient, InvalidGrant, RefreshTokenReused};
            matches!(error, InvalidGrant(_) | RefreshTokenReused | InvalidClient)
        };
        match (&granted, attempt, network) {
            (Ok((client, _)), _, Some(network)) => {
                self.recent_logins.record((digest_of(&client.name), network), now);
            }
            (Err(error), Some(attempt), _) if wrong(error) => attempt.was_wrong(),
            _ => {}
        }
        granted.map(|(_, tokens)| tokens)
    }

    /// `readings` are the possible decodings of the same credentials; there is at least one.
    async fn log_in(
        &self,
        readings: Vec<Credentials>,
        scopes: Option<Scopes>,
        with_refresh_token: bool,
        network: Option<IpAddr>,
        now: Instant,
    ) -> Result<(Arc<Client>, Tokens), GrantError> {
        let key = self.login_key(&readings, network, now);
        let attempt = self.attempts_by_login.take(key, now).map_err(GrantError::TooManyAttempts)?;
        let Some(client) = self.client_of(readings).await? else {
            attempt.was_wrong();
            return Err(GrantError::InvalidGrant("name or password is wrong"));
        };
        drop(attempt);
        let scopes = granted_scopes(scopes, client.permissions.scopes)?;
        let refresh_token =
            if with_refresh_token { Some(self.first_refresh_token(&client, scopes).await?) } else { None };
        let tokens = self.tokens(&client, scopes, refresh_token)?;
        Ok((client, tokens))
    }

    /// The client whose name and password one of the readings has. An unknown name takes as long as a known one.
    async fn client_of(&self, readings: Vec<Credentials>) -> Result<Option<Arc<Client>>, GrantError> {
        let Some(any_password) = self.clients.any_password() else { return Ok(None) };
        let mut clients = Vec::new();
        let mut pairs = Vec::new();
        for Credentials { username, password } in readings {
            let client = self.clients.by_name(&username).filter(|client| client.password.is_some());
            let stored = client.as_ref().and_then(|client| client.password.clone());
            pairs.push((password, stored.unwrap_or_else(|| any_password.clone())));
            clients.push(client);
        }
        let are_right = self.passwords.check(pairs).await.map_err(|_| GrantError::Busy)?;
        Ok(clients.into_iter().zip(are_right).find_map(|(client, is_right)| client.filter(|_| is_right)))
    }

    /// The rate limit that a login counts against. Guesses from elsewhere must not lock the owner of the name out.
    fn login_key(&self, readings: &[Credentials], network: Option<IpAddr>, now: Instant) -> LoginKey {
        let known = readings.iter().find(|reading| self.clients.by_name(&reading.username).is_some());
        let name = known.or(readings.first()).map(|reading| digest_of(&reading.username));
        let name = name.unwrap_or_default();
        let origin = network.filter(|_| known.is_some()).map(|network| (name, network));
        match origin.filter(|origin| self.recent_logins.include(*origin, now)) {
            Some(origin) => LoginKey::Recent(origin),
            None => LoginKey::Name(name),
        }
    }

    async fn first_refresh_token(&self, client: &Client, scopes: Scopes) -> Result<String, GrantError> {
        let text = new_refresh_token(client, scopes)?;
        let digest = refresh_token_digest(client, &text);
        let now = Timestamp::now();
        let token = RefreshToken { digest, family: random()?, expires_at: expiry(now) };
        let added = self.store.write(move |backend| tokens::add_refresh_token(backend, &token, now)).await;
        added.map_err(GrantError::Store)?;
        Ok(text)
    }

    async fn refresh(
        &self,
        token: &Secret,
        scopes: Option<Scopes>,
    ) -> Result<(Arc<Client>, Tokens), GrantError> {
        let invalid = || GrantError::InvalidGrant("the refresh token is not valid: log in again");
        let (client, permitted) = self.owner_of(token.expose()).ok_or_else(invalid)?;
        let scopes = granted_scopes(scopes, permitted)?;
        let digest = refresh_token_digest(&client, token.expose());
        // The scopes of the first token remain those of its successors (RFC 6749, section 6).
        let text = new_refresh_token(&client, permitted)?;
        let successor = refresh_token_digest(&client, &text);
        let now = Timestamp::now();
        let rotate = move |backend: &mut dyn Backend| {
            tokens::rotate_refresh_token(backend, digest, (successor, expiry(now)), now)
        };
        match self.store.write(rotate).await.map_err(GrantError::Store)? {
            Rotation::Rotated => {
                let tokens = self.tokens(&client, scopes, Some(text))?;
                Ok((client, tokens))
            }
            Rotation::Reused => Err(GrantError::RefreshTokenReused),
            Rotation::Unknown => Err(invalid()),
        }
    }

    /// Whom a refresh token says that it was issued to, and the scopes that it may still give.
    fn owner_of(&self, token: &str) -> Option<(Arc<Client>, Scopes)> {
        // Versions without scopes issued tokens to the client of `--username` only.
        let Some((_, owner)) = token.split_once('.') else {
            return Some((self.clients.own(), Scopes::ALL));
        };
        let (name, scopes) = owner.split_once('.')?;
        let name = String::from_utf8(URL_SAFE_NO_PAD.decode(name).ok()?).ok()?;
        let client = self.clients.by_name(&name)?;
        let scopes: Scopes = scopes.replace('-', " ").parse().ok()?;
        let permitted = scopes.common(client.permissions.scopes);
        Some((client, permitted))
    }

    fn tokens(
        &self,
        client: &Client,
        scopes: Scopes,
        refresh_token: Option<String>,
    ) -> Result<Tokens, GrantError> {
        let id: [u8; 16] = random()?;
        let access_token = self.keys.issue(&client.name, scopes, &id, Timestamp::now());
        Ok(Tokens { access_token, expires_in: ACCESS_TOKEN_LIFETIME, scopes, refresh_token })
    }
}

/// All that are permitted, unless fewer are asked for.
fn granted_scopes(asked: Option<Scopes>, permitted: Scopes) -> Result<Scopes, GrantError> {
    match asked {
        Some(asked) if !permitted.include_all(asked) => {
            Err(GrantError::InvalidScope("this client does not have all of these scopes"))
        }
        asked => Ok(asked.unwrap_or(permitted)),
    }
}

/// 256 random bits, the client's name and the scopes. The store knows only the digest, so none of it can be changed.
fn new_refresh_token(client: &Client, scopes: Scopes) -> Result<String, GrantError> {
    let secret = URL_SAFE_NO_PAD.encode(random::<32>()?);
    let name = URL_SAFE_NO_PAD.encode(&client.name);
    Ok(format!("{secret}.{name}.{}", scopes.to_string().replace(' ', "-")))
}

/// The HMAC of a refresh token, by which the store knows it. Its key is derived from the client's password, so a change of
/// the password invalidates all refresh tokens.
fn refresh_token_digest(client: &Client, token: &str) -> [u8; 32] {
    let key = client.password.as_ref().map(|password| password.derived_key).unwrap_or_default();
    let mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
    mac.chain_update(token).finalize().into_bytes().into()
}

fn expiry(now: Timestamp) -> Timestamp {
    Timestamp::from_microseconds(now.as_microseconds() + REFRESH_TOKEN_LIFETIME.as_micros() as i64)
}

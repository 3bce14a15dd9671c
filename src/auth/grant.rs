//! Token requests (RFC 6749, sections 4.3, 4.4 and 6).

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::bytes::NoRandomBytes;
use super::scope::Scopes;
use crate::secret::Secret;
use crate::store::AppendError;

/// What a client asks for.
#[derive(Debug)]
pub struct GrantRequest {
    pub grant: Grant,
    /// `None` for all scopes that the client may have.
    pub scopes: Option<Scopes>,
}

#[derive(Debug)]
pub enum Grant {
    Password(Credentials),
    /// HTTP Basic credentials, in each way to decode them; at least one.
    ClientCredentials(Vec<Credentials>),
    RefreshToken(Secret),
}

#[derive(Debug, Clone)]
pub struct Credentials {
    pub username: String,
    pub password: Secret,
}

/// Why a client gets no tokens. The first five are error codes of RFC 6749, section 5.2.
#[derive(Debug, Error)]
pub enum GrantError {
    #[error("{0}")]
    InvalidRequest(&'static str),
    #[error("expected password, client_credentials or refresh_token")]
    UnsupportedGrantType,
    #[error("{0}")]
    InvalidScope(&'static str),
    #[error("name or password of HTTP Basic are wrong or missing")]
    InvalidClient,
    #[error("{0}")]
    InvalidGrant(&'static str),
    /// Counts as theft: all tokens of that login are revoked.
    #[error("the refresh token was used before: log in again")]
    RefreshTokenReused,
    /// With the time to wait.
    #[error("too many attempts of this name or address")]
    TooManyAttempts(Duration),
    #[error("too many logins at once")]
    Busy,
    #[error(transparent)]
    NoRandomBytes(#[from] NoRandomBytes),
    #[error("{0}")]
    Store(AppendError),
}

impl GrantRequest {
    /// Parses a form-encoded body and the value of the `Authorization` header.
    pub fn parse(body: &[u8], authorization: Option<&str>) -> Result<GrantRequest, GrantError> {
        let form = Form::parse(body)?;
        let scopes = form.get("scope").map(str::parse).transpose().map_err(GrantError::InvalidScope)?;
        Ok(GrantRequest { grant: Grant::of(&form, authorization)?, scopes })
    }
}

impl Grant {
    fn of(form: &Form<'_>, authorization: Option<&str>) -> Result<Grant, GrantError> {
        let grant_type = match form.get("grant_type") {
            // Some clients that know only the password grant omit the type.
            None if form.get("username").is_some() && form.get("password").is_some() => "password",
            _ => form.required("grant_type", "the grant_type is missing")?,
        };
        match grant_type {
            "password" => {
                let username = form.required("username", "the username is missing")?.to_owned();
                let password = Secret::verbatim(form.required("password", "the password is missing")?);
                Ok(Grant::Password(Credentials { username, password }))
            }
            "client_credentials" => {
                let readings = authorization.map_or_else(Vec::new, basic_credentials);
                if readings.is_empty() {
                    return Err(GrantError::InvalidClient);
                }
                Ok(Grant::ClientCredentials(readings))
            }
            "refresh_token" => {
                let token = form.required("refresh_token", "the refresh_token is missing")?;
                Ok(Grant::RefreshToken(Secret::verbatim(token)))
            }
            _ => Err(GrantError::UnsupportedGrantType),
        }
    }
}

/// The parameters of a form. A parameter without a value counts as omitted (RFC 6749, section 3.2).
struct Form<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl Form<'_> {
    fn parse(body: &[u8]) -> Result<Form<'_>, GrantError> {
        let mut parameters: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(body).filter(|(_, value)| !value.is_empty()) {
            if parameters.iter().any(|(earlier, _)| *earlier == name) {
                return Err(GrantError::InvalidRequest("a parameter is given twice"));
            }
            parameters.push((name, value));
        }
        Ok(Form(parameters))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_ref())
    }

    fn required(&self, name: &str, problem: &'static str) -> Result<&str, GrantError> {
        self.get(name).ok_or(GrantError::InvalidRequest(problem))
    }
}

/// RFC 7617. RFC 6749, section 2.3.1, wants both parts form-encoded, but common clients do not encode them. If that
/// makes a difference, both readings are returned.
fn basic_credentials(authorization: &str) -> Vec<Credentials> {
    let decode = || {
        let (scheme, encoded) = authorization.split_once(' ')?;
        let is_basic = scheme.eq_ignore_ascii_case("basic");
        let decoded = STANDARD.decode(encoded.trim()).ok().filter(|_| is_basic)?;
        let (username, password) = str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some((username.to_owned(), password.to_owned()))
    };
    let Some((username, password)) = decode() else { return Vec::new() };
    let form_encoded = (form_decoded(&username), form_decoded(&password));
    let as_it_is = Some((username, password)).filter(|as_it_is| *as_it_is != form_encoded);
    let readings = [Some(form_encoded), as_it_is].into_iter().flatten();
    let readings = readings.filter(|(_, password)| !password.is_empty());
    readings
        .map(|(username, password)| Credentials { username, password: Secret::verbatim(password) })
        .collect()
}

/// `&` and `=` are no separators here.
fn form_decoded(text: &str) -> String {
    let text = text.replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(text.as_bytes()).next().map_or_else(String::new, |(name, _)| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings_of(credentials: &str) -> Vec<(String, String)> {
        let readings = basic_credentials(&format!("Basic {}", STANDARD.encode(credentials)));
        let shown = readings.into_iter();
        shown.map(|reading| (reading.username, reading.password.expose().to_owned())).collect()
    }

    #[test]
    fn basic_credentials_are_read_as_they_are_and_form_decoded() {
        let pair = |username: &str, password: &str| (username.to_owned(), password.to_owned());
        assert_eq!(readings_of("ada:a b&c=d"), [pair("ada", "a b&c=d")]);
        assert_eq!(readings_of("ada:a+b"), [pair("ada", "a b"), pair("ada", "a+b")]);
        assert_eq!(readings_of("ada:a%2Bb"), [pair("ada", "a+b"), pair("ada", "a%2Bb")]);
        assert_eq!(readings_of("a+da:x:y"), [pair("a da", "x:y"), pair("a+da", "x:y")]);
        assert_eq!(readings_of("ada:100%"), [pair("ada", "100%")]);
        assert_eq!(readings_of("ada:"), []);
        assert_eq!(readings_of("ada"), []);
    }

    #[test]
    fn a_password_grant_may_omit_its_type() {
        let parse = |form: &str| GrantRequest::parse(form.as_bytes(), None).map(|request| request.grant);
        assert!(matches!(parse("username=ada&password=x"), Ok(Grant::Password(_))));
        assert!(matches!(parse("grant_type=&username=ada&password=x"), Ok(Grant::Password(_))));
        for form in ["", "username=ada", "password=x", "username=ada&password=", "refresh_token=x"] {
            assert!(matches!(parse(form), Err(GrantError::InvalidRequest(_))), "{form}");
        }
    }
}

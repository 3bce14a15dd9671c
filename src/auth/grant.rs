//! What a client asks for at the token endpoint (RFC 6749, sections 4.3, 4.4 and 6).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::GrantError;
use crate::core::secret::Secret;

/// A request for tokens.
#[derive(Debug)]
pub enum Grant {
    /// A name and a password in the body.
    Password(Credentials),
    /// A name and a password as HTTP Basic.
    ClientCredentials(Credentials),
    /// A refresh token that was given before.
    RefreshToken(Secret),
}

/// A name and a password.
#[derive(Debug)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

impl Grant {
    /// Reads a form-encoded body, and the `Authorization` header that came with it, if any.
    ///
    /// # Errors
    /// What the RFC calls invalid, with its own code.
    pub fn parse(body: &[u8], authorization: Option<&str>) -> Result<Grant, GrantError> {
        let form = Form::parse(body)?;
        if form.get("scope").is_some() {
            return Err(GrantError::InvalidScope);
        }
        match form.required("grant_type", "the grant_type is missing")? {
            "password" => {
                let username = form.required("username", "the username is missing")?.to_owned();
                let password = secret(form.required("password", "the password is missing")?);
                Ok(Grant::Password(Credentials { username, password }))
            }
            "client_credentials" => {
                let credentials = authorization.and_then(basic_credentials);
                credentials.map(Grant::ClientCredentials).ok_or(GrantError::InvalidClient)
            }
            "refresh_token" => {
                let token = form.required("refresh_token", "the refresh_token is missing")?;
                Ok(Grant::RefreshToken(secret(token)))
            }
            _ => Err(GrantError::UnsupportedGrantType),
        }
    }
}

/// The parameters of a form; those without a value count as omitted (RFC 6749, section 3.2).
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

/// RFC 7617; both parts are form-encoded inside (RFC 6749, section 2.3.1).
fn basic_credentials(authorization: &str) -> Option<Credentials> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    let username = form_decoded(username);
    let password = form_decoded(password).parse().ok()?;
    Some(Credentials { username, password })
}

/// The separators of a form stand for themselves here.
fn form_decoded(text: &str) -> String {
    let text = text.replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(text.as_bytes()).next().map_or_else(String::new, |(name, _)| name.into_owned())
}

fn secret(text: &str) -> Secret {
    text.parse().expect("a parameter without a value counts as omitted")
}

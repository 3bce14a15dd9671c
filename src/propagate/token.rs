//! The tokens that sends carry: from which server, and the first one before the first send.

use hyper::Uri;
use hyper::header::AUTHORIZATION;
use hyper::http::uri::PathAndQuery;
use tokio::time::sleep;

use super::sender::BACKOFF;
use super::settings::Settings;
use crate::auth::login::Authorization;
use crate::auth::token_source::FetchError;
use crate::client::{Endpoint, HttpClient};
use crate::error::hinted;

/// How requests are authorized; no token is fetched yet.
///
/// # Errors
/// A secret is missing or cannot be used, or a `--header` competes with it.
pub fn authorization(settings: &Settings, http: &HttpClient) -> anyhow::Result<Authorization> {
    let endpoint = &settings.endpoint;
    let authorization = Authorization::new(&settings.login, endpoint, default_token_url(endpoint), http)?;
    let header_is_given = settings.headers.iter().any(|header| header.name == AUTHORIZATION);
    if header_is_given && !matches!(authorization, Authorization::None) {
        let problem = "both `--header` and the token set Authorization";
        return Err(hinted(problem, "give one of them"));
    }
    Ok(authorization)
}

/// The token endpoint in the same folder as the event endpoint, so that a path prefix of a proxy holds for both.
fn default_token_url(endpoint: &Endpoint) -> Endpoint {
    let path = endpoint.0.path().trim_end_matches('/');
    let folder = path.rfind('/').map_or("", |slash| &path[..slash]);
    let mut parts = endpoint.0.clone().into_parts();
    let path_and_query = PathAndQuery::try_from(format!("{folder}/token"));
    parts.path_and_query = Some(path_and_query.expect("a part of a path, and a name behind it, are a path"));
    Endpoint(Uri::from_parts(parts).expect("a scheme, an authority and a path make a URI"))
}

/// Fetches the first token, where tokens are fetched, and retries transient failures.
pub async fn log_in(authorization: &Authorization, retries: u32) -> anyhow::Result<()> {
    let mut retry = 0;
    loop {
        let (reason, hint) = match authorization.log_in().await {
            Ok(()) => return Ok(()),
            Err(FetchError::Refused(reason)) => {
                (reason, "check --username, its password, --token-url and --grant")
            }
            Err(FetchError::Transient { reason, .. }) if retry == retries => {
                (reason, "start the token server, or name it with --token-url")
            }
            Err(FetchError::Transient { retry_after, .. }) => {
                retry += 1;
                sleep(retry_after + BACKOFF.wait(retry, &mut fastrand::Rng::new())).await;
                continue;
            }
        };
        return Err(hinted(format!("cannot fetch a token: {reason}"), hint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_url_defaults_to_a_sibling_of_the_endpoint() {
        for (endpoint, expected) in [
            ("http://a/event", "http://a/token"),
            ("http://a:8000/event?x=y", "http://a:8000/token"),
            ("https://a/ev/event", "https://a/ev/token"),
            ("https://a/ev/event/", "https://a/ev/token"),
            ("https://a", "https://a/token"),
            ("https://a/", "https://a/token"),
        ] {
            assert_eq!(default_token_url(&endpoint.parse().unwrap()).to_string(), expected);
        }
    }
}

//! Requests to a `consume` elsewhere, with a token where one is needed.

use std::time::Duration;

use anyhow::bail;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::{Request, Response, StatusCode};

use crate::auth::login::Authorization;
use crate::auth::token_source::FetchError;
use crate::client::{Endpoint, HttpClient};
use crate::error::hinted;
use crate::tail::settings::ServiceSettings;

/// How long a response may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest response, or message of a stream, that is read: what a page can come to whose strings are all escapes, and
/// one of the largest events besides.
pub const RESPONSE_LIMIT_BYTES: usize = 64 << 20;

/// A service, and what it is asked with.
pub struct ServiceConnection {
    http: HttpClient,
    authorization: Authorization,
    /// The URL that its paths follow.
    pub base: String,
}

impl ServiceConnection {
    /// Logs in where that is needed. The token is renewed for as long as the runtime runs.
    ///
    /// # Errors
    /// The settings cannot be used, or the login is refused.
    pub async fn open(settings: &ServiceSettings) -> anyhow::Result<ServiceConnection> {
        let ServiceSettings { endpoint, login, tls } = settings;
        let base = base_of(endpoint)?;
        let default_token_url: Endpoint =
            format!("{base}/token").parse().map_err(|error: String| anyhow::anyhow!(error))?;
        let http = HttpClient::from_settings(tls, 1, TIMEOUT)?;
        let authorization = Authorization::new(login, endpoint, default_token_url, &http)?;
        if let Err(error) = authorization.log_in().await {
            let hint = "check --username, --password-file and --token-url";
            return Err(hinted(format!("cannot log in at `{base}`: {error}"), hint));
        }
        // A frame that arrives does not cancel a renewal.
        let renewed = authorization.clone();
        tokio::spawn(async move { renewed.renew().await });
        Ok(ServiceConnection { http, authorization, base })
    }

    /// Sends a request, again with a new token where the first is refused, and reads the response.
    pub async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        let response = self.http.exchange_within(self.authorized(&request), RESPONSE_LIMIT_BYTES).await?;
        if !self.renews(response.status()).await? {
            return Ok(response);
        }
        self.http.exchange_within(self.authorized(&request), RESPONSE_LIMIT_BYTES).await
    }

    /// The same, for a response whose body goes on.
    pub async fn open_stream(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        let response = self.http.open(self.authorized(&request)).await?;
        if !self.renews(response.status()).await? {
            return Ok(response);
        }
        self.http.open(self.authorized(&request)).await
    }

    fn authorized(&self, request: &Request<Full<Bytes>>) -> Request<Full<Bytes>> {
        let mut request = request.clone();
        let (authorization, _) = self.authorization.current();
        request.headers_mut().extend(authorization.map(|value| (AUTHORIZATION, value)));
        request
    }

    /// Whether a request is to be sent again with a new token: one can be taken back before it runs out.
    async fn renews(&self, status: StatusCode) -> anyhow::Result<bool> {
        let Authorization::Fetched(tokens) = &self.authorization else { return Ok(false) };
        if status != StatusCode::UNAUTHORIZED {
            return Ok(false);
        }
        let (_, generation) = self.authorization.current();
        match tokens.replace(generation).await {
            Ok(()) => Ok(true),
            // What the server says to the old token is what there is to say.
            Err(FetchError::Refused(_)) => Ok(false),
            Err(error @ FetchError::Transient { .. }) => bail!("cannot renew the token: {error}"),
        }
    }
}

/// The URL that the paths of the service stand behind: that of `/event` does as well.
fn base_of(endpoint: &Endpoint) -> anyhow::Result<String> {
    if endpoint.0.query().is_some() {
        return Err(hinted(
            format!("cannot show `{endpoint}`: the URL has a query"),
            "give the URL of the service alone, such as https://host:8000",
        ));
    }
    let url = endpoint.to_string();
    let url = url.trim_end_matches('/');
    Ok(url.strip_suffix("/event").unwrap_or(url).trim_end_matches('/').to_owned())
}

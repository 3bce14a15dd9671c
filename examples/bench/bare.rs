//! The least that answering a request can cost: hyper reads the body and answers 201.

use std::convert::Infallible;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// One worker beside one core of load is the fastest on two cores, as it is for `consume`.
const WORKERS: usize = 1;

/// The argument that makes this program the bare server.
pub const ROLE: &str = "bare-server";

/// Serves on a free port until it is killed.
pub fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        eprintln!("listening on http://{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let read = request.into_body().collect().await;
    let status = if read.is_ok() { StatusCode::CREATED } else { StatusCode::BAD_REQUEST };
    let mut response = Response::new(Full::new(Bytes::from_static(br#"{"status":"success"}"#)));
    *response.status_mut() = status;
    Ok(response)
}

//! A client that shows exactly what goes over the wire.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::PATIENCE;

/// A connection that is kept alive.
pub struct Connection<S = TcpStream> {
    stream: BufReader<S>,
    /// What the server is called.
    host: String,
}

/// A response, read whole.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The target of the request that a reference in this response leads to (RFC 3986, section 5); `target` was that of
    /// its own.
    pub fn target(&self, target: &str, reference: &str) -> String {
        let base = url::Url::parse("http://test").unwrap().join(target).unwrap();
        let found = base.join(reference).unwrap();
        found.as_str().strip_prefix("http://test").unwrap().to_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

impl Connection {
    pub fn open(address: SocketAddr) -> Connection {
        Connection::try_open(address).unwrap()
    }

    pub fn try_open(address: SocketAddr) -> io::Result<Connection> {
        open_stream(address).map(Connection::over)
    }

    /// Opens a connection from an address of this machine, such as any of 127.0.0.0/8.
    pub fn open_from(local: IpAddr, address: SocketAddr) -> Connection {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let connected = runtime.block_on(async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(local, 0))?;
            socket.connect(address).await?.into_std()
        });
        let stream = connected.unwrap();
        stream.set_nonblocking(false).unwrap();
        patient(stream).map(Connection::over).unwrap()
    }
}

/// A stream that does not wait for ever.
pub fn open_stream(address: SocketAddr) -> io::Result<TcpStream> {
    patient(TcpStream::connect(address)?)
}

fn patient(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl<S: Read + Write> Connection<S> {
    /// HTTP over a stream.
    pub fn over(stream: S) -> Connection<S> {
        Connection { stream: BufReader::new(stream), host: "test".to_owned() }
    }

    /// The same, by another name of the server.
    pub fn called(self, host: &str) -> Connection<S> {
        Connection { host: host.to_owned(), ..self }
    }

    pub fn stream(&self) -> &S {
        self.stream.get_ref()
    }

    /// Writes bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads a response to a request that is not HEAD.
    pub fn receive(&mut self) -> io::Result<Response> {
        self.receive_body(true)
    }

    fn receive_body(&mut self, has_body: bool) -> io::Result<Response> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not a status line: {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: Vec::new() };
        let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        if has_body {
            response.body.resize(length, 0);
            self.stream.read_exact(&mut response.body)?;
        }
        Ok(response)
    }

    /// The next chunk (RFC 9112, section 7.1) of a body that has no length; none at its end.
    pub fn receive_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let length = self.line()?;
        let length = usize::from_str_radix(&length, 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk)?;
        assert!(chunk.ends_with(b"\r\n"), "a chunk without end");
        chunk.truncate(length);
        Ok((length > 0).then_some(chunk))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if !line.ends_with('\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Whether the other side has closed the connection, after all that it sent was read.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(length) => length == 0,
            // Open, and silent for longer than anything may take.
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    /// A request with its response; the body goes with its length, and is announced as JSON unless a header says
    /// otherwise.
    pub fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || method == "POST" {
            request += &format!("Content-Length: {}\r\n", body.len());
            if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
                request += "Content-Type: application/json\r\n";
            }
        }
        request += "\r\n";
        self.send(&[request.as_bytes(), body].concat())?;
        self.receive_body(method != "HEAD")
    }

    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_request(method, path, headers, body).unwrap()
    }

    pub fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    /// Posts a form to `/token`.
    pub fn post_form(&mut self, form: impl AsRef<[u8]>) -> Response {
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        self.request("POST", "/token", &headers, form.as_ref())
    }

    /// Posts JSON to `/event`.
    pub fn post(&mut self, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", "/event", &[("Content-Type", "application/json")], body.as_ref())
    }

    /// Posts JSON to `/event` with a key.
    pub fn try_post_with_key(&mut self, key: &str, body: impl AsRef<[u8]>) -> io::Result<Response> {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
        self.try_request("POST", "/event", &headers, body.as_ref())
    }

    pub fn post_event(&mut self, event_type: &str, event_payload: &str) -> Response {
        self.post(event(event_type, event_payload))
    }
}

/// An event as JSON.
pub fn event(event_type: &str, event_payload: &str) -> String {
    json!({"event_type": event_type, "event_payload": event_payload}).to_string()
}

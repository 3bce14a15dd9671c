//! Requests byte by byte, and the responses to them, read whole.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::document::{DOCUMENT, Operation, Seen};
use crate::util::http::{Response, open_stream};

/// What the document says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// It fits: it is not refused for its form.
    Fits,
    /// It does not fit: it is no success.
    DoesNotFit,
    /// The document does not say.
    Anything,
}

/// How much of a body is sent, and how its length is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By its length, where there is one.
    Length,
    /// In chunks.
    Chunked,
    /// By a length that is greater; then the client is done.
    CutOff,
    /// By a length that is greater; then the client waits.
    Stalled,
    /// By a header of its own.
    Given,
}

/// A request of an operation.
#[derive(Debug, Clone)]
pub struct Request {
    pub operation: Operation,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub framing: Framing,
    pub expectation: Expectation,
}

impl Request {
    pub fn new(operation: &Operation, method: &str, target: &str) -> Request {
        Request {
            operation: operation.clone(),
            method: method.to_owned(),
            target: target.to_owned(),
            headers: vec![("Host".to_owned(), b"test".to_vec())],
            body: Vec::new(),
            framing: Framing::Length,
            expectation: Expectation::Anything,
        }
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Request {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub fn body(mut self, media_type: &str, body: impl AsRef<[u8]>) -> Request {
        self.body = body.as_ref().to_vec();
        self.header("Content-Type", media_type)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        let length = self.body.len();
        match self.framing {
            Framing::Length if length > 0 || self.method == "POST" => {
                bytes.extend(format!("Content-Length: {length}\r\n\r\n").into_bytes());
                bytes.extend(&self.body);
            }
            Framing::Chunked => {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in self.body.chunks(1 + length / 3) {
                    bytes.extend([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
                }
                bytes.extend(b"0\r\n\r\n");
            }
            Framing::CutOff | Framing::Stalled => {
                bytes.extend(format!("Content-Length: {}\r\n\r\n", length + 10).into_bytes());
                bytes.extend(&self.body);
            }
            Framing::Length | Framing::Given => {
                bytes.extend(b"\r\n");
                bytes.extend(&self.body);
            }
        }
        bytes
    }
}

/// A client that holds each answer against the document.
pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    pub seen: Seen,
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client { address, connection: None, seen: Seen::new() }
    }

    /// The answer to a request, which is as the document says.
    pub fn send(&mut self, request: &Request) -> Response {
        let response = match self.try_send(request) {
            Ok(response) => response,
            Err(error) => panic!("{}: {error}: {}", request.operation.name(), shown(request)),
        };
        let checked = DOCUMENT.check(&request.operation, &request.method, &response);
        let checked = checked.and_then(|seen| as_expected(request, &response).map(|()| seen));
        match checked {
            Ok(seen) => drop(self.seen.insert(seen)),
            Err(error) => {
                panic!("{}: {error}\n{response:?}\nto {}", request.operation.name(), shown(request))
            }
        }
        response
    }

    fn try_send(&mut self, request: &Request) -> io::Result<Response> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => BufReader::new(open_stream(self.address)?),
        };
        // What is refused is answered before all of it is read.
        let _ = connection.get_mut().write_all(&request.bytes());
        if request.framing == Framing::CutOff {
            let _ = connection.get_mut().shutdown(Shutdown::Write);
        }
        let mut response = receive(&mut connection, request.method == "HEAD")?;
        while response.status < 200 {
            let seen = DOCUMENT.check(&request.operation, "HEAD", &response).map_err(io::Error::other)?;
            self.seen.insert(seen);
            response = receive(&mut connection, request.method == "HEAD")?;
        }
        let closes = response.header("connection") == Some("close");
        let framed = matches!(request.framing, Framing::Length | Framing::Chunked);
        let endless = response.header("content-type") == Some("text/event-stream");
        if framed && !closes && !endless {
            self.connection = Some(connection);
        }
        Ok(response)
    }
}

fn shown(request: &Request) -> String {
    let bytes = request.bytes();
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned();
    format!("{} bytes, expected {:?}: {text:?}", bytes.len(), request.expectation)
}

/// Refusals for the form of a request.
const REFUSALS: [u16; 7] = [405, 408, 411, 413, 414, 415, 431];

fn as_expected(request: &Request, response: &Response) -> Result<(), String> {
    let status = response.status;
    // What is wrong with a grant is 400, too.
    let grant = status == 400 && response.header("content-type") == Some("application/json");
    let refused = match grant.then(|| response.json()) {
        Some(error) => error["error"] != "invalid_grant",
        None => status == 400 || REFUSALS.contains(&status),
    };
    match request.expectation {
        Expectation::Fits if status == 401 && request.operation.path.as_deref() != Some("/token") => {
            Err("refused, though it has a token or needs none".to_owned())
        }
        Expectation::Fits if refused => Err("refused, though it fits the document".to_owned()),
        Expectation::DoesNotFit if status < 400 => {
            Err("taken, though it does not fit the document".to_owned())
        }
        _ => Ok(()),
    }
}

fn receive(stream: &mut BufReader<TcpStream>, is_head: bool) -> io::Result<Response> {
    let status_line = line(stream)?;
    let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("not a status line: {status_line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = line(stream)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };
    let endless = response.header("content-type") == Some("text/event-stream");
    if is_head || endless || status < 200 {
        return Ok(response);
    }
    if response.header("transfer-encoding") == Some("chunked") {
        loop {
            let length = usize::from_str_radix(&line(stream)?, 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; length];
            stream.read_exact(&mut chunk)?;
            line(stream)?;
            if length == 0 {
                return Ok(response);
            }
            response.body.extend(chunk);
        }
    }
    let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
    response.body.resize(length, 0);
    stream.read_exact(&mut response.body)?;
    Ok(response)
}

fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\n") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

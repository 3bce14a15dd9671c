//! HTTP/2: a client that keeps the rules, and frames for one that does not.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::PATIENCE;
use super::http::{Response, event};
use super::tls::{H2, HTTP_1_1, TlsClient, TlsStream};

/// A connection that is kept alive.
pub struct Http2Connection {
    runtime: Runtime,
    requests: SendRequest<Full<Bytes>>,
    ending: JoinHandle<()>,
}

impl Http2Connection {
    pub fn open(client: &TlsClient, address: SocketAddr) -> io::Result<Http2Connection> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let connector = TlsConnector::from(client.offering(&[H2, HTTP_1_1]));
        let (requests, ending) = runtime.block_on(async {
            let stream = TcpStream::connect(address).await?;
            let stream = connector.connect(ServerName::from(address.ip()), stream).await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(H2));
            let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let (requests, connection) = handshake.await.map_err(io::Error::other)?;
            let ending = tokio::spawn(async {
                let _ = connection.await;
            });
            io::Result::Ok((requests, ending))
        })?;
        Ok(Http2Connection { runtime, requests, ending })
    }

    /// A request with its response.
    pub fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> hyper::Result<Response> {
        let mut request = Request::builder().method(method).uri(format!("https://test{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if method == "POST" && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::from(body.to_vec())).unwrap();
        self.runtime.block_on(async {
            self.requests.ready().await?;
            let (head, body) = self.requests.send_request(request).await?.into_parts();
            let value = |value: &hyper::header::HeaderValue| value.to_str().unwrap().to_owned();
            let headers = head.headers.iter().map(|(name, content)| (name.to_string(), value(content)));
            let headers = headers.collect();
            let body = body.collect().await?.to_bytes().to_vec();
            Ok(Response { status: head.status.as_u16(), headers, body })
        })
    }

    /// A response whose body goes on, with that body.
    pub fn open_stream(&mut self, path: &str) -> hyper::Response<hyper::body::Incoming> {
        let request = Request::get(format!("https://test{path}")).body(Full::default()).unwrap();
        self.runtime
            .block_on(async {
                self.requests.ready().await?;
                self.requests.send_request(request).await
            })
            .unwrap()
    }

    /// Some more of such a body; none at its clean end.
    pub fn read_some(&mut self, body: &mut hyper::body::Incoming) -> hyper::Result<Option<Bytes>> {
        let frame = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, body.frame()).await });
        Ok(frame.unwrap().transpose()?.map(|frame| frame.into_data().unwrap()))
    }

    pub fn get(&mut self, path: &str) -> Response {
        self.try_request("GET", path, &[], b"").unwrap()
    }

    pub fn try_post_event(&mut self, event_type: &str, event_payload: &str) -> hyper::Result<Response> {
        let headers = [("content-type", "application/json")];
        self.try_request("POST", "/event", &headers, event(event_type, event_payload).as_bytes())
    }

    pub fn post_event(&mut self, event_type: &str, event_payload: &str) -> Response {
        self.try_post_event(event_type, event_payload).unwrap()
    }

    /// Waits until the server has closed the connection.
    pub fn wait_for_end(&mut self) {
        let ending = &mut self.ending;
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, ending).await }).unwrap().unwrap();
    }
}

// RFC 9113, section 6: the types of frames, and section 7: the codes of errors.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a RST_STREAM or a GOAWAY.
    fn code(&self) -> u32 {
        let start = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[start..start + 4].try_into().unwrap())
    }
}

/// A frame as it is sent.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// Settings by their numbers (RFC 9113, section 6.5.2).
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(number, value)| [&number.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub fn rst_stream(stream: u32) -> Vec<u8> {
    // 8: CANCEL.
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Fields that are neither indexed nor compressed (RFC 7541, section 6.2.2).
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            push_integer(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// RFC 7541, section 5.1, with a prefix of 7 bits.
fn push_integer(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return block.push(u8::try_from(value).unwrap());
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    block.push(u8::try_from(value).unwrap());
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A response, with what came of its body.
    Answered(u16, Vec<u8>),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
    /// The connection was closed.
    Closed,
}

impl Outcome {
    pub fn status(&self) -> Option<u16> {
        match self {
            Outcome::Answered(status, _) => Some(*status),
            _ => None,
        }
    }
}

/// A connection on which frames are sent as they are.
pub struct Frames {
    stream: TlsStream,
    received: Vec<u8>,
}

impl Frames {
    /// A connection on which both sides have made their settings.
    pub fn open(client: &TlsClient, address: SocketAddr) -> Frames {
        Frames::open_with(client, address, &[])
    }

    /// The same, with settings.
    pub fn open_with(client: &TlsClient, address: SocketAddr, values: &[(u16, u32)]) -> Frames {
        let mut frames = Frames::raw(client, address);
        // Without a table, the server's fields are as literal as ours.
        let values = [&[(1, 0)], values].concat();
        frames.send(&[PREFACE, &settings(&values)].concat()).unwrap();
        while frames.receive().unwrap().kind != SETTINGS {}
        frames.send(&frame(SETTINGS, ACK, 0, &[])).unwrap();
        frames
    }

    /// A connection on which HTTP/2 was agreed on, and nothing sent.
    pub fn raw(client: &TlsClient, address: SocketAddr) -> Frames {
        let stream = client.connect(address, &[H2]).unwrap();
        assert_eq!(stream.conn.alpn_protocol(), Some(H2));
        Frames { stream, received: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a head on a stream.
    pub fn send_head(&mut self, stream: u32, flags: u8, head: &[(&str, &str)]) -> io::Result<()> {
        self.send(&frame(HEADERS, END_HEADERS | flags, stream, &fields(head)))
    }

    /// The next frame. Who sends a PING is answered: a server that drains waits for it.
    pub fn receive(&mut self) -> io::Result<Frame> {
        loop {
            let Some(received) = self.take_frame() else {
                self.read_some()?;
                continue;
            };
            if received.kind == PING && received.flags & ACK == 0 {
                // The connection may be at its end already.
                let _ = self.send(&frame(PING, ACK, 0, &received.payload));
            }
            return Ok(received);
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let length = self.received.get(..3)?;
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let payload = self.received.get(9..9 + length)?.to_vec();
        let stream = u32::from_be_bytes(self.received[5..9].try_into().unwrap());
        let frame = Frame { kind: self.received[3], flags: self.received[4], stream, payload };
        self.received.drain(..9 + length);
        Some(frame)
    }

    fn read_some(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        let length = self.stream.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.received.extend_from_slice(&buffer[..length]);
        Ok(())
    }

    /// Waits for the end of a request, whatever it is.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let mut status = 0;
        let mut body = Vec::new();
        loop {
            let frame = match self.receive() {
                Ok(frame) => frame,
                Err(error) => {
                    assert!(!is_timeout(&error), "neither an answer nor an end on stream {stream}");
                    return Outcome::Closed;
                }
            };
            match frame.kind {
                GOAWAY if frame.code() != 0 => return Outcome::GoAway(frame.code()),
                _ if frame.stream != stream => continue,
                RST_STREAM => return Outcome::Reset(frame.code()),
                HEADERS => status = status_of(&frame.payload),
                DATA => body.extend_from_slice(&frame.payload),
                _ => continue,
            }
            if frame.flags & END_STREAM != 0 {
                return Outcome::Answered(status, body);
            }
        }
    }

    /// Reads to the end of the connection: the code of the GOAWAY, if there was one.
    pub fn wait_for_end(&mut self) -> Option<u32> {
        let mut code = None;
        loop {
            match self.receive() {
                Ok(frame) if frame.kind == GOAWAY => code = Some(frame.code()),
                Ok(_) => {}
                Err(error) => {
                    assert!(!is_timeout(&error), "the connection stays open");
                    return code;
                }
            }
        }
    }

    /// Sends the same bytes again and again until the connection ends; how often they were sent.
    ///
    /// A client that does not read makes the server wait with its answers.
    pub fn flood(&mut self, reads: bool, mut bytes: impl FnMut(u32) -> Vec<u8>) -> u32 {
        let started = Instant::now();
        self.stream.sock.set_nonblocking(true).unwrap();
        for count in 0.. {
            let bytes = bytes(count);
            let mut left = &bytes[..];
            while !left.is_empty() {
                assert!(started.elapsed() < PATIENCE / 2, "the flood goes on");
                match self.stream.write(left) {
                    Ok(length) => left = &left[length..],
                    Err(error) if is_timeout(&error) => thread::sleep(Duration::from_millis(1)),
                    Err(_) => return count,
                }
                loop {
                    if !reads {
                        break;
                    }
                    match self.read_some() {
                        Ok(()) => self.received.clear(),
                        Err(error) if is_timeout(&error) => break,
                        Err(_) => return count,
                    }
                }
            }
        }
        unreachable!("a flood ends with its connection");
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The status that a block of fields begins with (RFC 7541): indexed, or with its digits.
pub fn status_of(block: &[u8]) -> u16 {
    // A change of the table's size comes first.
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap();
    let block = &block[start..];
    match block[0] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        // A new value for field 8, kept in the table or not.
        0x48 | 0x08 | 0x18 => {
            let value = &block[2..2 + usize::from(block[1] & 0x7f)];
            match block[1] & 0x80 {
                0 => std::str::from_utf8(value).unwrap().parse().unwrap(),
                _ => huffman_digits(value),
            }
        }
        other => panic!("not a status: {other:#x}"),
    }
}

/// RFC 7541, appendix B: `0` to `2` have 5 bits, the other digits 6.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let mut code = bits.by_ref().take(5).fold(0, |code, bit| code << 1 | bit);
        if code > 2 {
            code = (code << 1 | bits.next().unwrap()) - 0x19 + 3;
        }
        number = number * 10 + code;
    }
    number
}

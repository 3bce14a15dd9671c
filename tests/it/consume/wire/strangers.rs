//! What is not HTTP/1.1, or would like to be more.

use super::{Case, LAST, Outcome, REFUSED, STORED, case, closed, open};

const CONTINUED: Outcome = open(&[100, 201]).storing(&["event"]);

/// To be sent at once: what has no empty line is looked at when it begins to arrive, and then not before one
/// has come or the time is up.
pub const PROTOCOLS: &[Case] = &[
    case(
        "TLS",
        b"\x16\x03\x01\x00\x4a\
          \x01\x00\x00\x46\x03\x03{\x11*32}\x00\x00\x04\
          \x13\x01\x13\x02\x01\x00\x00\x19\x00\x2b\x00\x03\x02\x03\x04\x00\x00\x00\x0e\x00\x0c\
          \x00\x00\x09localhost",
        REFUSED,
    ),
    case("TLS that ends early", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", REFUSED),
    case("SSLv2", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80", REFUSED),
    case("a TLS alert", b"\x15\x03\x03\x00\x02\x02\x28", REFUSED),
    case("half of the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\n", REFUSED),
    case("HTTP/2 without a preface", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", REFUSED),
    case("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", REFUSED),
    case("SMTP", b"EHLO test\r\nMAIL FROM:<a@test>\r\n", REFUSED),
    case("FTP", b"USER anonymous\r\nPASS guest\r\n", REFUSED),
    case("IRC", b"NICK test\r\nUSER test 0 * :test\r\n", REFUSED),
    case("Redis", b"*1\r\n$4\r\nPING\r\n", REFUSED),
    case("Redis in a line", b"PING\r\n", REFUSED),
    case("memcached", b"stats\r\n", REFUSED),
    case("memcached in bytes", b"\x80\x0b\x00\x00\x00\x00\x00\x00", REFUSED),
    case("PostgreSQL", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", REFUSED),
    case("MySQL", b"\x20\x00\x00\x01\x85\xa6\x3f\x20\x00\x00\x00\x01\x21", REFUSED),
    case("MongoDB", b"\x3a\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xd4\x07\x00\x00", REFUSED),
    case("AMQP", b"AMQP\x00\x00\x09\x01", REFUSED),
    case("MQTT", b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test", REFUSED),
    case("Kafka", b"\x00\x00\x00\x14\x00\x12\x00\x00\x00\x00\x00\x01\x00\x0atest", REFUSED),
    case("LDAP", b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00", REFUSED),
    case("SMB", b"\x00\x00\x00\x2f\xffSMBr\x00\x00\x00\x00", REFUSED),
    case("RDP", b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00", REFUSED),
    case(
        "DNS",
        b"\x00\x1d\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04test\x00\x00\x01\x00\x01",
        REFUSED,
    ),
    case("SOCKS 4", b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", REFUSED),
    case("SOCKS 5", b"\x05\x01\x00", REFUSED),
    case("telnet", b"\xff\xfd\x18\xff\xfd\x20", REFUSED),
    case("XMPP", b"<?xml version='1.0'?><stream:stream to='test'>", REFUSED),
    case("SIP", b"OPTIONS sip:nm SIP/2.0\r\nVia: SIP/2.0/TCP nm\r\n\r\n", REFUSED),
    case("RTSP", b"OPTIONS / RTSP/1.0\r\nCSeq: 1\r\n\r\n", REFUSED),
    case("the PROXY protocol", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n{hidden}", REFUSED),
    case("the PROXY protocol in bytes", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c{\x01*12}{hidden}", REFUSED),
    case("FastCGI", b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00", REFUSED),
    case("AJP", b"\x12\x34\x00\x01\x0a", REFUSED),
    case("gopher", b"/\r\n", REFUSED),
    case("JSON", b"[\"event_type\"]\n", REFUSED),
    case("a megabyte of zeros", b"{\0*1000000}", REFUSED),
    case("a megabyte of letters", b"{x*1000000}", closed(&[431])),
];

/// To be sent at once: the beginning of a preface is an answer of its own, and what the server has not read
/// of a tunnel resets the connection.
pub const AT_ONCE: &[Case] = &[
    case("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", closed(&[])),
    case(
        "HTTP/2 behind a request",
        b"{next}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        closed(&[201]).storing(&["next"]),
    ),
    case(
        "h2c with a preface",
        b"{get}{upgrade} h2c\r\nHTTP2-Settings:\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        closed(&[200]),
    ),
    case(
        "websocket frames",
        b"{get}{upgrade} websocket\r\n\r\n\x81\x85\x00\x00\x00\x00hello",
        closed(&[200, 400]),
    ),
    case(
        "a request behind an upgrade",
        b"{get}{upgrade} websocket\r\n{cl}: 189\r\n\r\n{hidden}",
        closed(&[200]),
    ),
    case(
        "CONNECT and what it would tunnel",
        b"CONNECT /event HTTP/1.1\r\n{host}{cl}: 189\r\n\r\n{hidden}",
        closed(&[405]),
    ),
];

pub const EXPECTATIONS_AND_UPGRADES: &[Case] = &[
    case("100-continue", b"{post}{expect}{sized}", CONTINUED),
    case("100-continue in odd case", b"{post}expect: 100-Continue\r\n{sized}", CONTINUED),
    case("100-continue with chunks", b"{post}{expect}{te}: chunked\r\n\r\n{chunks}", CONTINUED),
    case("100-continue, twice", b"{post}{expect}{expect}{sized}", CONTINUED),
    case("100-continue in HTTP/1.0", b"POST /event HTTP/1.0\r\n{expect}{sized}", LAST),
    case("100-continue without a body", b"{get}{expect}\r\n", open(&[200])),
    case("100-continue with a body of nothing", b"{post}{expect}{cl}: 0\r\n\r\n", open(&[400])),
    case("100-continue, too large", b"{post}{expect}{cl}: 1048577\r\n\r\n", closed(&[413])),
    case(
        "100-continue for nothing",
        b"POST /events HTTP/1.1\r\n{host}{expect}{cl}: 189\r\n\r\n{hidden}",
        closed(&[404]),
    ),
    case(
        "100-continue, another type",
        b"POST /event HTTP/1.1\r\n{host}{expect}Content-Type: text/plain\r\n{cl}: 189\r\n\r\n{hidden}",
        closed(&[415]),
    ),
    case("100-continue, no Host", b"POST /event HTTP/1.1\r\n{expect}{cl}: 189\r\n\r\n{hidden}", REFUSED),
    case("100-continue, bad chunks", b"{post}{expect}{te}: chunked\r\n\r\nx{hidden}", closed(&[100, 400])),
    case("another expectation", b"{post}Expect: 200-ok\r\n{sized}", STORED),
    case("an expectation with a parameter", b"{post}Expect: 100-continue;q=1\r\n{sized}", STORED),
    case("an expectation of nothing", b"{post}Expect:\r\n{sized}", STORED),
    case(
        "websocket",
        b"{get}{upgrade} websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        open(&[200]),
    ),
    case("h2c", b"{get}{upgrade} h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", open(&[200])),
    case("h2c with an event", b"{post}{upgrade} h2c\r\nHTTP2-Settings:\r\n{sized}", STORED),
    case("TLS by an upgrade", b"OPTIONS * HTTP/1.1\r\n{host}{upgrade} TLS/1.0\r\n\r\n", open(&[404])),
    case("an upgrade to HTTP/1.1", b"{get}{upgrade} HTTP/1.1\r\n\r\n", open(&[200])),
    case("an upgrade in HTTP/1.0", b"GET /health HTTP/1.0\r\n{upgrade} websocket\r\n\r\n", closed(&[200])),
    case("an upgrade that is not announced", b"{get}Upgrade: websocket\r\n\r\n", open(&[200])),
    case("a proxy's Connection", b"{get}Proxy-Connection: close\r\n\r\n", open(&[200])),
    case("a Connection that names Host", b"{get}Connection: Host\r\n\r\n", open(&[200])),
    case("a Connection that names Content-Length", b"{post}Connection: Content-Length\r\n{sized}", STORED),
];

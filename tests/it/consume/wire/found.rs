//! What once went wrong.

use super::{Case, LAST, REFUSED, case, closed, open};

/// RFC 9112, section 3.2: a `Host` whose value is invalid is answered 400.
pub const HOSTS: &[Case] = &[
    case("a Host of two words", b"GET /health HTTP/1.1\r\nHost: te st\r\n\r\n", open(&[400])),
    case("a Host that is a list", b"GET /health HTTP/1.1\r\nHost: test, other\r\n\r\n", open(&[400])),
    case("a Host that is a URL", b"GET /health HTTP/1.1\r\nHost: http://test/\r\n\r\n", open(&[400])),
    case("a Host with a path", b"GET /health HTTP/1.1\r\nHost: test/event\r\n\r\n", open(&[400])),
    case("a Host with a user", b"GET /health HTTP/1.1\r\nHost: user@test\r\n\r\n", open(&[400])),
    case("a Host with a word for its port", b"GET /health HTTP/1.1\r\nHost: test:port\r\n\r\n", open(&[400])),
    case("a Host that is not ASCII", b"GET /health HTTP/1.1\r\nHost: t\xc3\xa9st\r\n\r\n", open(&[400])),
];

/// RFC 9112, section 6.1: a coding that is not understood is refused. The body was stored as if it were plain.
pub const CODINGS: &[Case] = &[
    case("gzip, chunked", b"{post}{te}: gzip, chunked\r\n\r\n{chunks}{hidden}", REFUSED),
    case("xchunked and chunked", b"{post}{te}: xchunked\r\n{te}: chunked\r\n\r\n{chunks}{hidden}", REFUSED),
];

/// What is complete when the client shuts its side is answered. It was stored, and not answered.
pub const SHUT: &[Case] = &[
    case("behind a GET", b"{get}\r\n{shut}", closed(&[200])),
    case("behind the body", b"{post}{sized}{shut}", LAST),
    case("behind the last chunk", b"{chunked}{chunks}{shut}", LAST),
    case("behind two requests", b"{next}{next}{shut}", closed(&[201, 201]).storing(&["next", "next"])),
];

/// With a limit of 32 KiB. Up to twice as much got through, depending on how it arrived.
pub const HEADS: &[Case] = &[
    case(
        "a path beyond the limit of a head",
        b"GET /{x*40000} HTTP/1.1\r\n{host}\r\n{hidden}",
        closed(&[431]),
    ),
    case("a method beyond the limit of a head", b"{X*40000} / HTTP/1.1\r\n{host}\r\n", closed(&[431])),
];

/// An answer is seen by a client that still writes, whatever it asked for before. The connection was reset.
pub const RESETS: &[Case] = &[
    case(
        "an upgrade that is too large",
        b"{post}{upgrade} h2c\r\n{cl}: 3000000\r\n\r\n{x*3000000}",
        closed(&[413]),
    ),
    case(
        "too large behind an upgrade",
        b"{get}{upgrade} h2c\r\n\r\n{post}{cl}: 3000000\r\n\r\n{x*3000000}",
        closed(&[200, 413]),
    ),
    case("a large tunnel", b"CONNECT /x HTTP/1.1\r\n{host}{cl}: 3000000\r\n\r\n{x*3000000}", closed(&[404])),
    case("good, bad, three megabytes", b"{get}\r\nGET\r\n\r\n{x*3000000}", closed(&[200, 400])),
    case(
        "the last, three megabytes",
        b"{post}Connection: close\r\n{sized}{x*3000000}",
        closed(&[201]).storing(&["event"]),
    ),
];

//! Clients that shut their side of the connection, or stop in the middle.

use super::{Case, REFUSED, case, closed};

pub const SHUT: &[Case] = &[
    case("nothing", b"{shut}", closed(&[])),
    case("an empty line", b"\r\n{shut}", closed(&[])),
    case("within the method", b"PO{shut}", closed(&[])),
    case("within the path", b"POST /ev{shut}", closed(&[])),
    case("within a header", b"{post}Content-Le{shut}", closed(&[])),
    case("before the empty line", b"{post}{cl}: 100\r\n{shut}", closed(&[])),
    case("within the empty line", b"{post}{cl}: 100\r\n\r{shut}", closed(&[])),
    case("before the body", b"{post}{cl}: 100\r\n\r\n{shut}", REFUSED),
    case("within the body", b"{post}{cl}: 101\r\n\r\n{event}{shut}", REFUSED),
    case(
        "within lines",
        b"{post}Content-Type: application/x-ndjson\r\n{cl}: 201\r\n\r\n{event}\n{shut}",
        REFUSED,
    ),
    case("before the chunks", b"{chunked}{shut}", REFUSED),
    case("within a size", b"{chunked}6{shut}", REFUSED),
    case("behind a size", b"{chunked}64\r\n{shut}", REFUSED),
    case("within a chunk", b"{chunked}65\r\n{event}{shut}", REFUSED),
    case("behind a chunk", b"{chunked}64\r\n{event}\r\n{shut}", REFUSED),
    case("within the last chunk", b"{chunked}64\r\n{event}\r\n0\r\n{shut}", REFUSED),
    case("within the end of the last chunk", b"{chunked}64\r\n{event}\r\n0\r\n\r{shut}", REFUSED),
    case("within a trailer", b"{chunked}64\r\n{event}\r\n0\r\nA: b{shut}", REFUSED),
    case("behind a refusal", b"{post}{cl}: -1\r\n\r\n{shut}", REFUSED),
    case("behind a 413", b"{post}{cl}: 1048577\r\n\r\n{x*1000}{shut}", closed(&[413])),
    case("within a second request", b"{next}POST /ev{shut}", closed(&[201]).storing(&["next"])),
];

pub const STOPPED: &[Case] = &[
    case("nothing", b"", closed(&[])),
    case("an empty line", b"\r\n", closed(&[])),
    case("within the method", b"PO", closed(&[])),
    case("within a header", b"{post}Content-Le", closed(&[])),
    case("before the empty line", b"{post}{cl}: 100\r\n", closed(&[])),
    case("before the body", b"{post}{cl}: 100\r\n\r\n", closed(&[408])),
    case("within the body", b"{post}{cl}: 101\r\n\r\n{event}", closed(&[408])),
    case("before the chunks", b"{chunked}", closed(&[408])),
    case("within a size", b"{chunked}6", closed(&[408])),
    case("within a chunk", b"{chunked}65\r\n{event}", closed(&[408])),
    case(
        "within a chunk of 2^64 - 1",
        b"{chunked}ffffffffffffffff\r\n{event}\r\n0\r\n\r\n{hidden}",
        closed(&[408]),
    ),
    case("behind a chunk", b"{chunked}64\r\n{event}\r\n", closed(&[408])),
    case("within the last chunk", b"{chunked}64\r\n{event}\r\n0\r\n", closed(&[408])),
    case("within a trailer", b"{chunked}64\r\n{event}\r\n0\r\nA: b", closed(&[408])),
    case("a body that is expected", b"{post}{cl}: 100\r\nExpect: 100-continue\r\n\r\n", closed(&[100, 408])),
    case("behind a request", b"{next}", closed(&[201]).storing(&["next"])),
    case("within a second head", b"{next}POST /ev", closed(&[201]).storing(&["next"])),
    case(
        "within a second body",
        b"{next}{post}{cl}: 101\r\n\r\n{event}",
        closed(&[201, 408]).storing(&["next"]),
    ),
];

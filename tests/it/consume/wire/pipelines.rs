//! Requests behind requests, and requests that hide in others.

use super::{Case, LAST, Outcome, REFUSED, case, closed, open};

const BOTH: Outcome = open(&[201, 201]).storing(&["event", "next"]);

const SECOND_REFUSED: Outcome = closed(&[201, 400]).storing(&["next"]);

pub const PIPELINES: &[Case] = &[
    case("good, good", b"{post}{sized}{next}", BOTH),
    case("chunked, good", b"{chunked}{chunks}{next}", BOTH),
    case("chunked with a trailer, good", b"{chunked}64\r\n{event}\r\n0\r\nA: b\r\n\r\n{next}", BOTH),
    case("good, an empty line, good", b"{post}{sized}\r\n{next}", BOTH),
    case("a GET, good", b"{get}\r\n{next}", open(&[200, 201]).storing(&["next"])),
    case("a HEAD, good", b"HEAD /health HTTP/1.1\r\n{host}\r\n{next}", open(&[200, 201]).storing(&["next"])),
    case(
        "nothing there, good",
        b"GET /nothing HTTP/1.1\r\n{host}\r\n{next}",
        open(&[404, 201]).storing(&["next"]),
    ),
    case("no JSON, good", b"{post}{cl}: 100\r\n\r\n{x*100}{next}", open(&[400, 201]).storing(&["next"])),
    case(
        "no JSON in chunks, good",
        b"{chunked}5\r\nxxxxx\r\n0\r\n\r\n{next}",
        open(&[400, 201]).storing(&["next"]),
    ),
    case("no body, good", b"{post}{cl}: 0\r\n\r\n{next}", open(&[400, 201]).storing(&["next"])),
    case("good, bad", b"{next}GET\r\n\r\n{hidden}", SECOND_REFUSED),
    case("good, no version", b"{next}POST /event\r\n{host}\r\n{hidden}", SECOND_REFUSED),
    case("good, garbage", b"{next}\x00\x01\x02\x03{hidden}", SECOND_REFUSED),
    case("good, no Host", b"{next}POST /event HTTP/1.1\r\n{sized}{hidden}", SECOND_REFUSED),
    case("good, a bad length", b"{next}{post}{cl}: x\r\n\r\n{event}{hidden}", SECOND_REFUSED),
    case("good, a bad chunk", b"{next}{chunked}x\r\n{event}\r\n0\r\n\r\n{hidden}", SECOND_REFUSED),
    case(
        "good, too large",
        b"{next}{post}{cl}: 99999999\r\n\r\n{hidden}",
        closed(&[201, 413]).storing(&["next"]),
    ),
    case(
        "good, the last, good",
        b"{next}{get}Connection: close\r\n\r\n{hidden}",
        closed(&[201, 200]).storing(&["next"]),
    ),
    case("good in HTTP/1.0, good", b"GET /health HTTP/1.0\r\n\r\n{hidden}", closed(&[200])),
    case("the last, good", b"{post}Connection: close\r\n{sized}{hidden}", LAST),
    case("the last in a list, good", b"{post}Connection: x, Close\r\n{sized}{hidden}", LAST),
    case(
        "the last and not the last, good",
        b"{post}Connection: close\r\nConnection: keep-alive\r\n{sized}{hidden}",
        LAST,
    ),
    case("bad, good", b"GET\r\n\r\n{hidden}", REFUSED),
    case(
        "another type, good",
        b"POST /event HTTP/1.1\r\n{host}Content-Type: text/plain\r\n{sized}{hidden}",
        closed(&[415]),
    ),
    case("another method, good", b"PUT /event HTTP/1.1\r\n{host}{sized}{hidden}", closed(&[405])),
    case("another path, good", b"POST /events HTTP/1.1\r\n{host}{sized}{hidden}", closed(&[404])),
    case("a bad key, good", b"{post}Idempotency-Key:\r\n{sized}{hidden}", REFUSED),
    case("bad, three megabytes", b"GET\r\n\r\n{x*3000000}", REFUSED),
    case(
        "another path, three megabytes",
        b"POST /events HTTP/1.1\r\n{host}{cl}: 3000000\r\n\r\n{x*3000000}",
        closed(&[404]),
    ),
    case("too large, good", b"{post}{cl}: 1048577\r\n\r\n{x*1048577}{hidden}", closed(&[413])),
    case("too large in chunks, good", b"{chunked}100001\r\n{x*1048577}\r\n0\r\n\r\n{hidden}", closed(&[413])),
];

/// The whole of `{hidden}` is 9d in hexadecimal.
pub const HIDDEN: &[Case] = &[
    case("in the body of a POST", b"{post}{cl}: 189\r\n\r\n{hidden}", open(&[400])),
    case("in a chunk of a POST", b"{chunked}bd\r\n{hidden}\r\n0\r\n\r\n", open(&[400])),
    case("in the body of a GET", b"{get}{cl}: 189\r\n\r\n{hidden}", closed(&[200])),
    case("in a chunk of a GET", b"{get}{te}: chunked\r\n\r\nbd\r\n{hidden}\r\n0\r\n\r\n", closed(&[200])),
    case(
        "in the body of a HEAD",
        b"HEAD /health HTTP/1.1\r\n{host}{cl}: 189\r\n\r\n{hidden}",
        closed(&[200]),
    ),
    case(
        "in the body of an OPTIONS",
        b"OPTIONS /event HTTP/1.1\r\n{host}{cl}: 189\r\n\r\n{hidden}",
        closed(&[204]),
    ),
    case(
        "in the body of a DELETE",
        b"DELETE /event HTTP/1.1\r\n{host}{cl}: 189\r\n\r\n{hidden}",
        closed(&[405]),
    ),
    case("in a body for nothing", b"POST /x HTTP/1.1\r\n{host}{cl}: 189\r\n\r\n{hidden}", closed(&[404])),
    case(
        "in a body that HTTP/1.0 keeps alive",
        b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n{cl}: 189\r\n\r\n{hidden}",
        closed(&[200]),
    ),
    case("in a body that is announced", b"{get}{expect}{cl}: 189\r\n\r\n{hidden}", closed(&[200])),
    case("in an extension", b"{chunked}64;{hidden}\r\n{event}\r\n0\r\n\r\n", REFUSED),
    case("in a header", b"{get}X: {hidden}", closed(&[400])),
    case("CL.TE", b"{post}{cl}: 162\r\n{te}: chunked\r\n\r\n0\r\n\r\n{hidden}", closed(&[400])),
    case("CL.TE with an event", b"{post}{cl}: 268\r\n{te}: chunked\r\n\r\n{chunks}{hidden}", LAST),
    case("TE.CL", b"{post}{cl}: 4\r\n{te}: chunked\r\n\r\nbd\r\n{hidden}\r\n0\r\n\r\n", REFUSED),
    case(
        "TE.CL with a GET",
        b"{get}{cl}: 4\r\n{te}: chunked\r\n\r\nbd\r\n{hidden}\r\n0\r\n\r\n",
        closed(&[200]),
    ),
    case(
        "TE.TE by two headers",
        b"{post}{cl}: 4\r\n{te}: chunked\r\n{te}: cow\r\n\r\nbd\r\n{hidden}\r\n0\r\n\r\n",
        REFUSED,
    ),
    case(
        "TE.TE by a blank",
        b"{post}{cl}: 4\r\n{te}: chunked\r\nTransfer-Encoding : x\r\n\r\nbd\r\n{hidden}\r\n0\r\n\r\n",
        REFUSED,
    ),
    case("TE.TE by a prefix", b"{post}{cl}: 4\r\n{te}: xchunked\r\n\r\nbd\r\n{hidden}\r\n0\r\n\r\n", REFUSED),
    case(
        "TE.TE by a fold",
        b"{post}{cl}: 4\r\n{te}:\r\n\tchunked\r\n\r\nbd\r\n{hidden}\r\n0\r\n\r\n",
        REFUSED,
    ),
    case(
        "TE.TE by a line end",
        b"{post}{cl}: 4\r\nX: y\n{te}: chunked\r\n\r\nbd\r\n{hidden}\r\n0\r\n\r\n",
        REFUSED,
    ),
    case(
        "TE.0",
        b"OPTIONS /event HTTP/1.1\r\n{host}{te}: chunked\r\n\r\nbd\r\n{hidden}\r\n0\r\n\r\n",
        closed(&[204]),
    ),
    case("CL.0 with a file", b"POST /health HTTP/1.1\r\n{host}{cl}: 189\r\n\r\n{hidden}", closed(&[405])),
    case(
        "CL.0 with a length in odd case",
        b"GET /ready HTTP/1.1\r\n{host}cOnTeNt-LeNgTh: 189\r\n\r\n{hidden}",
        closed(&[200]),
    ),
    case("0.CL", b"{get}{cl}: 189\r\n{expect}\r\n{hidden}", closed(&[200])),
    case("0.CL by a blank", b"{get}Content-Length : 189\r\n\r\n{hidden}", REFUSED),
    case("0.CL by a line end", b"{get}{cl}:\r\n 189\r\n\r\n{hidden}", REFUSED),
    case("CL.CL", b"{get}{cl}: 189\r\n{cl}: 0\r\n\r\n{hidden}", REFUSED),
    case("behind a path with a line end", b"GET /health HTTP/1.1\r{host}\r\n{hidden}", REFUSED),
    case("behind a chunk of the wrong size", b"{chunked}62\r\n{event}\r\n0\r\n\r\n{hidden}", REFUSED),
];

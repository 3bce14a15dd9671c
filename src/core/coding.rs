//! Content codings (RFC 9110, section 8.4.1): gzip (RFC 1952) and zstd (RFC 8878), to memory and within a limit.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

/// The binary logarithm of the largest window that a zstd frame may ask for: 8 MiB, the limit of RFC 9659.
const ZSTD_WINDOW_LOG: u32 = 23;

/// The size of one decoding step; memory is reserved between steps.
const STEP_BYTES: usize = 32 << 10;

/// Fast rather than small: a response is compressed once for each request.
const GZIP_LEVEL: u32 = 3;
const ZSTD_LEVEL: i32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Zstd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The decoded bytes exceed the limit.
    TooLarge,
    /// `grow` refused the memory for the decoded bytes.
    NoRoom,
    /// The bytes are not of this coding, are cut off, or ask for too large a window.
    Malformed,
}

impl Coding {
    /// The coding with this name, in any case.
    pub fn of(name: &str) -> Option<Coding> {
        // RFC 9110, section 8.4.1.3: `x-gzip` is an alias.
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            return Some(Coding::Gzip);
        }
        name.eq_ignore_ascii_case("zstd").then_some(Coding::Zstd)
    }

    pub fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
        }
    }

    /// Decompresses to at most `limit_bytes`. Before more memory is allocated, `grow` is called with the number of bytes and
    /// may refuse.
    pub fn decode(
        self,
        bytes: &[u8],
        limit_bytes: usize,
        grow: impl FnMut(usize) -> bool,
    ) -> Result<Vec<u8>, DecodeError> {
        match self {
            Coding::Gzip => read_within(MultiGzDecoder::new(bytes), limit_bytes, grow),
            Coding::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(bytes).and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                    Ok(decoder)
                });
                read_within(decoder.map_err(|_| DecodeError::Malformed)?, limit_bytes, grow)
            }
        }
    }

    pub fn encode(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL));
                encoder.write_all(bytes)?;
                encoder.finish()
            }
            Coding::Zstd => zstd::bulk::compress(bytes, ZSTD_LEVEL),
        }
    }
}

fn read_within(
    mut reader: impl Read,
    limit_bytes: usize,
    mut grow: impl FnMut(usize) -> bool,
) -> Result<Vec<u8>, DecodeError> {
    let mut decoded = Vec::new();
    let mut step = vec![0; STEP_BYTES];
    loop {
        let length = reader.read(&mut step).map_err(|_| DecodeError::Malformed)?;
        if length == 0 {
            return Ok(decoded);
        }
        let needed = decoded.len() + length;
        if needed > limit_bytes {
            return Err(DecodeError::TooLarge);
        }
        if needed > decoded.capacity() {
            // Doubles, so that bytes are copied rarely; never beyond the limit.
            let capacity = (2 * decoded.capacity()).clamp(needed, limit_bytes);
            if !grow(capacity - decoded.capacity()) {
                return Err(DecodeError::NoRoom);
            }
            decoded.reserve_exact(capacity - decoded.len());
        }
        decoded.extend_from_slice(&step[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Coding; 2] = [Coding::Gzip, Coding::Zstd];

    fn decode(coding: Coding, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        coding.decode(bytes, 1 << 20, |_| true)
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for coding in BOTH {
            assert_eq!(Coding::of(coding.name()), Some(coding));
            for bytes in [Vec::new(), b"a".to_vec(), b"events ".repeat(100_000)] {
                let encoded = coding.encode(&bytes).unwrap();
                assert_eq!(decode(coding, &encoded).as_ref(), Ok(&bytes));
                // Members and frames follow one another (RFC 1952, section 2.2; RFC 8878, section 3).
                let twice = coding.decode(&encoded.repeat(2), 2 << 20, |_| true).unwrap();
                assert_eq!(twice, bytes.repeat(2));
            }
        }
        assert_eq!((Coding::of("X-GZIP"), Coding::of("br")), (Some(Coding::Gzip), None));
    }

    #[test]
    fn what_is_cut_off_or_changed_is_malformed() {
        for coding in BOTH {
            let encoded = coding.encode(&b"events ".repeat(1000)).unwrap();
            for length in 0..encoded.len() {
                assert_eq!(decode(coding, &encoded[..length]), Err(DecodeError::Malformed), "{length}");
            }
            assert_eq!(decode(coding, b"{}"), Err(DecodeError::Malformed));
            assert_eq!(decode(coding, &[&encoded[..], b"x"].concat()), Err(DecodeError::Malformed));
        }
    }

    #[test]
    fn a_bomb_takes_no_more_memory_than_the_limit() {
        for coding in BOTH {
            let bomb = coding.encode(&vec![0; 8 << 20]).unwrap();
            // Not a power of two, to which buffers would grow.
            let (limit, mut taken) = (1_000_000, 0);
            let decoded = coding.decode(&bomb, limit, |bytes| {
                taken += bytes;
                true
            });
            assert_eq!(decoded, Err(DecodeError::TooLarge));
            assert!(taken <= limit, "{taken}");
            assert_eq!(coding.decode(&bomb, 1 << 20, |bytes| bytes < 1 << 19), Err(DecodeError::NoRoom));
            // Exactly the limit, and one byte more.
            let exact = coding.encode(&vec![7; 1 << 20]).unwrap();
            assert_eq!(decode(coding, &exact).map(|decoded| decoded.len()), Ok(1 << 20));
            let more = coding.encode(&vec![7; (1 << 20) + 1]).unwrap();
            assert_eq!(decode(coding, &more), Err(DecodeError::TooLarge));
        }
    }

    #[test]
    fn a_frame_that_asks_for_a_larger_window_is_malformed() {
        // RFC 8878, section 3.1.1.1: magic number, no content size, a window of 2^30, and an empty last block.
        let frame = |exponent: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3, 1, 0, 0];
        assert_eq!(decode(Coding::Zstd, &frame(13)), Ok(Vec::new()));
        assert_eq!(decode(Coding::Zstd, &frame(14)), Err(DecodeError::Malformed));
        assert_eq!(decode(Coding::Zstd, &frame(20)), Err(DecodeError::Malformed));
    }
}

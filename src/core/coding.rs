//! Content codings (RFC 9110, section 8.4.1): gzip (RFC 1952) and zstd (RFC 8878), to memory and within a limit.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

/// The largest window that a zstd frame may ask for, as a power of two: 8 MiB, which RFC 9659 makes the limit of the coding.
const ZSTD_WINDOW_LOG: u32 = 23;

/// How much is decoded at once before it is accounted for.
const STEP_BYTES: usize = 32 << 10;

/// Fast rather than small: a response is compressed once for each request.
const GZIP_LEVEL: u32 = 3;
const ZSTD_LEVEL: i32 = 1;

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// Why bytes were not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// They stand for more than the limit.
    TooLarge,
    /// There is no room in memory for what they stand for.
    NoRoom,
    /// They are not of this coding, are cut off, or ask for too large a window.
    Malformed,
}

impl Coding {
    /// The coding of a name, in any case; none where it is not known.
    pub fn of(name: &str) -> Option<Coding> {
        // RFC 9110, section 8.4.1.3: `x-gzip` is the same.
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            return Some(Coding::Gzip);
        }
        name.eq_ignore_ascii_case("zstd").then_some(Coding::Zstd)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
        }
    }

    /// What compressed bytes stand for: at most `limit_bytes`. `grow` is asked before more memory is taken, with how much.
    ///
    /// # Errors
    /// Why there is nothing. What was decoded by then is dropped.
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

    /// The bytes, compressed.
    ///
    /// # Errors
    /// The library has no memory.
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
            // Twice as much each time, so that it is copied seldom, and never more than may be.
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
            let mut taken = 0;
            let decoded = coding.decode(&bomb, 1 << 20, |bytes| {
                taken += bytes;
                true
            });
            assert_eq!(decoded, Err(DecodeError::TooLarge));
            assert!(taken <= 1 << 20, "{taken}");
            assert_eq!(coding.decode(&bomb, 1 << 20, |bytes| bytes < 1 << 19), Err(DecodeError::NoRoom));
            // As much as may be, and no byte more.
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

//! What is decoded never exceeds its limit nor the memory that was granted, and what is encoded is decoded.

#![no_main]

use eventctl::testing::{Coding, DecodeError};
use libfuzzer_sys::fuzz_target;

const LIMIT_BYTES: usize = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    for coding in [Coding::Gzip, Coding::Zstd] {
        let mut granted = 0;
        let decoded = coding.decode(bytes, LIMIT_BYTES, |more| {
            granted += more;
            true
        });
        assert!(granted <= LIMIT_BYTES);
        if let Ok(decoded) = &decoded {
            assert!(decoded.len() <= granted);
            // Without room for all of it there is nothing.
            let refused = coding.decode(bytes, LIMIT_BYTES, |_| false);
            assert_eq!(refused.is_err(), !decoded.is_empty());
        }
        let encoded = coding.encode(bytes).unwrap();
        let again = coding.decode(&encoded, LIMIT_BYTES, |_| true);
        if bytes.len() <= LIMIT_BYTES {
            assert_eq!(again.as_deref(), Ok(bytes));
        } else {
            assert_eq!(again, Err(DecodeError::TooLarge));
        }
    }
});

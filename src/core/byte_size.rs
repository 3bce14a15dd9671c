//! Sizes in bytes.

use std::fmt;
use std::str::FromStr;

/// A number of bytes: `4096`, `64KiB`, `1MiB`, `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

impl ByteSize {
    const UNITS: [(&str, usize); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];
}

/// As it is read, by the largest unit that is exact.
impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = ByteSize::UNITS.iter().find(|(_, bytes)| self.0.is_multiple_of(*bytes));
        match exact {
            Some((unit, bytes)) if !unit.is_empty() => write!(formatter, "{}{unit}", self.0 / bytes),
            _ => write!(formatter, "{} bytes", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        let (number, unit) = ByteSize::UNITS
            .iter()
            .find_map(|(name, bytes)| Some((text.strip_suffix(name)?, *bytes)))
            .unwrap_or((text, 1));
        let number: Option<usize> = number.trim().parse().ok();
        let bytes = number.and_then(|number| number.checked_mul(unit)).filter(|bytes| *bytes > 0);
        bytes.map(ByteSize).ok_or_else(|| "expected a size such as `64KiB` or `1MiB`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!("4096".parse(), Ok(ByteSize(4096)));
        assert_eq!("64KiB".parse(), Ok(ByteSize(65536)));
        assert_eq!("1 MiB".parse(), Ok(ByteSize(1 << 20)));
        for wrong in ["", "0", "-1", "1MB", "99999999999GiB", "KiB"] {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong}");
        }
    }
}

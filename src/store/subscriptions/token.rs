//! Fencing tokens: the name of a claim, which is refused once any of its events was handed out again.

use std::fmt;
use std::str::FromStr;

/// The subscription that a claim was made of, as another may have had its name, and the number of the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub epoch: i64,
    pub number: i64,
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}-{}", self.epoch, self.number)
    }
}

impl FromStr for Token {
    type Err = ();

    fn from_str(text: &str) -> Result<Token, ()> {
        let (epoch, number) = text.split_once('-').ok_or(())?;
        let token = Token {
            epoch: i64::from_str_radix(epoch, 16).map_err(|_| ())?,
            number: number.parse().map_err(|_| ())?,
        };
        if token.to_string() == text { Ok(token) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_one_text() {
        let token = Token { epoch: 1_768_478_400_000_000, number: 7 };
        assert_eq!(token.to_string().parse(), Ok(token));
        for wrong in ["", "-", "1", "1-", "-1", "1-x", "01-1", "1-01", "1-+1", "A-1", "1-1-1", " 1-1"] {
            assert_eq!(wrong.parse::<Token>(), Err(()), "{wrong}");
        }
    }
}

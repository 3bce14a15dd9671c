//! What an SMTP server refuses: this client, or the mail and its recipient.

use std::error::Error;

use lettre::transport::smtp::Error as SmtpError;

/// Failed authentication (RFC 4954).
const AUTHENTICATION_CODES: [u16; 4] = [530, 534, 535, 538];

/// Refused commands (RFC 5321), such as a HELO with an unqualified name.
const COMMAND_CODES: [u16; 5] = [500, 501, 502, 503, 504];

/// Whether the server refuses this client, its HELO or its sender, and neither the mail nor its recipient: then other
/// settings of the client or the server help.
pub fn is_about_client(code: u16, text: &str) -> bool {
    // RFC 3463: 5.1.7 and 5.1.8 are about the sender's address, 5.5 about commands, 5.7 about permissions.
    match enhanced_code(text) {
        Some([5, 1, 7 | 8] | [5, 5 | 7, _]) => true,
        Some(_) => AUTHENTICATION_CODES.contains(&code),
        None => COMMAND_CODES.contains(&code) || AUTHENTICATION_CODES.contains(&code),
    }
}

/// The enhanced status code in a reply, such as 5.7.1.
fn enhanced_code(text: &str) -> Option<[u16; 3]> {
    text.split_whitespace().find_map(|word| {
        let numbers: Option<Vec<u16>> = word.split('.').map(|part| part.parse().ok()).collect();
        numbers?.try_into().ok()
    })
}

/// The texts of an error and its causes, without repetition.
pub fn chain_of(error: &SmtpError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusing_the_client_is_not_refusing_the_mail() {
        for (code, text) in [
            (504, "5.5.2 <host>: Helo command rejected: need fully-qualified hostname"),
            (550, "5.7.1 <unknown[192.0.2.1]>: Client host rejected: cannot find your hostname, [192.0.2.1]"),
            (553, "5.7.1 <a@example.com>: Sender address rejected: not owned by user ops"),
            (550, "5.1.8 <a@invalid>: Sender address rejected: Domain not found"),
            (554, "5.7.1 <b@example.net>: Relay access denied"),
            (530, "authentication required"),
            (504, "need fully-qualified hostname"),
        ] {
            assert!(is_about_client(code, &format!("permanent error ({code}): {text}")), "{code} {text}");
        }
        for (code, text) in [
            (550, "5.1.1 <b@example.com>: Recipient address rejected: User unknown"),
            (552, "5.3.4 Message size exceeds fixed limit"),
            (554, "5.6.0 the mail is malformed"),
            (550, "no such mailbox at 192.0.2.1"),
            (554, "no"),
        ] {
            assert!(!is_about_client(code, &format!("permanent error ({code}): {text}")), "{code} {text}");
        }
    }
}

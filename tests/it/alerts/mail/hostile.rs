//! Events that try to be more than text in a mail.

use std::time::{Duration, Instant};

use super::{MailRoom, is_sent, post_issues};
use crate::alerts::wait_for_deliveries;
use crate::util::Consume;
use crate::util::mail::Mail;
use crate::util::random;

/// RFC 5322: a line has at most so many characters without its end.
const LINE_LIMIT: usize = 998;

/// A `consume` that mails every event.
fn mail_everything(room: &MailRoom) -> Consume {
    room.consume(&["--alert", "mailto:ops@example.com", "--alert-on", "*", "--alert-rate", "1000"])
}

/// Stores an event, and waits for the mail that tells of it.
fn mail_of(room: &MailRoom, consume: &Consume, event_type: &str, event_payload: &str) -> Mail {
    let before = room.server.mails().len();
    consume.store(event_type, event_payload);
    let mail = room.server.wait_for_mails("ops@example.com", before + 1).remove(before);
    check_form(&mail);
    mail
}

/// What no event may change.
fn check_form(mail: &Mail) {
    assert_eq!(mail.recipients, ["ops@example.com"]);
    let mut names: Vec<&str> = mail.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let expected =
        ["Auto-Submitted", "Content-Type", "Date", "From", "MIME-Version", "Message-ID", "Subject", "To"];
    assert_eq!(names, expected);
    assert_eq!(mail.header("To"), "ops@example.com");
    assert!(!mail.header("Subject").contains(char::is_control), "{:?}", mail.header("Subject"));
    let lines: Vec<&str> = mail.raw.split("\r\n").collect();
    assert!(!lines.iter().any(|line| line.contains(['\r', '\n'])), "a line ends in but a half of CR LF");
    let longest = lines.iter().map(|line| line.len()).max().unwrap();
    assert!(longest <= LINE_LIMIT, "a line has {longest} characters");
    let is_harmful = |character: char| {
        (character.is_control() && !matches!(character, '\n' | '\t'))
            || ('\u{202a}'..='\u{202e}').contains(&character)
    };
    for text in [&mail.text, &mail.html, mail.header("Subject")] {
        assert!(!text.contains(is_harmful), "{text:?}");
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn no_event_adds_headers_or_recipients() {
    let room = MailRoom::open();
    let consume = mail_everything(&room);
    for hostile in [
        "a\r\nBcc: evil@example.com",
        "a\nBcc: evil@example.com",
        "a\rBcc: evil@example.com",
        "\nBcc: evil@example.com",
        "a\r\n\r\n<b>body</b>",
        "a\r\n.\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<evil@example.com>\r\nDATA\r\n",
        "a\u{b}Bcc: evil@example.com\u{c}\u{1c}\u{85}\u{2028}Bcc: evil@example.com",
        "é\r\nBcc: evil@example.com",
        "=?utf-8?q?=0D=0ABcc:_evil@example.com?=",
    ] {
        let mail = mail_of(&room, &consume, hostile, hostile);
        assert!(mail.header("Subject").starts_with("Event "), "{:?}", mail.header("Subject"));
        let mail = {
            let before = room.server.mails().len();
            post_issues(&mut consume.connect(), &[hostile, "b"]);
            room.server.wait_for_mails("ops@example.com", before + 1).remove(before)
        };
        check_form(&mail);
        assert!(mail.header("Subject").ends_with(", b"), "{:?}", mail.header("Subject"));
        assert!(mail.text.ends_with("\n- b") || mail.text.ends_with("\n- b\n"), "{:?}", mail.text);
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn markup_stays_text() {
    let room = MailRoom::open();
    let consume = mail_everything(&room);
    let hostile = "</pre></li><script>alert(1)</script><img src=x onerror='a()'> \"&amp;\" {{ 7*7 }}";
    let of_event = mail_of(&room, &consume, hostile, hostile);
    post_issues(&mut consume.connect(), &[hostile]);
    let of_alert = room.server.wait_for_mails("ops@example.com", 2).remove(1);
    check_form(&of_alert);
    for mail in [of_event, of_alert] {
        assert!(mail.text.contains(hostile), "{}", mail.text);
        assert!(mail.header("Subject").contains(hostile), "{}", mail.header("Subject"));
        for tag in ["<script", "<img", "</pre></li>", "\"&amp;\""] {
            assert!(!mail.html.contains(tag), "{}", mail.html);
        }
        assert!(mail.html.contains("&lt;script&gt;alert(1)&lt;"), "{}", mail.html);
        assert!(mail.html.contains("&amp;amp;"), "{}", mail.html);
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn lines_arrive_as_they_were_whatever_their_length_and_first_character() {
    let room = MailRoom::open();
    let consume = mail_everything(&room);
    let lengths = (75..=78).chain(980..=1003);
    let long = lengths.map(|length| "x".repeat(length));
    let lines = ["From here", ". ", "..", "...", "=20", "\ttab", "a\n\n\nb", " a", "-- ", "--\u{e9}"];
    let lines = lines.into_iter().map(str::to_owned);
    let dots = [".\n..\n.hidden\n\n.\nend".to_owned(), format!("{}\n.\nQUIT\n.", ".".repeat(2000))];
    for payload in long.chain(lines).chain(dots) {
        let mail = mail_of(&room, &consume, "lines", &payload);
        let body = mail.text.split_once("Type: lines\n\n").unwrap().1;
        assert_eq!(body.trim_end(), payload.trim_end(), "{}", payload.len());
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_payload_as_large_as_may_be_arrives_cut_and_soon() {
    let room = MailRoom::open();
    let consume = mail_everything(&room);
    let large = |piece: &str| {
        let written = serde_json::to_string(piece).unwrap().len() - 2;
        piece.repeat(((1 << 20) - 100) / written)
    };
    for piece in ["x", "x ", "\n", "<", "é", "😀", ".\n", "\r\n", "\u{1b}", "'"] {
        let payload = large(piece);
        let started = Instant::now();
        let mail = mail_of(&room, &consume, "large", &payload);
        let elapsed = started.elapsed();
        assert!(elapsed < Duration::from_secs(10), "{piece:?}: {elapsed:?}");
        println!("{piece:?}: {elapsed:?}, {} bytes", mail.raw.len());
        assert!(mail.raw.len() < 2 << 20, "{piece:?}: {}", mail.raw.len());
        let length = format!("… ({} bytes in all)", payload.len());
        assert!(mail.text.contains(&length), "{piece:?}");
        assert!(mail.html.contains(&length) && mail.html.ends_with("</html>"), "{piece:?}");
    }
    wait_for_deliveries(room.path(), |deliveries| deliveries.iter().all(is_sent));
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn control_characters_do_not_arrive() {
    let room = MailRoom::open();
    let consume = mail_everything(&room);
    let controls = (1..0xa0).filter_map(char::from_u32).filter(|character| character.is_control());
    let text: String = controls.chain("\u{61c}\u{200e}\u{202e}\u{2066}\u{2028}".chars()).collect();
    let mail = mail_of(&room, &consume, &text, &format!("before{text}after"));
    assert!(mail.text.contains("\\u{1b}") && mail.text.ends_with("after"), "{:?}", mail.text);
    assert!(mail.header("Subject").contains("\\u{1b}"), "{:?}", mail.header("Subject"));
    let mail = mail_of(&room, &consume, "a\u{202e}b", "c");
    assert_eq!(mail.header("Subject"), "Event a\\u{202e}b: c");
    post_issues(&mut consume.connect(), &[&text]);
    check_form(&room.server.wait_for_mails("ops@example.com", 3)[2]);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn subjects_decode_to_what_was_sent() {
    let room = MailRoom::open();
    let consume = mail_everything(&room);
    let mut random = random();
    let alphabet: Vec<char> = "ab  ,\"=?_()\\äé障害😀\u{301}".chars().collect();
    let mut types = vec![
        "Störung in Halle 7 – 障害 😀".to_owned(),
        "a  b   c".to_owned(),
        "two  three   ".repeat(11),
        "=?utf-8?q?secret?= =?utf-8?b?eA==?=".to_owned(),
        "ends in space ".to_owned(),
        "x".repeat(150),
        "ä".repeat(150),
        "😀".repeat(100),
        "a =?b".to_owned(),
    ];
    types.extend((0..20).map(|_| -> String {
        let length = random.usize(1..150);
        std::iter::repeat_with(|| random.choice(&alphabet).unwrap()).take(length).collect()
    }));
    for event_type in types {
        let mail = mail_of(&room, &consume, &event_type, "end");
        assert_eq!(mail.header("Subject"), format!("Event {event_type}: end"), "{}", mail.raw);
        let head = mail.raw.split("\r\n\r\n").next().unwrap();
        assert!(head.is_ascii(), "{head}");
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn long_subjects_are_cut() {
    let room = MailRoom::open();
    let consume = mail_everything(&room);
    for piece in ["x", "word ", "ä", "=", "😀"] {
        let event_type: String = piece.chars().cycle().take(250).collect();
        let mail = mail_of(&room, &consume, &event_type, &piece.repeat(1000));
        let subject = mail.header("Subject");
        assert_eq!(subject.chars().count(), 201, "{subject}");
        assert!(format!("Event {event_type}").starts_with(subject.trim_end_matches('…')), "{subject}");
    }
}

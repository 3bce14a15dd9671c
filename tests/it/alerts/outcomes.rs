//! The outcome of a message: delivered, retried, or given up.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use tempfile::tempdir;

use super::hooks::{Hook, ok, start, start_in};
use super::{Delivery, deliveries, post_alert, wait_for_deliveries};
use crate::util::Consume;
use crate::util::receiver::Reply;
use crate::util::tls::{Authority, HTTP_1_1};

/// The delivery to a hook, of which there must be one.
#[track_caller]
fn delivery_to(all: &[Delivery], hook: &Hook) -> Delivery {
    let mut matching = all.iter().filter(|one| one.channel.contains(&format!("{}#", hook.address)));
    let (Some(delivery), None) = (matching.next(), matching.next()) else { panic!("{all:?}") };
    delivery.clone()
}

/// A server that notifies these hooks.
fn start_for(hooks: &[Hook]) -> (tempfile::TempDir, Consume) {
    let urls: Vec<String> = hooks.iter().map(|hook| hook.url("/")).collect();
    start(&urls.iter().map(String::as_str).collect::<Vec<_>>(), &[])
}

#[test]
fn every_status_of_success_is_success() {
    let hooks = [200, 201, 202, 204, 299].map(|status| Hook::with_status(status, ""));
    let (directory, server) = start_for(&hooks);
    assert_eq!(post_alert(&mut server.connect(), "a").status, 200);
    assert!(deliveries(directory.path()).iter().all(|one| one.state == "sent" && one.attempts == 1));
    assert!(hooks.iter().all(|hook| hook.arrivals().len() == 1));
}

#[test]
fn transient_failures_are_retried_until_they_pass() {
    let statuses = [500, 502, 503, 504, 599, 429, 408, 425];
    let mut hooks: Vec<Hook> = statuses
        .iter()
        .map(|&status| {
            Hook::start(move |_, number| if number == 0 { Reply::status(status, "") } else { ok() })
        })
        .collect();
    for reply in [|| Reply::Reset, || Reply::SendAndClose("not HTTP\r\n\r\n".to_owned())] {
        hooks.push(Hook::start(move |_, number| if number == 0 { reply() } else { ok() }));
    }
    let (directory, mut server) = start_for(&hooks);
    post_alert(&mut server.connect(), "a");
    wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.state == "sent"));
    for (position, hook) in hooks.iter().enumerate() {
        let delivery = delivery_to(&deliveries(directory.path()), hook);
        assert_eq!((delivery.attempts, hook.arrivals().len()), (2, 2), "{position}: {delivery:?}");
        server.process.wait_for_stderr(&format!("cannot deliver alerts to {}", delivery.channel));
        server.process.wait_for_stderr(&format!("alerts reach {} again", delivery.channel));
    }
}

#[test]
fn retry_after_is_obeyed() {
    let hooks = [503, 429, 500].map(|status| {
        let reply = move |_: &_, number| match number {
            0 => Reply::status(status, "Retry-After: 4\r\n"),
            _ => ok(),
        };
        Hook::start(reply)
    });
    let (directory, server) = start_for(&hooks);
    assert_eq!(post_alert(&mut server.connect(), "a").status, 202);
    let waiting = deliveries(directory.path());
    assert!(waiting.iter().all(|one| one.state == "pending" && one.due_at.is_some()), "{waiting:?}");
    assert!(waiting.iter().all(|one| one.last_error.as_ref().unwrap().starts_with("status ")), "{waiting:?}");
    wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.state == "sent"));
    for hook in &hooks {
        let [first, second] = &hook.arrivals()[..] else { panic!("{:?}", hook.arrivals()) };
        let waited = second.at.duration_since(first.at);
        assert!(waited >= Duration::from_millis(3950), "{waited:?}");
    }
}

#[test]
fn permanent_failures_are_given_up_at_once_and_no_redirect_is_followed() {
    let target = Hook::taking();
    let location: &'static str = format!("Location: {}\r\n", target.url("/stolen")).leak();
    let statuses = [300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 410, 413, 422, 499];
    let hooks = statuses.map(|status| Hook::with_status(status, if status < 400 { location } else { "" }));
    let (directory, mut server) = start_for(&hooks);
    assert_eq!(post_alert(&mut server.connect(), "a").status, 202);
    let all = wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.state == "dead"));
    for (status, hook) in statuses.iter().zip(&hooks) {
        let delivery = delivery_to(&all, hook);
        assert_eq!((delivery.attempts, hook.arrivals().len()), (1, 1), "{status}: {delivery:?}");
        assert!(delivery.due_at.is_none() && delivery.settled_at.is_some(), "{delivery:?}");
        let error = delivery.last_error.unwrap();
        assert!(error.contains(&format!("status {status}")), "{error}");
        assert_eq!(error.contains("redirects are not followed"), *status < 400, "{error}");
        let said = format!("alert 1 to {} is given up: status {status}", delivery.channel);
        server.process.wait_for_stderr(&said);
    }
    assert_eq!(target.connections(), 0);
}

#[test]
fn the_body_of_a_refusal_is_shown_and_logged() {
    let saying = |status: u16, body: &'static str| {
        let length = body.len();
        let response = format!("HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\n\r\n{body}");
        Hook::start(move |_, _| Reply::Send(response.clone()))
    };
    let hooks = [
        saying(400, "invalid_payload"),
        saying(404, r#"{"message": "Unknown Webhook", "code": 10015}"#),
        saying(503, "down for repair\u{1b}[2J\n"),
        // It repeats where it was asked for, and breaks off in the middle of that.
        Hook::start(|_, _| {
            let start = "HTTP/1.1 410 Gone\r\nContent-Length: 100\r\n\r\nno /s3cret/here, and no /s3c";
            Reply::SendAndClose(start.to_owned())
        }),
    ];
    let expected = [
        "status 400 Bad Request: invalid_payload",
        r#"status 404 Not Found: {"message": "Unknown Webhook", "code": 10015}"#,
        r"status 503 Service Unavailable: down for repair\u{1b}[2J",
        "status 410 Gone: no /[not shown]/[not shown], and no",
    ];
    let kinds = ["slack:", "discord:", "", ""];
    let urls: Vec<String> =
        kinds.iter().zip(&hooks).map(|(kind, hook)| format!("{kind}{}", hook.url("/s3cret/here"))).collect();
    let (directory, mut server) = start(&urls.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    assert_eq!(post_alert(&mut server.connect(), "a").status, 202);
    let all = wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.last_error.is_some()));
    for (hook, expected) in hooks.iter().zip(expected) {
        assert_eq!(delivery_to(&all, hook).last_error.as_deref(), Some(expected));
        let logged = expected.split('"').next().unwrap();
        server.process.wait_for_stderr(logged.split('\\').next().unwrap());
    }
    assert!(!server.process.stderr().contains("s3c"), "{}", server.process.stderr());
}

#[test]
fn a_receiver_that_is_down_gets_the_alert_once_it_is_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (directory, server) = start(&[&format!("http://{address}/")], &[]);
    assert_eq!(post_alert(&mut server.connect(), "a").status, 202);
    let waiting = wait_for_deliveries(directory.path(), |all| all[0].last_error.is_some());
    assert!(waiting[0].last_error.as_ref().unwrap().starts_with("cannot connect"), "{waiting:?}");
    let hook = Hook::start_on(TcpListener::bind(address).unwrap(), None, |_, _| ok());
    wait_for_deliveries(directory.path(), |all| all[0].state == "sent");
    assert_eq!(hook.arrivals().len(), 1);
}

#[test]
fn an_alert_is_given_up_after_its_time() {
    let hook = Hook::with_status(500, "");
    let (directory, server) = start(&[&hook.url("/")], &["--alert-give-up-after", "3s"]);
    assert_eq!(post_alert(&mut server.connect(), "a").status, 202);
    let all = wait_for_deliveries(directory.path(), |all| all[0].state == "dead");
    assert!(all[0].last_error.as_ref().unwrap().contains("500"), "{all:?}");
    assert_eq!(u64::try_from(all[0].attempts).unwrap(), hook.arrivals().len() as u64);
}

/// The most memory that a process has had, in KiB.
fn peak_memory(server: &Consume) -> u64 {
    let pid = server.process.pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn responses_without_an_end_hold_up_neither_the_server_nor_other_channels() {
    let drip = |head: &str| {
        let head = head.to_owned();
        Hook::start(move |_, _| Reply::Drip(head.clone(), Duration::from_millis(20)))
    };
    let silent = Hook::silent();
    let endless_head = drip("HTTP/1.1 200 OK\r\nA: ");
    let huge_head =
        Hook::start(|_, _| Reply::Send(format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(64 << 20))));
    let taking = Hook::taking();
    // A 2xx accepts the message, whatever follows.
    let dripping = drip("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
    let unending = Hook::start(|_, _| Reply::Send("HTTP/1.1 200 OK\r\n\r\n".to_owned()));
    let huge = Hook::start(|_, _| {
        let body = "x".repeat(64 << 20);
        Reply::Send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", 1_u64 << 40))
    });
    let cut =
        Hook::start(|_, _| Reply::SendAndClose("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab".to_owned()));
    let hooks = [silent, endless_head, huge_head, taking, dripping, unending, huge, cut];
    let (directory, server) = start_for(&hooks);
    let (failing, successful) = hooks.split_at(3);
    server.store("order", "");
    let before = peak_memory(&server);
    let begun = Instant::now();
    for number in 0..3 {
        assert_eq!(post_alert(&mut server.connect(), &number.to_string()).status, 202);
    }
    let all = wait_for_deliveries(directory.path(), |all| {
        all.iter().filter(|one| one.state == "sent").count() == 3 * successful.len()
    });
    assert_eq!(all.len(), 3 * hooks.len());
    for hook in successful {
        assert_eq!(hook.arrivals().len(), 3);
    }
    for hook in failing {
        let channel = format!("{}#", hook.address);
        let all = wait_for_deliveries(directory.path(), |all| {
            all.iter().any(|one| one.channel.contains(&channel) && one.last_error.is_some())
        });
        assert!(all.iter().all(|one| !one.channel.contains(&channel) || one.state != "sent"));
    }
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert!(peak_memory(&server) < before + (32 << 10), "{before} KiB, then {} KiB", peak_memory(&server));
}

#[test]
fn a_silent_channel_does_not_delay_the_others() {
    let hooks = [Hook::silent(), Hook::taking(), Hook::silent()];
    let (_directory, server) = start_for(&hooks);
    let begun = Instant::now();
    for number in 0..3 {
        assert_eq!(post_alert(&mut server.connect(), &number.to_string()).status, 202);
    }
    hooks[1].wait_for(3);
    // Its first message keeps a silent channel busy for ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    assert!(hooks[0].arrivals().len() == 1 && hooks[2].arrivals().len() == 1);
}

#[test]
fn a_receiver_with_an_unknown_ca_gets_nothing_until_it_is_trusted() {
    let directory = tempdir().unwrap();
    let authority = Authority::new("authority");
    authority.write(directory.path(), "authority");
    Authority::new("authority").write(directory.path(), "other");
    let hook = Hook::encrypted(authority.issue("127.0.0.1").server_config(&[HTTP_1_1]));
    let misnamed = Hook::encrypted(authority.issue("127.0.0.2").server_config(&[HTTP_1_1]));
    let channels = [&hook.url("/")[..], &misnamed.url("/")];
    for trust in [&[][..], &["--alert-cacert", "other.pem"]] {
        let server = start_in(directory.path(), &channels, trust);
        assert_eq!(post_alert(&mut server.connect(), &format!("{trust:?}")).status, 202);
        let all = wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.last_error.is_some()));
        assert!(all.iter().all(|one| one.state != "sent"), "{all:?}");
        let error = |one: &Delivery| one.last_error.as_ref().unwrap().contains("certificate");
        assert!(all.iter().all(error), "{all:?}");
        // What the earlier server could not send may not have been tried again yet.
        let newest = all.last().unwrap();
        let advice = newest.last_error.as_ref().unwrap().ends_with("name it with --alert-cacert");
        assert_eq!(advice, trust.is_empty(), "{all:?}");
        assert!(hook.connections() > 0 && hook.arrivals().is_empty());
    }
    // What could not be sent then is sent now.
    let _server = start_in(directory.path(), &channels, &["--alert-cacert", "authority.pem"]);
    wait_for_deliveries(directory.path(), |all| {
        let mut own = all.iter().filter(|one| one.channel.contains(&format!("{}#", hook.address)));
        own.all(|one| one.state == "sent")
    });
    assert_eq!(hook.arrivals().len(), 2);
    let all = deliveries(directory.path());
    assert!(all.iter().filter(|one| one.state == "pending").count() == 2 && misnamed.arrivals().is_empty());
}

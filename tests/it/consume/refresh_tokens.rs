//! Refresh tokens: each good for one exchange, and none good for a thief.

use std::sync::Barrier;
use std::thread;

use tempfile::tempdir;

use crate::util::Consume;
use crate::util::http::Response;

use super::open_store;
use super::tokens::{
    PASSWORD, Tokens, USERNAME, assert_refused, lets_in, log_in, password_form, refresh_form, start_for,
    start_guarded, start_guarded_in, tokens_of,
};

fn refresh(server: &Consume, token: &str) -> Response {
    server.connect().post_form(refresh_form(token))
}

/// Exchanges a token, which must be valid.
fn refreshed(server: &Consume, token: &str) -> Tokens {
    tokens_of(&refresh(server, token))
}

#[test]
fn a_refresh_token_is_exchanged_for_a_new_pair_any_number_of_times() {
    let (_directory, server) = start_guarded(&[]);
    let mut seen = vec![log_in(&server)];
    for _ in 0..12 {
        let tokens = refreshed(&server, &seen[seen.len() - 1].refresh);
        assert!(lets_in(&server, &tokens.access));
        assert!(seen.iter().all(|earlier| earlier.access != tokens.access));
        assert!(seen.iter().all(|earlier| earlier.refresh != tokens.refresh));
        seen.push(tokens);
    }
    // An access token is good until it expires, whatever became of its pair.
    assert!(seen.iter().all(|tokens| lets_in(&server, &tokens.access)));
}

#[test]
fn a_refresh_token_that_is_used_twice_ends_its_login_and_no_other() {
    let (_directory, mut server) = start_guarded(&[]);
    let [login, other] = [log_in(&server), log_in(&server)];
    let second = refreshed(&server, &login.refresh);
    let newest = refreshed(&server, &second.refresh);
    assert_refused(&refresh(&server, &login.refresh), "invalid_grant");
    server.process.wait_for_stderr("a refresh token was used twice");
    for revoked in [&newest, &second, &login] {
        assert_refused(&refresh(&server, &revoked.refresh), "invalid_grant");
    }
    let other = refreshed(&server, &other.refresh);
    refreshed(&server, &other.refresh);
    refreshed(&server, &log_in(&server).refresh);
}

#[test]
fn of_many_who_use_a_refresh_token_at_once_one_gets_another() {
    const CLIENTS: u8 = 20;
    let (_directory, server) = start_guarded(&[]);
    let login = log_in(&server);
    let barrier = Barrier::new(CLIENTS.into());
    let responses: Vec<Response> = thread::scope(|scope| {
        let client = |number: u8| {
            // From addresses of their own, for each may be wrong only so often.
            let mut connection = server.connect_from([127, 0, 7, number + 1]);
            barrier.wait();
            connection.post_form(refresh_form(&login.refresh))
        };
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let (granted, refused): (Vec<_>, Vec<_>) = responses.iter().partition(|response| response.status == 200);
    assert_eq!(granted.len(), 1, "{responses:?}");
    refused.iter().for_each(|response| assert_refused(response, "invalid_grant"));
    // One of two who have a token is a thief, and which of them nobody can tell.
    assert_refused(&refresh(&server, &tokens_of(granted[0]).refresh), "invalid_grant");
}

/// Lets the `min` or `max` of the tokens, by age, expire though it was given just now.
fn expire(store: &rusqlite::Connection, which: &str) {
    let update = format!(
        "UPDATE refresh_tokens SET expires_at = ?1
            WHERE expires_at = (SELECT {which}(expires_at) FROM refresh_tokens)"
    );
    assert_eq!(store.execute(&update, [now() - 1]).unwrap(), 1);
}

/// Microseconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

fn count(store: &rusqlite::Connection) -> i64 {
    store.query_row("SELECT count(*) FROM refresh_tokens", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_refresh_token_is_valid_for_seven_days_and_no_longer() {
    const DAYS: i64 = 7 * 24 * 3600 * 1_000_000;
    let (directory, server) = start_guarded(&[]);
    let before = now();
    let login = log_in(&server);
    let tokens = refreshed(&server, &login.refresh);
    let store = open_store(directory.path());
    let expiry = "SELECT min(expires_at), max(expires_at) FROM refresh_tokens";
    let (first, last) = store.query_row(expiry, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert!((before + DAYS..last).contains(&first) && last <= now() + DAYS, "{first} {last}");
    expire(&store, "max");
    assert_refused(&refresh(&server, &tokens.refresh), "invalid_grant");
    assert_refused(&refresh(&server, &tokens.refresh), "invalid_grant");
}

#[test]
fn refresh_tokens_that_expired_are_forgotten() {
    let (directory, server) = start_guarded(&[]);
    let store = open_store(directory.path());
    let [first, second, third] = [log_in(&server), log_in(&server), log_in(&server)];
    assert_eq!(count(&store), 3);
    expire(&store, "min");
    log_in(&server);
    assert_eq!(count(&store), 3);
    expire(&store, "min");
    refreshed(&server, &third.refresh);
    // The one that was exchanged is kept, so that a second use is noticed.
    assert_eq!(count(&store), 3);
    for forgotten in [&first, &second] {
        assert_refused(&refresh(&server, &forgotten.refresh), "invalid_grant");
    }
    assert_eq!(count(&store), 3);
}

#[test]
fn refresh_tokens_outlive_the_process_but_neither_name_nor_password() {
    let directory = tempdir().unwrap();
    let mut server = start_guarded_in(directory.path(), &[]);
    let [login, other] = [log_in(&server), log_in(&server)];
    let used = refreshed(&server, &login.refresh);
    assert!(server.process.terminate().success());
    let mut server = start_guarded_in(directory.path(), &[]);
    let kept = refreshed(&server, &other.refresh);
    // What was used before is still known to have been.
    assert_refused(&refresh(&server, &login.refresh), "invalid_grant");
    assert_refused(&refresh(&server, &used.refresh), "invalid_grant");
    server.process.kill();
    for (name, password) in [("grace", PASSWORD), (USERNAME, "another password")] {
        let mut server = start_for(directory.path(), name, password, &[]);
        assert_refused(&refresh(&server, &kept.refresh), "invalid_grant");
        assert!(!lets_in(&server, &kept.access) || name == USERNAME);
        assert!(server.process.terminate().success());
    }
}

#[test]
fn a_refresh_token_is_good_for_nothing_else() {
    let (_directory, server) = start_guarded(&[]);
    let login = log_in(&server);
    assert!(!lets_in(&server, &login.refresh));
    assert_refused(&refresh(&server, &login.access), "invalid_grant");
    let as_password = password_form(USERNAME, &login.refresh);
    assert_refused(&server.connect().post_form(as_password), "invalid_grant");
    for wrong in [&login.refresh[1..], &format!("{}x", login.refresh), &login.refresh.to_lowercase()] {
        assert_refused(&refresh(&server, wrong), "invalid_grant");
    }
    refreshed(&server, &login.refresh);
}

#[test]
fn a_store_shows_neither_passwords_nor_tokens() {
    let (directory, mut server) = start_guarded(&[]);
    let login = log_in(&server);
    let next = refreshed(&server, &login.refresh);
    let look = || {
        for name in ["events.db", "events.db-wal"] {
            let Ok(bytes) = std::fs::read(directory.path().join(name)) else { continue };
            let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            // A part of a token is enough to guess the rest of it.
            let tokens = [&login.refresh, &next.refresh, &login.access, &next.access];
            for secret in tokens.map(|token| &token[token.len() - 43..][..20]).into_iter().chain([PASSWORD]) {
                assert!(!holds(secret), "{name} holds {secret}");
            }
        }
    };
    look();
    assert!(server.process.terminate().success());
    look();
    let bytes = std::fs::read(directory.path().join("events.db")).unwrap();
    let known = b"CREATE TABLE refresh_tokens";
    assert!(bytes.windows(known.len()).any(|window| window == known), "searched in vain");
}

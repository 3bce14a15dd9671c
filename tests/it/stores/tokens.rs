//! Refresh tokens and the key that signs access tokens: in the store, and so for all who share it.

use std::sync::Barrier;
use std::thread;

use super::database::{TestStore, on_every_server, on_every_store};
use crate::consume::tokens::{
    PASSWORD, Tokens, USERNAME, assert_refused, lets_in, log_in, refresh_form, tokens_of,
};
use crate::util::http::Response;
use crate::util::{Consume, write_secret};

on_every_store!(
    a_refresh_token_is_good_for_one_exchange,
    tokens_outlive_the_process,
    of_many_exchanges_at_once_one_succeeds,
    tokens_that_expired_are_forgotten,
);

mod shared {
    super::on_every_server!(
        tokens_of_one_process_are_good_at_another,
        of_exchanges_at_once_at_two_processes_one_succeeds,
    );

    use super::{
        of_exchanges_at_once_at_two_processes_one_succeeds, tokens_of_one_process_are_good_at_another,
    };
}

/// A server that asks for tokens.
fn guarded(store: &TestStore) -> Consume {
    write_secret(store.path(), "password", PASSWORD);
    store.consume(&["--username", USERNAME, "--password-file", "password"])
}

fn refresh(server: &Consume, token: &str) -> Response {
    server.connect().post_form(refresh_form(token))
}

fn refreshed(server: &Consume, token: &str) -> Tokens {
    tokens_of(&refresh(server, token))
}

fn a_refresh_token_is_good_for_one_exchange(store: &TestStore) {
    store.prepare();
    let server = guarded(store);
    let [login, other] = [log_in(&server), log_in(&server)];
    let second = refreshed(&server, &login.refresh);
    let third = refreshed(&server, &second.refresh);
    assert!(lets_in(&server, &third.access));
    assert_refused(&refresh(&server, &login.refresh), "invalid_grant");
    assert_refused(&refresh(&server, &third.refresh), "invalid_grant");
    refreshed(&server, &other.refresh);
}

fn tokens_outlive_the_process(store: &TestStore) {
    store.prepare();
    let mut server = guarded(store);
    let [login, other] = [log_in(&server), log_in(&server)];
    refreshed(&server, &login.refresh);
    server.process.kill();
    let server = guarded(store);
    assert!(lets_in(&server, &other.access));
    refreshed(&server, &other.refresh);
    assert_refused(&refresh(&server, &login.refresh), "invalid_grant");
}

fn tokens_of_one_process_are_good_at_another(store: &TestStore) {
    store.prepare();
    // Both make a key at once, and one of them counts.
    let [one, other] = thread::scope(|scope| {
        let servers = [scope.spawn(|| guarded(store)), scope.spawn(|| guarded(store))];
        servers.map(|server| server.join().unwrap())
    });
    let login = log_in(&one);
    assert!(lets_in(&one, &login.access) && lets_in(&other, &login.access));
    let second = refreshed(&other, &login.refresh);
    assert!(lets_in(&one, &second.access));
    assert_refused(&refresh(&one, &login.refresh), "invalid_grant");
    assert_refused(&refresh(&other, &second.refresh), "invalid_grant");
}

fn of_many_exchanges_at_once_one_succeeds(store: &TestStore) {
    store.prepare();
    let server = guarded(store);
    let login = log_in(&server);
    let responses: Vec<Response> = thread::scope(|scope| {
        let client = |number: u8| {
            // From addresses of their own, for each may be wrong only so often.
            let mut connection = server.connect_from([127, 0, 9, number]);
            let form = refresh_form(&login.refresh);
            scope.spawn(move || connection.post_form(form))
        };
        let clients: Vec<_> = (1..=10).map(client).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let granted: Vec<_> = responses.iter().filter(|response| response.status == 200).collect();
    assert_eq!(granted.len(), 1, "{responses:?}");
    assert_refused(&refresh(&server, &tokens_of(granted[0]).refresh), "invalid_grant");
}

fn tokens_that_expired_are_forgotten(store: &TestStore) {
    store.prepare();
    let server = guarded(store);
    let login = log_in(&server);
    store.execute("UPDATE refresh_tokens SET expires_at = 1");
    assert_refused(&refresh(&server, &login.refresh), "invalid_grant");
    refreshed(&server, &log_in(&server).refresh);
}

fn of_exchanges_at_once_at_two_processes_one_succeeds(store: &TestStore) {
    store.prepare();
    let servers = [guarded(store), guarded(store)];
    for round in 0..10u8 {
        let login = log_in(&servers[0]);
        let start = Barrier::new(8);
        let responses: Vec<Response> = thread::scope(|scope| {
            let client = |number: u8| {
                // From addresses of their own, for each may be wrong only so often.
                let mut connection =
                    servers[usize::from(number % 2)].connect_from([127, 1, round, 1 + number]);
                let (form, start) = (refresh_form(&login.refresh), &start);
                scope.spawn(move || {
                    start.wait();
                    connection.post_form(form)
                })
            };
            let clients: Vec<_> = (0..8).map(client).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let granted: Vec<_> = responses.iter().filter(|response| response.status == 200).collect();
        assert_eq!(granted.len(), 1, "round {round}: {responses:?}");
        for refused in responses.iter().filter(|response| response.status != 200) {
            assert_refused(refused, "invalid_grant");
        }
        // A token that two have is good for neither.
        assert_refused(&refresh(&servers[1], &tokens_of(granted[0]).refresh), "invalid_grant");
    }
}

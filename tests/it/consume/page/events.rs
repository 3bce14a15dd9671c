//! Events as they come: the list, its filter, its pause, the plot, and the stream behind them.

use std::collections::BTreeSet;

use serde_json::json;

use crate::util::browser::{Browser, ENTER};
use crate::util::{Consume, eventctl, wait_until};

use super::super::start;
use super::super::tls::Secured;
use super::{ROWS, STATE, fill, open, store_many, texts};

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn events_appear_as_they_arrive() {
    let (_directory, server) = start(&[]);
    server.store("before", "the page");
    let browser = open(&server);
    browser.run("window.loadedOnce = true");
    browser.wait_for(ROWS, texts(&["1 before the page"]));
    server.store("first", "one");
    browser.wait_for(ROWS, texts(&["2 first one", "1 before the page"]));
    server.store("second", "");
    server.store("third", "three");
    browser.wait_for(ROWS, texts(&["4 third three", "3 second ", "2 first one", "1 before the page"]));
    browser.wait_for("window.loadedOnce", true);
    let counts = browser.run("return document.querySelector('#counts').textContent");
    assert_eq!(counts, "4 shown, 3 arrived since the page was opened");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// As after a failover that lost events, or with a backup that was restored.
#[test]
#[ignore = "needs the browser of .ci/servers"]
fn events_that_others_have_replaced_are_replaced_on_the_page_which_says_so() {
    let (directory, mut server) = start(&[]);
    let browser = open(&server);
    for (number, payload) in ["one", "two", "three"].iter().enumerate() {
        server.store("a", payload);
        browser.wait_for("document.querySelectorAll('#list li').length", number + 1);
    }
    let replace = |first: i64, received_at: i64| {
        let connection = rusqlite::Connection::open(directory.path().join("events.db")).unwrap();
        let update = "UPDATE events SET received_at = ?, event_payload = 'another' WHERE id >= ?";
        connection.execute(update, (received_at, first)).unwrap();
    };
    replace(3, 7);
    browser.wait_for(ROWS, texts(&["3 a another", "2 a two", "1 a one"]));
    let said = "document.querySelector('#replaced').textContent.replace(/ at .*:/, ':')";
    browser.wait_for(said, "The store was replaced: its events after 2 differ from those before.");
    // And while the page has no stream.
    let port = server.address.port().to_string();
    server.process.kill();
    replace(1, 8);
    let mut again = eventctl(directory.path());
    let _again = Consume::start_command(again.args(["consume", "--port", &port]));
    browser.wait_for(ROWS, texts(&["3 a another", "2 a another", "1 a another"]));
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn events_appear_over_http_2_as_well() {
    let secured = Secured::start(&[]);
    let browser = open(&secured.server);
    browser.wait_for("performance.getEntriesByType('navigation')[0].nextHopProtocol", "h2");
    for (event_type, rows) in [("a", &["1 a x"][..]), ("b", &["2 b x", "1 a x"])] {
        assert_eq!(secured.http1().post_event(event_type, "x").status, 201);
        browser.wait_for(ROWS, texts(rows));
    }
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn a_filter_shows_what_the_server_would_list() {
    let (_directory, server) = start(&[]);
    let types =
        ["message", "join", "user.join", "a*b", "a[b]", "]", "-", "z", "^", "é", "😀x", "", "aXbXc", "!"];
    for event_type in types {
        server.store(event_type, "payload");
    }
    let browser = open(&server);
    let mut outcomes = BTreeSet::new();
    for glob in [
        "message",
        "*",
        "?",
        "??",
        "user.*",
        "*join",
        "*o*n*",
        "a[*]b",
        "a[[]b]",
        "[]]",
        "[!]]",
        "[^!]",
        "[]-a]",
        "[z-a]",
        "[a-z]",
        "[a-cx-z]",
        "[!a-z]*",
        "[é😀]*",
        "a*b*c",
        "a*b*d",
        "[-a]",
        "[a-]",
        "x",
        "**",
        "[!-~]",
    ] {
        fill(&browser, "#type", glob);
        let encoded: String = form_urlencoded::byte_serialize(glob.as_bytes()).collect();
        let listed = server.connect().get(&format!("/event?type={encoded}")).json();
        let mut ids: Vec<i64> =
            listed.as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap()).collect();
        ids.reverse();
        browser.wait_for(
            "[...document.querySelectorAll('#list .id')].map(id => Number(id.textContent))",
            json!(ids),
        );
        outcomes.insert(ids);
    }
    assert!(outcomes.len() > 12, "the patterns do not tell the types apart");
    fill(&browser, "#type", "a[b");
    browser.wait_for("document.querySelector('#type').getAttribute('aria-invalid')", "true");
    browser.wait_for("document.querySelector('#problem').textContent.includes('[ without its ]')", true);
    fill(&browser, "#type", "");
    browser.wait_for("document.querySelectorAll('#list li').length", types.len());
    browser.wait_for("document.querySelector('#type').getAttribute('aria-invalid')", "false");
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn a_filter_holds_for_events_to_come_and_looks_for_those_before() {
    let (_directory, server) = start(&[]);
    server.store("rare", "long ago");
    store_many(&server, "common", 0..150);
    let browser = open(&server);
    browser.wait_for("document.querySelectorAll('#list li').length", 100);
    browser.type_into("#type", "ra*");
    browser.wait_for(ROWS, texts(&["1 rare long ago"]));
    server.store("common", "again");
    server.store("rare", "at last");
    browser.wait_for(ROWS, texts(&["153 rare at last", "1 rare long ago"]));
    browser.type_into("#text", "LAST");
    browser.wait_for(ROWS, texts(&["153 rare at last"]));
    fill(&browser, "#text", "");
    fill(&browser, "#type", "");
    browser.wait_for("document.querySelectorAll('#list li').length", 102);
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn a_paused_list_stands_still_and_then_shows_all_of_it() {
    let (_directory, server) = start(&[]);
    server.store("a", "0");
    let browser = open(&server);
    browser.wait_for(ROWS, texts(&["1 a 0"]));
    browser.press([' ']);
    browser.wait_for(STATE, "paused");
    store_many(&server, "a", 1..=30);
    browser.wait_for("document.querySelector('#pause').textContent", "Resume (30 new)");
    assert_eq!(browser.run(&format!("return {ROWS}")), texts(&["1 a 0"]));
    browser.press([' ']);
    let all: Vec<String> = (0..=30).rev().map(|number| format!("{} a {number}", number + 1)).collect();
    browser.wait_for(ROWS, json!(all));
    browser.wait_for(STATE, "live");
    browser.click("#clear");
    browser.wait_for(ROWS, json!([]));
    server.store("a", "31");
    browser.wait_for(ROWS, texts(&["32 a 31"]));
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn older_events_are_there_for_those_who_ask() {
    let (_directory, server) = start(&[]);
    store_many(&server, "a", 1..=250);
    let browser = open(&server);
    for rows in [100, 200, 250] {
        browser.wait_for("document.querySelectorAll('#list li').length", rows);
        browser.click("#older");
    }
    browser.wait_for("document.querySelector('#older-note').textContent", "There are none.");
    let all: Vec<String> = (1..=250).rev().map(|number| format!("{number} a {number}")).collect();
    browser.wait_for(ROWS, json!(all));
    // Among them those that were cleared away.
    browser.click("#clear");
    browser.wait_for(ROWS, json!([]));
    browser.click("#older");
    browser.wait_for(ROWS, json!(all[..100]));
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn the_plot_shows_how_many_of_which_type() {
    let (_directory, server) = start(&[]);
    let browser = open(&server);
    browser.wait_for("document.querySelector('#plot').textContent.includes('no events')", true);
    browser.wait_for("document.querySelectorAll('#plot path').length", 0);
    // One commit has one time, and so one bar.
    let events = ["a", "b", "a", "b", "a", "a"];
    let events: Vec<String> = events.iter().map(|kind| crate::util::http::event(kind, "")).collect();
    assert_eq!(server.connect().post(format!("[{}]", events.join(","))).status, 201);
    browser.wait_for(
        "[...document.querySelectorAll('#legend li:not([hidden])')].map(item => item.textContent)",
        texts(&["a4", "b2"]),
    );
    let heights =
        "[...document.querySelectorAll('#plot path')].map(path => Math.round(path.getBBox().height / 10))";
    let drawn = browser.run(&format!("return {heights}"));
    let [a, b] = [0, 1].map(|slot| drawn[slot].as_i64().unwrap());
    assert!(b > 1 && a == 2 * b, "{drawn}");
    let label = browser.run("return document.querySelector('#plot').getAttribute('aria-label')");
    assert_eq!(label, "Events of the last 5 minutes by type: a 4, b 2; at most 1.2 per second");
    // An entry of the legend is a filter for its type.
    browser.click("#legend li:nth-child(2) button");
    browser.wait_for(ROWS, texts(&["4 b ", "2 b "]));
    browser.wait_for("document.querySelector('#legend .series-1').getAttribute('aria-pressed')", "true");
    browser.click("#legend li:nth-child(2) button");
    browser.wait_for("document.querySelectorAll('#list li').length", 6);
    // Beyond the first six, types are counted together.
    for kind in 0..20 {
        store_many(&server, &format!("type {kind}"), 0..3);
    }
    browser.wait_for("document.querySelectorAll('#legend li:not([hidden])').length", 7);
    browser.wait_for("document.querySelector('#legend li:last-child').textContent", "other types47");
    browser.wait_for("document.querySelectorAll('#plot path').length", 7);
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn the_plot_has_what_was_received_before_the_page_was_opened() {
    let (_directory, server) = start(&[]);
    for kind in ["a", "b"] {
        store_many(&server, kind, 0..900);
    }
    let browser = open(&server);
    browser.wait_for(
        "[...document.querySelectorAll('#legend li:not([hidden])')].map(item => item.textContent).sort()",
        texts(&["a900", "b900"]),
    );
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn a_flood_leaves_the_page_as_small_as_it_was() {
    let (_directory, server) = start(&[]);
    let browser = open(&server);
    for batch in 0..12 {
        store_many(&server, "flood", batch * 1000..(batch + 1) * 1000);
    }
    browser.wait_for("document.querySelector('#counts').textContent.includes('12,000 arrived')", true);
    let newest: Vec<String> =
        (11_500..12_000).rev().map(|number| format!("{} flood {number}", number + 1)).collect();
    browser.wait_for(ROWS, json!(newest));
    let nodes = browser.run("return document.querySelectorAll('*').length").as_i64().unwrap();
    assert!(nodes < 500 * 8, "{nodes} elements");
    browser.wait_for("document.querySelector('#legend').textContent", "flood12,000");
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn after_a_crash_of_the_server_the_page_goes_on_where_it_was() {
    let (directory, mut server) = start(&[]);
    server.store("before", "the crash");
    let browser = open(&server);
    browser.wait_for(ROWS, texts(&["1 before the crash"]));
    server.process.kill();
    browser.wait_for(STATE, "reconnecting");
    browser.wait_for("document.querySelector('#store').textContent", "unreachable");
    let mut elsewhere = Consume::start(directory.path());
    for number in 0..150 {
        elsewhere.store("meanwhile", &number.to_string());
    }
    assert!(elsewhere.process.terminate().success());
    let port = server.address.port().to_string();
    let again = Consume::start_command(eventctl(directory.path()).args(["consume", "--port", &port]));
    assert_eq!(again.address, server.address);
    browser.wait_for(STATE, "live");
    again.store("after", "the crash");
    let meanwhile = (0..150).rev().map(|number| format!("{} meanwhile {number}", number + 2));
    let all = ["152 after the crash".to_owned()].into_iter().chain(meanwhile);
    let all: Vec<String> = all.chain(["1 before the crash".to_owned()]).collect();
    browser.wait_for(ROWS, json!(all));
    browser.wait_for("document.querySelector('#store').textContent", "ready");
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn another_store_on_the_same_port_is_shown_from_its_beginning() {
    let (_directory, mut server) = start(&[]);
    store_many(&server, "old", 0..50);
    let browser = open(&server);
    browser.wait_for("document.querySelectorAll('#list li').length", 50);
    server.process.kill();
    let other = tempfile::tempdir().unwrap();
    let port = server.address.port().to_string();
    let mut elsewhere = Consume::start(other.path());
    elsewhere.store("new", "store");
    assert!(elsewhere.process.terminate().success());
    let _again = Consume::start_command(eventctl(other.path()).args(["consume", "--port", &port]));
    browser.wait_for(ROWS, texts(&["1 new store"]));
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn an_opened_event_shows_all_of_it() {
    let (_directory, server) = start(&[]);
    server.store("json", r#"{"big":12345678901234567890,"list":[1.10,{}],"text":"a \" b"}"#);
    server.store("long", &"x".repeat(50_000));
    let browser = open(&server);
    browser.wait_for("document.querySelectorAll('#list li').length", 2);
    browser.click("#list li:nth-child(1) summary");
    browser.wait_for("document.querySelector('#list pre').textContent.length", 50_000);
    browser.run("document.querySelector('#list li:nth-child(2) summary').focus()");
    browser.press([ENTER]);
    let expected = "{\n  \"big\": 12345678901234567890,\n  \"list\": [\n    1.10,\n    {}\n  ],\n  \"text\": \"a \\\" b\"\n}";
    browser.wait_for("document.querySelector('#list li:nth-child(2) pre').textContent", expected);
    browser.press([ENTER]);
    browser.wait_for("document.querySelectorAll('#list pre').length", 1);
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn seven_tabs_share_a_server_and_each_is_live_when_it_is_shown() {
    let (_directory, server) = start(&[]);
    let browser = Browser::start();
    let tabs: Vec<String> = (0..7).map(|_| browser.open_tab()).collect();
    for tab in &tabs {
        browser.show_tab(tab);
        browser.open(&server.url("/"));
        browser.wait_for(STATE, "live");
    }
    store_many(&server, "news", [1]);
    for tab in &tabs {
        browser.show_tab(tab);
        browser.wait_for(STATE, "live");
        browser.wait_for(ROWS, texts(&["1 news 1"]));
        browser.wait_for("document.querySelector('#store').textContent", "ready");
    }
    // Tabs that nobody looks at have no stream.
    wait_until(|| {
        server.connect().get("/metrics").text().contains("eventctl_event_streams 1\n").then_some(())
    });
}

//! Health, both schemes, small screens and the keyboard.

use serde_json::{Value, json};

use crate::util::browser::{Browser, DOWN, ENTER, ESCAPE, TAB};
use crate::util::receiver::{Receiver, Reply};

use super::super::start;
use super::{ROWS, open, store_many, texts};

fn text_of(id: &str) -> String {
    format!("document.querySelector('#{id}').textContent")
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn the_health_of_store_and_deliveries_is_shown() {
    let receiver = Receiver::start(|_, _| Reply::created());
    let refusing = Receiver::start(|_, _| Reply::status(410, ""));
    let slack = format!("slack:{}", receiver.url("/s3cret"));
    let (_directory, server) = start(&[
        "--alert-allow-private",
        "--alert",
        &slack,
        "--alert",
        &refusing.url("/"),
        "--alert-on",
        "a",
    ]);
    let browser = open(&server);
    browser.wait_for(&text_of("store"), "ready");
    browser.wait_for(&text_of("commit"), "none yet");
    browser.wait_for(&text_of("deliveries"), "none");
    server.store("a", "b");
    browser.wait_for(&format!("/^\\d+ s ago$/.test({})", text_of("commit")), true);
    browser.wait_for(
        &text_of("deliveries-note"),
        "slack: 1 sent, 0 pending, 0 dead; webhook: 0 sent, 0 pending, 1 dead",
    );
    browser.wait_for(&text_of("queue"), "0 events");
    browser.wait_for(&format!("/^[\\d.]+ KiB$/.test({})", text_of("size")), true);
    browser.wait_for(&format!("Number({}) >= 1", text_of("connections")), true);
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn subscriptions_are_shown_with_what_they_have_to_do() {
    let (_directory, server) = start(&[]);
    let browser = open(&server);
    browser.wait_for(&text_of("subscriptions"), "none");
    let ask = |method: &str, path: &str, body: &str| {
        let headers = [("Content-Type", "application/json")];
        server.connect().request(method, &format!("/subscription/{path}"), &headers, body.as_bytes()).json()
    };
    ask("PUT", "work", r#"{"max_attempts": 1}"#);
    ask("PUT", "other", "{}");
    for _ in 0..4 {
        server.store("a", "b");
    }
    let token = ask("POST", "work/claim", r#"{"limit": 1}"#)["token"].clone();
    ask("POST", "work/nack", &format!(r#"{{"token": {token}}}"#));
    ask("POST", "work/claim", r#"{"limit": 2}"#);
    browser.wait_for(
        &text_of("subscriptions-note"),
        "other: 4 behind, 0 in flight, 0 parked; work: 1 behind, 2 in flight, 1 parked",
    );
    browser.wait_for(&text_of("subscriptions"), "5 behind");
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn metrics_that_are_elsewhere_are_said_to_be() {
    let (_directory, server) = start(&["--metrics", "127.0.0.1:0"]);
    let browser = open(&server);
    browser.wait_for("document.querySelector('#unmeasured').checkVisibility()", true);
    browser.wait_for("document.querySelector('#queue').checkVisibility()", false);
    browser.wait_for(&text_of("store"), "ready");
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn both_schemes_can_be_read() {
    let (_directory, server) = start(&[]);
    let browser = open(&server);
    let colour = |name: &str| {
        browser.run(&format!(
            "const probe = document.createElement('i');
        probe.setAttribute('hidden', '');
        document.body.append(probe);
        const value = getComputedStyle(document.documentElement).getPropertyValue('--{name}');
        probe.remove();
        return value.trim()"
        ))
    };
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.command("Emulation.setEmulatedMedia", &features);
        let luminance = |name: &str| luminance_of(&colour(name));
        for ground in ["surface", "ground", "raised"] {
            for text in ["text", "muted", "accent", "good", "bad"] {
                let contrast = contrast_of(luminance(text), luminance(ground));
                assert!(contrast >= 4.5, "{scheme}: {text} on {ground}: {contrast}");
            }
        }
        assert!(contrast_of(luminance("on-accent"), luminance("accent")) >= 4.5, "{scheme}");
        let marks = ["edge", "warn"]
            .map(str::to_owned)
            .into_iter()
            .chain((0..7).map(|slot| format!("series-{slot}")));
        for mark in marks {
            let contrast = contrast_of(luminance(&mark), luminance("surface"));
            assert!(contrast >= 3.0, "{scheme}: {mark}: {contrast}");
        }
        grounds.push(browser.run("return getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(grounds[0], grounds[1]);
}

/// The relative luminance of a colour as the style writes it (WCAG 2.2).
fn luminance_of(colour: &Value) -> f64 {
    let digits = colour.as_str().unwrap().strip_prefix('#').unwrap();
    let width = digits.len() / 3;
    let channel = |position: usize| {
        let digits = &digits[position * width..(position + 1) * width];
        let value = f64::from(u8::from_str_radix(&digits.repeat(3 - width), 16).unwrap()) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * channel(0) + 0.7152 * channel(1) + 0.0722 * channel(2)
}

fn contrast_of(one: f64, other: f64) -> f64 {
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn a_phone_shows_it_all_without_scrolling_sideways() {
    let (_directory, server) = start(&[]);
    server.store(&"W".repeat(255), &"x".repeat(5000));
    server.store("a type", "a payload with spaces");
    store_many(&server, "number", 0..20);
    let browser = open(&server);
    let screen = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
    browser.command("Emulation.setDeviceMetricsOverride", &screen);
    browser.run("document.querySelectorAll('#list details').forEach(details => { details.open = true })");
    browser.wait_for("document.querySelectorAll('#legend li:not([hidden])').length", 3);
    browser.wait_for("innerWidth", 360);
    assert_eq!(browser.run("return document.documentElement.scrollWidth"), 360);
    let small =
        "[...document.querySelectorAll('button, input, summary')].filter(node => node.checkVisibility())
        .filter(node => node.getBoundingClientRect().height < 44 || node.getBoundingClientRect().right > 360)
        .map(node => node.id || node.textContent)";
    assert_eq!(browser.run(&format!("return {small}")), json!([]));
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn the_keyboard_is_enough() {
    let (_directory, server) = start(&[]);
    for event_type in ["aa", "bb", "ab"] {
        server.store(event_type, "x");
    }
    let browser = open(&server);
    let all = ["3 ab x", "2 bb x", "1 aa x"];
    browser.wait_for(ROWS, texts(&all));
    browser.press("/a*".chars());
    browser.wait_for(ROWS, texts(&["3 ab x", "1 aa x"]));
    browser.press([ESCAPE]);
    browser.wait_for(ROWS, texts(&all));
    // A space that is typed into a field is a space.
    browser.press("/ ".chars());
    browser.wait_for("document.querySelector('#type').value", " ");
    browser.press([ESCAPE]);
    browser.wait_for(ROWS, texts(&all));
    let reached = tab_through(&browser);
    for id in ["type", "text", "pause", "clear", "older"] {
        assert!(reached.iter().any(|name| name == id), "{id} is not reached: {reached:?}");
    }
    browser.run("document.querySelector('#list summary').focus()");
    browser.press([DOWN, ENTER]);
    browser.wait_for("document.querySelector('#list li:nth-child(2) details').open", true);
    browser.wait_for("document.querySelector('#pause').textContent", "Pause");
}

/// What Tab leads to on its way around the page; each must show that it is focused.
fn tab_through(browser: &Browser) -> Vec<String> {
    let mut reached = Vec::new();
    for _ in 0..20 {
        browser.press([TAB]);
        let focused = browser.run(
            "const node = document.activeElement;
            return [node.id || node.className || node.localName, getComputedStyle(node).outlineStyle]",
        );
        let name = focused[0].as_str().unwrap().to_owned();
        // Behind the last comes the browser itself, and then the first.
        if name == "body" {
            continue;
        }
        assert_ne!(focused[1], "none", "{name} does not show that it is focused");
        reached.push(name);
    }
    reached
}

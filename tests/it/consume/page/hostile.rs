//! What strangers send stays text, and the page stays with its server.

use std::iter;

use serde_json::json;

use super::super::start;
use super::{STATE, fill, open};

/// What would run, load or hide if any part of it were taken for markup, code or an address.
fn attacks() -> Vec<String> {
    let mut attacks: Vec<String> = [
        "<script>window.pwned = 1; alert(1)</script>",
        "</script><script>window.pwned = 1</script>",
        "<img src=x onerror=window.pwned=1>",
        "<img src=http://127.0.0.1:9/x.png>",
        "\"><svg onload=window.pwned=1>",
        "'><iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
        "</style><style>@import 'http://127.0.0.1:9/x.css';</style>",
        "<link rel=stylesheet href=//127.0.0.1:9/x.css><base href=//127.0.0.1:9/>",
        "<form action=//127.0.0.1:9/><input autofocus onfocus=window.pwned=1>",
        "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
        "<!--",
        "]]>",
        "javascript:window.pwned=1",
        "data:text/html,<script>opener.pwned=1</script>",
        "url(http://127.0.0.1:9/x)",
        "{{constructor.constructor('window.pwned=1')()}}",
        "${window.pwned=1}",
        "`${window.pwned=1}`",
        "__proto__",
        "constructor",
        "prototype",
        "toString",
        "hasOwnProperty",
        "then",
        "null",
        "undefined",
        "NaN",
        "\u{202e}gpj.exe\u{202c}",
        "admin\u{200b}\u{feff}\u{ad}",
        "\u{2066}a\u{2069}\u{200f}",
        "\u{1b}[31mred\u{1b}]0;title\u{7}",
        "line\nline\r\n\r\ndata: {\"id\":999}\n\nid: 999\n\n",
        "\u{2028}\u{2029}\u{85}",
        "\u{e0041}\u{e0042}",
        "Z\u{310}\u{311}\u{312}\u{313}\u{314}\u{315}",
        "",
        " ",
        "*",
        "[",
        "{\"__proto__\":{\"pwned\":1},\"constructor\":1}",
        "{\"toString\":null}",
        "[1,2",
    ]
    .map(str::to_owned)
    .into();
    attacks.push("\u{301}".repeat(200));
    attacks.push("W".repeat(255));
    attacks.push("<b>".repeat(85));
    attacks
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn nothing_that_strangers_send_runs_or_loads() {
    let (_directory, server) = start(&[]);
    let attacks = attacks();
    let (earlier, later) = attacks.split_at(attacks.len() / 2);
    earlier.iter().for_each(|attack| server.store(attack, attack));
    let browser = open(&server);
    later.iter().for_each(|attack| server.store(attack, attack));
    server.store("large", &"<img src=x onerror=window.pwned=1>".repeat(30_000));
    server.store("deep", &"[".repeat(500_000));
    server.store("deep and whole", &("[".repeat(100_000) + &"]".repeat(100_000)));
    server.store("controls", &"\u{202e}a".repeat(100_000));
    browser.wait_for("document.querySelectorAll('#list li').length", attacks.len() + 4);
    let elements = "JSON.stringify(Object.entries(Object.groupBy(
        [...document.querySelectorAll('*')].map(node => node.localName), name => name)).map(([name]) => name).sort())";
    // Open all, look into all corners.
    browser.run("document.querySelectorAll('#list details').forEach(details => { details.open = true })");
    browser.wait_for(
        "[...document.querySelectorAll('#list .whole')].every(whole => !['', '…'].includes(whole.querySelector('pre').textContent)
            || whole.parentElement.querySelector('.payload').textContent === '')",
        true,
    );
    for filter in ["*", "<*", "__proto__", "constructor"] {
        fill(&browser, "#type", filter);
    }
    for item in 1..=6 {
        browser.click(&format!("#legend li:nth-child({item}) button"));
        browser.wait_for("document.querySelector('#problem').textContent", "");
    }
    fill(&browser, "#type", "");
    browser.wait_for("document.querySelectorAll('#list li').length", attacks.len() + 4);
    assert_eq!(browser.run("return [window.pwned, {}.pwned].every(found => found === undefined)"), true);
    let found = browser.run(&format!("return {elements}"));
    for forbidden in ["img", "iframe", "base", "\"b\",\"base", "object", "embed", "math"] {
        assert!(!found.as_str().unwrap().contains(&format!("\"{forbidden}\"")), "{forbidden}: {found}");
    }
    assert_eq!(browser.run("return document.querySelectorAll('script, style, form, meta, link').length"), 7);
    browser.wait_for(STATE, "live");
    assert_eq!(browser.complaints(), [""; 0]);
    let origin = server.url("/");
    let strange: Vec<String> =
        browser.requested().into_iter().filter(|url| !url.starts_with(&origin)).collect();
    assert!(strange.iter().all(|url| url.starts_with("data:image/svg+xml")), "{strange:?}");
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn a_text_cannot_pass_for_another() {
    let (_directory, server) = start(&[]);
    server.store("\u{202e}nimda", "a\u{200b}b\n\u{1b}[2J\u{9b}");
    server.store(r"\u{202e}nimda", r"a\u{200b}b");
    let browser = open(&server);
    let row = |position: usize| format!("document.querySelector('#list li:nth-child({position}) summary')");
    browser.wait_for(&format!("{}.querySelector('.type').textContent", row(2)), r"\u{202e}nimda");
    browser.wait_for(
        &format!("{}.querySelector('.payload').textContent", row(2)),
        r"a\u{200b}b\n\u{1b}[2J\u{9b}",
    );
    // What is shown in place of a character is marked, so that the same spelt out is told from it.
    for (position, marks) in [(1, 0), (2, 4)] {
        browser.wait_for(&format!("{}.querySelectorAll('mark').length", row(position)), marks);
    }
    let raw = "[...document.body.textContent].filter(c => /[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u200b\\u202e]/.test(c)).length";
    browser.run("document.querySelectorAll('#list details').forEach(details => { details.open = true })");
    browser.wait_for("document.querySelectorAll('#list pre').length", 2);
    // The script names them, as escapes.
    assert_eq!(browser.run(&format!("return {raw}")), 0);
    browser.wait_for("document.querySelector('#legend button').title", r"\u{202e}nimda");
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn the_policy_holds_where_the_script_would_not() {
    let (_directory, server) = start(&[]);
    let browser = open(&server);
    let tried = browser.run(
        "try { document.body.innerHTML = '<b>x</b>'; return 'set' } catch (error) { return error.name }",
    );
    assert_eq!(tried, "TypeError");
    browser.run(
        "const image = document.createElement('img');
        image.src = 'http://127.0.0.1:9/x.png';
        document.body.append(image);
        const node = document.createElement('div');
        try { node.setAttribute('onclick', 'window.pwned = 1') } catch {}
        document.body.append(node);
        node.click()",
    );
    assert_eq!(browser.run("return window.pwned ?? 'none'"), "none");
    let complaints = browser.complaints();
    assert!(complaints.iter().any(|complaint| complaint.contains("img-src")), "{complaints:?}");
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn types_without_end_are_counted_together() {
    let (_directory, server) = start(&[]);
    let browser = open(&server);
    for batch in 0..3 {
        let events = (0..1000).map(|number| {
            json!({"event_type": format!("made up {batch} {number}"), "event_payload": ""}).to_string()
        });
        let events: Vec<String> = events.chain(iter::once(crate::util::http::event("real", ""))).collect();
        assert_eq!(server.connect().post(format!("[{}]", events.join(","))).status, 201);
    }
    browser.wait_for(
        "[...document.querySelectorAll('#legend .count')].reduce((sum, count) =>
            sum + Number(count.textContent.replaceAll(',', '')), 0)",
        3003,
    );
    // Of each five seconds so many types are told apart, and this one came behind them.
    let legend = browser.run("return document.querySelector('#legend').textContent");
    assert!(!legend.as_str().unwrap().contains("real"), "{legend}");
}

//! What the program is built of, by Cargo.lock.

use std::collections::BTreeMap;

/// Packages that must not be a part of the program, in any version that a registry has: with a reason. The workflow
/// asks the database of advisories (RustSec); this list holds where that cannot be had.
const DENIED: [(&str, &str); 21] = [
    ("ansi_term", "unmaintained (RUSTSEC-2021-0139)"),
    ("atty", "unmaintained, unsound (RUSTSEC-2024-0375)"),
    ("aws-lc-rs", "a second provider of cryptography in the tree"),
    ("cloudevents-sdk", "stale"),
    ("dotenv", "unmaintained (RUSTSEC-2021-0141)"),
    ("fxhash", "unmaintained (RUSTSEC-2025-0057)"),
    ("instant", "unmaintained (RUSTSEC-2024-0384)"),
    ("json", "unmaintained (RUSTSEC-2022-0081)"),
    ("mach", "unmaintained (RUSTSEC-2020-0168)"),
    ("net2", "unmaintained (RUSTSEC-2020-0016)"),
    ("openssl", "a second implementation of TLS in the tree"),
    ("paste", "unmaintained (RUSTSEC-2024-0436)"),
    ("proc-macro-error", "unmaintained (RUSTSEC-2024-0370)"),
    ("rsa", "timing side channel (RUSTSEC-2023-0071)"),
    ("rustls-pemfile", "unmaintained (RUSTSEC-2025-0134)"),
    ("serde_cbor", "unmaintained (RUSTSEC-2021-0127)"),
    ("serde_yaml", "unmaintained"),
    ("serde_yml", "unsound, unmaintained (RUSTSEC-2025-0068)"),
    ("sqlx", "clashes with rusqlite over libsqlite3-sys"),
    ("webpki", "unmaintained; rustls-webpki took its place"),
    ("yaml-rust", "unmaintained (RUSTSEC-2024-0320)"),
];

/// The oldest version without a known vulnerability.
const OLDEST: [(&str, [u64; 3]); 8] = [
    ("bytes", [1, 11, 1]),
    ("crossbeam-channel", [0, 5, 15]),
    ("h2", [0, 4, 4]),
    ("idna", [1, 0, 0]),
    ("ring", [0, 17, 12]),
    ("rustls", [0, 23, 18]),
    ("tokio", [1, 44, 2]),
    ("tracing-subscriber", [0, 3, 20]),
];

/// The packages of a lock file, without those that this repository has itself: name and version.
fn packages(lock: &str) -> Vec<(String, String)> {
    let mut packages = Vec::new();
    for package in lock.split("[[package]]").skip(1) {
        let fields: BTreeMap<&str, &str> = package
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .map(|(key, value)| (key, value.trim_matches('"')))
            .collect();
        if fields.contains_key("source") {
            packages.push((fields["name"].to_owned(), fields["version"].to_owned()));
        }
    }
    packages
}

fn faults(lock: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, version) in packages(lock) {
        if let Some((_, reason)) = DENIED.iter().find(|(denied, _)| *denied == name) {
            faults.push(format!("{name} {version}: {reason}"));
        }
        let numbers: Vec<u64> =
            version.split(['.', '-', '+']).take(3).map(|number| number.parse().unwrap_or(0)).collect();
        if let Some((_, oldest)) = OLDEST.iter().find(|(known, _)| *known == name)
            && numbers.as_slice() < oldest.as_slice()
        {
            faults.push(format!("{name} {version}: has a known vulnerability"));
        }
    }
    faults
}

#[test]
fn no_dependency_is_known_to_be_vulnerable_or_unmaintained() {
    let lock = include_str!("../../Cargo.lock");
    assert!(packages(lock).len() > 100);
    assert_eq!(faults(lock), [""; 0]);
}

#[test]
fn a_vulnerable_or_unmaintained_dependency_is_found() {
    let lock = "[[package]]\nname = \"webpki\"\nversion = \"0.22.4\"\nsource = \"registry\"\n\n\
        [[package]]\nname = \"webpki\"\nversion = \"0.22.99\"\n\n\
        [[package]]\nname = \"h2\"\nversion = \"0.4.3\"\nsource = \"registry\"\n\n\
        [[package]]\nname = \"tokio\"\nversion = \"1.100.0\"\nsource = \"registry\"\n";
    let found = faults(lock);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("webpki 0.22.4: ") && found[1].starts_with("h2 0.4.3: "), "{found:?}");
}

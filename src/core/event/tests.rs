use super::explain::LISTED_ERRORS;
use super::*;

fn errors_of(parsed: Result<impl fmt::Debug, ParseError>) -> Vec<(String, String)> {
    let Err(ParseError::Shape { errors, total }) = parsed else {
        panic!("expected errors of shape, got {parsed:?}");
    };
    assert!(total >= errors.len());
    errors.into_iter().map(|error| (error.pointer, error.detail)).collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(pointer, detail)| ((*pointer).to_owned(), (*detail).to_owned())).collect()
}

#[test]
fn strings_are_kept_as_they_are() {
    let event = Event::parse(br#"{"event_payload":" \u00e9\ud83d\ude00\n","event_type":""}"#).unwrap();
    assert_eq!(event.event_payload(), " é😀\n");
    assert_eq!(event.event_type(), "");
}

#[test]
fn a_health_alert_is_an_event() {
    let event = Event::parse_health_alert(br#"{"issues":["service-a-failure","\u00e9 \"q\""]}"#).unwrap();
    assert_eq!(
        (event.event_type(), event.event_payload()),
        (HEALTH_ALERT, r#"["service-a-failure","é \"q\""]"#)
    );
}

#[test]
fn everything_that_is_wrong_with_a_health_alert_is_named() {
    let array = "expected an array of strings, got";
    for (text, expected) in [
        ("[]", vec![("", "expected an object, got an array".to_owned())]),
        ("{}", vec![("/issues", "missing: expected an array of strings".to_owned())]),
        (r#"{"issues":[]}"#, vec![("/issues", "expected at least one issue".to_owned())]),
        (r#"{"issues":"a"}"#, vec![("/issues", format!("{array} a string"))]),
        (r#"{"issues":{"a":[1]}}"#, vec![("/issues", format!("{array} an object"))]),
        (r#"{"issues":null}"#, vec![("/issues", format!("{array} null"))]),
        (
            r#"{"a":1,"issues":["a",1,["b"],{"c":[]},"\u0000"]}"#,
            vec![
                ("/a", "unknown member".to_owned()),
                ("/issues/1", "expected a string, got a number".to_owned()),
                ("/issues/2", "expected a string, got an array".to_owned()),
                ("/issues/3", "expected a string, got an object".to_owned()),
                ("/issues/4", "expected a string without U+0000".to_owned()),
            ],
        ),
        (r#"{"issues":["a"],"issues":["b"]}"#, vec![("/issues", "given twice".to_owned())]),
    ] {
        let expected: Vec<(String, String)> =
            expected.into_iter().map(|(pointer, detail)| (pointer.to_owned(), detail)).collect();
        assert_eq!(errors_of(Event::parse_health_alert(text.as_bytes())), expected, "{text}");
    }
    let many = format!(r#"{{"issues":[{}1]}}"#, "1,".repeat(5000));
    let Err(ParseError::Shape { errors, total }) = Event::parse_health_alert(many.as_bytes()) else {
        panic!()
    };
    assert_eq!((errors.len(), total), (LISTED_ERRORS, 5001));
}

#[test]
fn every_offending_member_is_named() {
    let parsed = Event::parse(br#"{"event_type": 123, "event_payload": {}, "a/b~": 1}"#);
    let expected = [
        ("/event_type", "expected a string, got a number"),
        ("/event_payload", "expected a string, got an object"),
        ("/a~1b~0", "unknown member"),
    ];
    assert_eq!(errors_of(parsed), owned(&expected));
}

#[test]
fn every_kind_of_value_is_named() {
    for (value, kind) in [
        ("null", "null"),
        ("true", "a boolean"),
        ("-1", "a number"),
        ("1.5", "a number"),
        ("[[1]]", "an array"),
    ] {
        let text = format!(r#"{{"event_type":"a","event_payload":{value}}}"#);
        let expected = format!("expected a string, got {kind}");
        assert_eq!(errors_of(Event::parse(text.as_bytes())), owned(&[("/event_payload", &expected)]));
        let expected = format!("expected an object, got {kind}");
        assert_eq!(errors_of(Event::parse(value.as_bytes())), owned(&[("", &expected)]));
    }
}

#[test]
fn an_array_of_two_strings_is_no_event() {
    let expected = "expected an object, got an array";
    assert_eq!(errors_of(Event::parse(br#"["a","b"]"#)), owned(&[("", expected)]));
    assert_eq!(errors_of(Event::parse_array(br#"[["a","b"]]"#)), owned(&[("/0", expected)]));
}

#[test]
fn missing_and_doubled_members_are_refused() {
    let missing =
        [("/event_type", "missing: expected a string"), ("/event_payload", "missing: expected a string")];
    assert_eq!(errors_of(Event::parse(b"{}")), owned(&missing));
    let doubled = Event::parse(br#"{"event_type":"a","event_payload":"b","event_type":"c"}"#);
    assert_eq!(errors_of(doubled), owned(&[("/event_type", "given twice")]));
}

#[test]
fn null_characters_and_long_types_are_refused() {
    let null = Event::parse(br#"{"event_type":"a\u0000","event_payload":"\u0000"}"#);
    let without = "expected a string without U+0000";
    assert_eq!(errors_of(null), owned(&[("/event_type", without), ("/event_payload", without)]));
    let longest = "é".repeat(EVENT_TYPE_LIMIT);
    let fits = format!(r#"{{"event_type":"{longest}","event_payload":""}}"#);
    assert!(Event::parse(fits.as_bytes()).is_ok());
    let long = format!(r#"{{"event_type":"{longest}é","event_payload":""}}"#);
    let expected = [("/event_type", "expected at most 255 characters, got 256")];
    assert_eq!(errors_of(Event::parse(long.as_bytes())), owned(&expected));
}

#[test]
fn bytes_that_are_not_json_are_refused() {
    let offset = Event::parse(b"{\"event_type\":\"\xff\"}").unwrap_err();
    assert_eq!(offset, ParseError::Encoding { offset: 15 });
    for wrong in
        ["", "{", "nul", r#"{"event_type":"\ud800","event_payload":""}"#, "{} x", "\u{feff}\u{feff}{}"]
    {
        assert!(matches!(Event::parse(wrong.as_bytes()), Err(ParseError::Syntax(_))), "{wrong}");
    }
    let in_a_skipped_member = b"{\"other\":\"\xff\",\"event_type\":\"\",\"event_payload\":\"\"}";
    assert!(matches!(Event::parse(in_a_skipped_member), Err(ParseError::Encoding { .. })));
}

#[test]
fn a_leading_byte_order_mark_is_skipped() {
    let event = r#"{"event_type":"a","event_payload":"b"}"#;
    let marked = format!("\u{feff}{event}");
    assert_eq!(Event::parse(marked.as_bytes()), Event::parse(event.as_bytes()));
    assert_eq!(Event::parse_lines(marked.as_bytes()), Event::parse_lines(event.as_bytes()));
    let array = format!("\u{feff}[{event}]");
    assert_eq!(Event::parse_array(array.as_bytes()).map(|events| events.len()), Ok(1));
    // Offsets are those of the bytes as they came.
    assert_eq!(Event::parse(b"\xef\xbb\xbf\xff"), Err(ParseError::Encoding { offset: 3 }));
    // Files with a mark each may follow one another; within a line it is no JSON.
    let second = format!("{marked}\n{marked}");
    assert_eq!(Event::parse_lines(second.as_bytes()).map(|events| events.len()), Ok(2));
    let within = format!("{event}\n {marked}");
    assert!(matches!(Event::parse_lines(within.as_bytes()), Err(ParseError::Line { number: 2, .. })));
}

#[test]
fn several_values_on_a_line_are_reported() {
    let event = r#"{"event_type":"a","event_payload":"b"}"#;
    let column = event.len() + 1;
    for (between, line, column) in [("", 1, column), ("\n", 2, 1), (" ", 1, column + 1)] {
        let several = Event::parse(format!("{event}{between}{event}").as_bytes());
        assert_eq!(several, Err(ParseError::SeveralValues { line, column }), "{between:?}");
    }
    let message_of = |lines: &str| match Event::parse_lines(lines.as_bytes()) {
        Err(ParseError::Line { number, message }) => (number, message),
        other => panic!("{other:?}"),
    };
    // Blank lines are counted, so that an editor finds the line.
    let (number, message) = message_of(&format!("\n\n{event}\n{event}{event}"));
    assert_eq!((number, message), (4, format!("a second value begins at column {column}{NO_NEWLINES}")));
    let (number, message) = message_of(&format!("{event}\n\n{{\n}}"));
    assert_eq!(number, 3);
    assert!(message.starts_with("EOF") && message.ends_with(WHOLE_LINES), "{message}");
}

#[test]
fn lists_point_at_the_item() {
    let array = br#"[{"event_type":"a","event_payload":"b"}, 7, {"event_type":"a","event_payload":1}]"#;
    let expected =
        [("/1", "expected an object, got a number"), ("/2/event_payload", "expected a string, got a number")];
    assert_eq!(errors_of(Event::parse_array(array)), owned(&expected));
    let lines = b"{\"event_type\":\"a\",\"event_payload\":\"b\"}\r\n\n7\n{\"event_type\":\"a\",\"event_payload\":1}\n";
    assert_eq!(errors_of(Event::parse_lines(lines)), owned(&expected));
    assert_eq!(errors_of(Event::parse_array(b"[]")), owned(&[("", "expected at least one event")]));
    assert_eq!(errors_of(Event::parse_lines(b"\n")), owned(&[("", "expected at least one event")]));
}

#[test]
fn a_flood_of_errors_is_counted_and_cut() {
    let array = format!("[{}1]", "1,".repeat(99_999));
    let Err(ParseError::Shape { errors, total }) = Event::parse_array(array.as_bytes()) else {
        panic!("expected errors of shape");
    };
    assert_eq!((errors.len(), total), (LISTED_ERRORS, 100_000));
    let members: Vec<String> = (0..100_000).map(|n| format!("\"m{n}\":1")).collect();
    let object = format!("{{{}}}", members.join(","));
    let Err(ParseError::Shape { errors, total }) = Event::parse(object.as_bytes()) else {
        panic!("expected errors of shape");
    };
    assert_eq!((errors.len(), total), (LISTED_ERRORS, 100_002));
    let long_name = format!(r#"{{"{}":1}}"#, "x".repeat(1_000_000));
    let longest = errors_of(Event::parse(long_name.as_bytes())).iter().map(|(_, detail)| detail.len()).max();
    assert!(longest < Some(100));
}

#[test]
fn a_string_in_place_of_an_array_is_not_repeated() {
    let string = format!("\"{}\"", "x".repeat(1_000_000));
    let expected = [("", "expected an array of objects, got a string")];
    assert_eq!(errors_of(Event::parse_array(string.as_bytes())), owned(&expected));
}

#[test]
fn lines_and_arrays_count_their_errors_alike() {
    let members: Vec<String> = (0..LISTED_ERRORS).map(|n| format!("\"m{n}\":1")).collect();
    let object = format!("{{{}}}", members.join(","));
    let array = Event::parse_array(format!("[{object},{object}]").as_bytes());
    let Err(ParseError::Shape { total, .. }) = array else { panic!("expected errors of shape") };
    assert_eq!(total, 2 * (LISTED_ERRORS + 2));
    assert_eq!(Event::parse_lines(format!("{object}\n{object}").as_bytes()), array);
}

//! Globs over event types: `--type`, `type=` and `--alert-on`.
//!
//! A pattern is parsed and compiled once. Matching simulates its nondeterministic automaton with one bit a token (the
//! Shift-And method of Baeza-Yates and Gonnet, "A new approach to text searching", 1992): a character of the text costs at
//! most 16 machine words of work, however many stars and sets the pattern has. Nothing backtracks.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

/// The longest pattern: four bytes for each character of the longest event type.
const PATTERN_LIMIT_BYTES: usize = 1020;

/// Words of 64 bits for the states of the longest pattern: one before each token, and one after the last.
const MAXIMUM_WORDS: usize = PATTERN_LIMIT_BYTES / 64 + 1;

/// A pattern that matches a whole event type: `*` any run of characters, `?` one character, `[a-z]` one of a set, `[!a-z]` or
/// `[^a-z]` one that is not in the set.
#[derive(Clone)]
pub struct Glob {
    text: Arc<str>,
    tokens: Arc<[Token]>,
    automaton: Arc<Automaton>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Token {
    /// `*`: any run of characters, an empty one included.
    Run,
    /// A character that matches itself.
    Literal(char),
    /// `?` or `[...]`: one of these characters. The ranges are sorted and do not touch.
    Set(Vec<RangeInclusive<char>>),
}

impl Glob {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern matches only its own text.
    pub fn is_literal(&self) -> bool {
        self.tokens.iter().all(|token| matches!(token, Token::Literal(_)))
    }

    pub fn matches_all(&self) -> bool {
        *self.tokens == [Token::Run]
    }

    /// Two runs are never adjacent.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// How many words of 64 bits a character of the text costs at most.
    pub fn words(&self) -> usize {
        self.automaton.repeating.len()
    }

    pub fn matches(&self, event_type: &str) -> bool {
        self.automaton.accepts(event_type)
    }

    /// Whether this pattern matches all that another matches. Compares token by token, and so may miss it where
    /// `*` and `?` stand in another order; it never errs on the other side.
    pub fn covers(&self, other: &Glob) -> bool {
        // `covered[n]` says whether the tokens so far cover the first n tokens of the other.
        let mut covered: Vec<bool> = (0..=other.tokens.len()).map(|length| length == 0).collect();
        for token in &*self.tokens {
            if *token == Token::Run {
                (1..covered.len()).for_each(|length| covered[length] |= covered[length - 1]);
                continue;
            }
            for length in (1..covered.len()).rev() {
                covered[length] = covered[length - 1] && token.covers(&other.tokens[length - 1]);
            }
            covered[0] = false;
        }
        covered[other.tokens.len()]
    }
}

/// The automaton of a pattern: a character that the `n`-th token matches (runs are not counted) leads from state `n` to
/// state `n + 1`. The pattern matches a text that leads from state 0 to the last state.
struct Automaton {
    /// The first characters of the classes whose characters all tokens treat alike, sorted; the first is U+0000.
    class_starts: Vec<char>,
    /// For each class, the bit set of the states whose token matches its characters.
    advancing: Vec<u64>,
    /// The bit set of the states that follow a run: any character leads back to them.
    repeating: Vec<u64>,
    last_state: usize,
}

impl Automaton {
    fn new(tokens: &[Token]) -> Automaton {
        let sets: Vec<Vec<RangeInclusive<char>>> = tokens.iter().filter_map(Token::characters).collect();
        let last_state = sets.len();
        let words = last_state / 64 + 1;
        let mut repeating = vec![0; words];
        let mut state = 0;
        for token in tokens {
            match token {
                Token::Run => repeating[state / 64] |= 1 << (state % 64),
                _ => state += 1,
            }
        }
        let ranges = || sets.iter().flatten();
        let mut class_starts = vec!['\0'];
        class_starts.extend(ranges().map(|range| *range.start()));
        class_starts.extend(ranges().filter_map(|range| successor(*range.end())));
        class_starts.sort_unstable();
        class_starts.dedup();
        let mut advancing = vec![0; words * class_starts.len()];
        for (state, range) in
            sets.iter().enumerate().flat_map(|(state, set)| set.iter().map(move |range| (state, range)))
        {
            let first = class_starts.partition_point(|start| start < range.start());
            let end = class_starts.partition_point(|start| start <= range.end());
            for class in first..end {
                advancing[class * words + state / 64] |= 1 << (state % 64);
            }
        }
        Automaton { class_starts, advancing, repeating, last_state }
    }

    fn accepts(&self, text: &str) -> bool {
        let words = self.repeating.len();
        let mut states = [0_u64; MAXIMUM_WORDS];
        let states = &mut states[..words];
        states[0] = 1;
        for character in text.chars() {
            let class = self.class_starts.partition_point(|start| *start <= character) - 1;
            let class_advancing = &self.advancing[class * words..][..words];
            let (mut carry, mut alive) = (0, 0);
            for ((state, advancing), repeating) in states.iter_mut().zip(class_advancing).zip(&self.repeating)
            {
                let advanced = *state & advancing;
                *state = advanced << 1 | carry | *state & repeating;
                carry = advanced >> 63;
                alive |= *state;
            }
            if alive == 0 {
                return false;
            }
        }
        states[self.last_state / 64] >> (self.last_state % 64) & 1 == 1
    }
}

fn successor(character: char) -> Option<char> {
    (character..=char::MAX).nth(1)
}

impl Token {
    /// The characters that the token matches; none for a run.
    fn characters(&self) -> Option<Vec<RangeInclusive<char>>> {
        match self {
            Token::Run => None,
            Token::Literal(character) => Some(vec![*character..=*character]),
            Token::Set(ranges) => Some(ranges.clone()),
        }
    }

    /// Whether this token, which is no run, matches every character that another matches.
    fn covers(&self, other: &Token) -> bool {
        let (Some(own), Some(others)) = (self.characters(), other.characters()) else { return false };
        // Ranges do not touch, so one that is covered lies within a single one.
        let lies_within = |range: &RangeInclusive<char>| {
            own.iter().any(|own| own.start() <= range.start() && range.end() <= own.end())
        };
        others.iter().all(lies_within)
    }

    fn any_character() -> Token {
        Token::Set(vec!['\0'..=char::MAX])
    }

    /// The set of the members between `[` or `[!` and its `]`.
    fn set(members: &str, negated: bool) -> Token {
        let mut ranges = Vec::new();
        let mut rest = members.chars();
        // A leading `]` is a member, and does not begin a range.
        if members.starts_with(']') {
            rest.next();
            ranges.push(']'..=']');
        }
        while let Some(member) = rest.next() {
            let mut ahead = rest.clone();
            match (ahead.next(), ahead.next()) {
                (Some('-'), Some(end)) => {
                    // A backward range holds only its start.
                    ranges.push(member..=end.max(member));
                    rest = ahead;
                }
                _ => ranges.push(member..=member),
            }
        }
        let ranges = merged(ranges);
        Token::Set(if negated { complement(&ranges) } else { ranges })
    }
}

/// The same characters, in sorted ranges that do not touch.
fn merged(mut ranges: Vec<RangeInclusive<char>>) -> Vec<RangeInclusive<char>> {
    ranges.sort_unstable_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<char>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if successor(*last.end()).is_none_or(|next| *range.start() <= next) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// All other characters. The ranges are sorted and do not touch.
fn complement(ranges: &[RangeInclusive<char>]) -> Vec<RangeInclusive<char>> {
    let mut others = Vec::with_capacity(ranges.len() + 1);
    let mut start = Some('\0');
    for range in ranges {
        if let Some(start) = start
            && start < *range.start()
        {
            let end = ('\0'..*range.start())
                .next_back()
                .expect("a character comes before one that is not the first");
            others.push(start..=end);
        }
        start = successor(*range.end());
    }
    others.extend(start.map(|start| start..=char::MAX));
    others
}

impl FromStr for Glob {
    type Err = String;

    fn from_str(text: &str) -> Result<Glob, String> {
        // No event type contains it.
        if text.contains('\0') {
            return Err("expected a pattern without U+0000".to_owned());
        }
        if text.len() > PATTERN_LIMIT_BYTES {
            return Err(format!("expected a pattern of at most {PATTERN_LIMIT_BYTES} bytes"));
        }
        let mut tokens = Vec::new();
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            tokens.push(match character {
                '*' if tokens.last() == Some(&Token::Run) => continue,
                '*' => Token::Run,
                '?' => Token::any_character(),
                '[' => {
                    let set = rest.as_str();
                    let negated = set.starts_with(['!', '^']);
                    let members = &set[usize::from(negated)..];
                    // A leading `]` is a member of the set.
                    let first = usize::from(members.starts_with(']'));
                    let close =
                        members[first..].find(']').ok_or("expected a `]` for every `[` of the pattern")?;
                    let (members, after) = members.split_at(first + close);
                    rest = after[1..].chars();
                    Token::set(members, negated)
                }
                literal => Token::Literal(literal),
            });
        }
        let automaton = Automaton::new(&tokens);
        Ok(Glob { text: text.into(), tokens: tokens.into(), automaton: Arc::new(automaton) })
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Glob) -> bool {
        self.tokens == other.tokens
    }
}

impl Eq for Glob {}

impl Hash for Glob {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tokens.hash(state);
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, formatter)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> Glob {
        text.parse().unwrap()
    }

    #[test]
    fn sets_must_be_closed() {
        for right in ["", "message", "user.*", "a?c", "[a-z]*", "[!a]", "[]]", "[!]]x", "[[!]", "[][!]*"] {
            assert!(right.parse::<Glob>().is_ok(), "{right}");
        }
        for wrong in ["[", "a[b", "[]", "[!]", "[a][b", "[^]"] {
            assert!(wrong.parse::<Glob>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn patterns_that_no_type_could_match_are_refused() {
        assert!("a*\0b".parse::<Glob>().is_err());
        assert!("é".repeat(PATTERN_LIMIT_BYTES / 2).parse::<Glob>().is_ok());
        assert!("*".repeat(PATTERN_LIMIT_BYTES + 1).parse::<Glob>().is_err());
    }

    #[test]
    fn sets_are_merged_ranges() {
        let set = |text: &str| glob(text).tokens().to_vec();
        assert_eq!(set("[ca-b]"), [Token::Set(vec!['a'..='c'])]);
        assert_eq!(set("[z-a-]"), [Token::Set(vec!['-'..='-', 'z'..='z'])]);
        assert_eq!(set("[]-]"), [Token::Set(vec!['-'..='-', ']'..=']'])]);
        assert_eq!(set("[!\u{1}-\u{10FFFF}]"), [Token::Set(vec!['\0'..='\0'])]);
        // Surrogates are no characters: what stands on both sides of them touches.
        assert_eq!(set("[\u{D7FF}\u{E000}]"), [Token::Set(vec!['\u{D7FF}'..='\u{E000}'])]);
        assert_eq!(set("[!b]"), [Token::Set(vec!['\0'..='a', 'c'..=char::MAX])]);
        assert_eq!(set("**?**"), [Token::Run, Token::any_character(), Token::Run]);
    }

    #[test]
    fn types_match_as_documented() {
        for (pattern, matching, others) in [
            ("", &[""][..], &["a"][..]),
            ("*", &["", "a", "日本"], &[]),
            ("message", &["message"], &["Message", "messages", ""]),
            ("user_*", &["user_", "user_x"], &["user", "xuser_"]),
            ("a?c", &["abc", "aéc"], &["ac", "abbc"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x"]),
            ("[!a-c]x", &["dx", "-x"], &["ax", "x"]),
            ("*a*b", &["ab", "aab", "xaxbb"], &["ba", "abx"]),
            ("*.[]!-]", &["x.]", ".!", "..-"], &["x.a"]),
        ] {
            for text in matching {
                assert!(glob(pattern).matches(text), "`{text}` against `{pattern}`");
            }
            for text in others {
                assert!(!glob(pattern).matches(text), "`{text}` against `{pattern}`");
            }
        }
    }

    #[test]
    fn the_longest_patterns_match() {
        // States fill every word, and a state is carried from each word into the next.
        let literal = "a".repeat(PATTERN_LIMIT_BYTES);
        assert!(glob(&literal).matches(&literal) && !glob(&literal).matches(&literal[1..]));
        let stars = "*a".repeat(PATTERN_LIMIT_BYTES / 2);
        assert!(glob(&stars).matches(&"xa".repeat(510)) && !glob(&stars).matches(&"xa".repeat(509)));
        assert!(glob(&stars).words() <= MAXIMUM_WORDS && glob(&literal).words() == MAXIMUM_WORDS);
    }

    #[test]
    fn matching_agrees_with_a_table_over_random_patterns() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let mut text = |alphabet: &[&str], most: usize| -> String {
                (0..random.usize(..=most)).map(|_| alphabet[random.usize(..alphabet.len())]).collect()
            };
            let pattern = text(&["*", "?", "a", "b", "é", "[ab]", "[!b]", "[a-é]", "[b-a]"], 90);
            let event_type = text(&["a", "b", "c", "é", "日"], 100);
            let glob = glob(&pattern);
            assert_eq!(
                glob.matches(&event_type),
                table(glob.tokens(), &event_type),
                "`{event_type}`, `{pattern}`"
            );
        }
    }

    #[test]
    fn a_pattern_covers_nothing_that_it_does_not_match() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut found = 0;
        for _ in 0..50_000 {
            let mut text = |alphabet: &[&str], most: usize| -> String {
                (0..random.usize(..=most)).map(|_| alphabet[random.usize(..alphabet.len())]).collect()
            };
            let tokens = ["*", "?", "a", "b", "[ab]", "[!b]"];
            let (wide, narrow) = (glob(&text(&tokens, 5)), glob(&text(&tokens, 5)));
            let event_type = text(&["a", "b", "c"], 5);
            if wide.covers(&narrow) && narrow.matches(&event_type) {
                found += 1;
                assert!(
                    wide.matches(&event_type),
                    "`{wide}` covers `{narrow}`, which matches `{event_type}`"
                );
            }
        }
        assert!(found > 100, "{found}");
        assert!(glob("a*[bc]?*").covers(&glob("a[xy]*b??")));
        // The order of `*` and `?` matters, although it makes no difference.
        assert!(!glob("?*").covers(&glob("*?")));
    }

    /// Matches by a table: `matched[n]` says whether the tokens so far match the first n characters.
    fn table(tokens: &[Token], text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let mut matched: Vec<bool> = (0..=text.len()).map(|length| length == 0).collect();
        for token in tokens {
            let Some(characters) = token.characters() else {
                (1..=text.len()).for_each(|length| matched[length] |= matched[length - 1]);
                continue;
            };
            let matches = |character| characters.iter().any(|range| range.contains(&character));
            for length in (1..=text.len()).rev() {
                matched[length] = matched[length - 1] && matches(text[length - 1]);
            }
            matched[0] = false;
        }
        matched[text.len()]
    }
}

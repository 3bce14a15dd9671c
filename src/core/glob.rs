//! Patterns over event types, as `--type`, `type=` and `--alert-on` take them.
//!
//! A pattern is parsed and compiled once. Matching simulates its nondeterministic automaton with one bit a token (the
//! Shift-And method of Baeza-Yates and Gonnet, "A new approach to text searching", 1992): a character of the text costs at
//! most 16 machine words of work, however many stars and sets the pattern has. Nothing backtracks.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

/// The longest pattern, in bytes: four for each character of the longest type.
const PATTERN_LIMIT_BYTES: usize = 1020;

/// Words of 64 bits for the states of the longest pattern: one before each token, and one behind the last.
const MAXIMUM_WORDS: usize = PATTERN_LIMIT_BYTES / 64 + 1;

/// A pattern over a whole event type: `*` any run, `?` one character, `[a-z]` one of a set, `[!a-z]` one outside it.
#[derive(Clone)]
pub struct Glob {
    text: Arc<str>,
    tokens: Arc<[Token]>,
    automaton: Arc<Automaton>,
}

/// What a pattern is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Token {
    /// `*`: any run of characters, an empty one included.
    Run,
    /// A character that stands for itself.
    Literal(char),
    /// `?` or `[...]`: any one of these characters. The ranges are in order, and do not touch.
    Set(Vec<RangeInclusive<char>>),
}

impl Glob {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern matches nothing but itself.
    pub fn is_literal(&self) -> bool {
        self.tokens.iter().all(|token| matches!(token, Token::Literal(_)))
    }

    /// Whether the pattern matches every type.
    pub fn matches_all(&self) -> bool {
        *self.tokens == [Token::Run]
    }

    /// The parsed pattern; no two runs are neighbours.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// How many words of work a character of the text takes at most.
    pub fn words(&self) -> usize {
        self.automaton.repeats.len()
    }

    /// Whether a type fits the pattern.
    pub fn matches(&self, event_type: &str) -> bool {
        self.automaton.accepts(event_type)
    }
}

/// The states of a pattern. State `n` is left by what the `n`-th token takes (runs are not counted), for state `n + 1`; a
/// pattern matches a text that leads from state 0 to the last.
struct Automaton {
    /// Where classes of characters that all tokens treat alike begin, in order; the first is U+0000.
    class_starts: Vec<char>,
    /// For each class, the states whose token takes its characters: as many words as `repeats` has.
    taking: Vec<u64>,
    /// The states that a run comes before, which any character may leave as they are.
    repeats: Vec<u64>,
    last_state: usize,
}

impl Automaton {
    fn new(tokens: &[Token]) -> Automaton {
        let sets: Vec<Vec<RangeInclusive<char>>> = tokens.iter().filter_map(Token::characters).collect();
        let last_state = sets.len();
        let words = last_state / 64 + 1;
        let mut repeats = vec![0; words];
        let mut state = 0;
        for token in tokens {
            match token {
                Token::Run => repeats[state / 64] |= 1 << (state % 64),
                _ => state += 1,
            }
        }
        let ranges = || sets.iter().flatten();
        let mut class_starts = vec!['\0'];
        class_starts.extend(ranges().map(|range| *range.start()));
        class_starts.extend(ranges().filter_map(|range| successor(*range.end())));
        class_starts.sort_unstable();
        class_starts.dedup();
        let mut taking = vec![0; words * class_starts.len()];
        for (state, range) in
            sets.iter().enumerate().flat_map(|(state, set)| set.iter().map(move |range| (state, range)))
        {
            let first = class_starts.partition_point(|start| start < range.start());
            let end = class_starts.partition_point(|start| start <= range.end());
            for class in first..end {
                taking[class * words + state / 64] |= 1 << (state % 64);
            }
        }
        Automaton { class_starts, taking, repeats, last_state }
    }

    fn accepts(&self, text: &str) -> bool {
        let words = self.repeats.len();
        let mut states = [0_u64; MAXIMUM_WORDS];
        let states = &mut states[..words];
        states[0] = 1;
        for character in text.chars() {
            let class = self.class_starts.partition_point(|start| *start <= character) - 1;
            let taking = &self.taking[class * words..][..words];
            let (mut carried, mut alive) = (0, 0);
            for ((state, taking), repeats) in states.iter_mut().zip(taking).zip(&self.repeats) {
                let advancing = *state & taking;
                *state = advancing << 1 | carried | *state & repeats;
                carried = advancing >> 63;
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
    /// The characters that the token takes one of; none for a run.
    fn characters(&self) -> Option<Vec<RangeInclusive<char>>> {
        match self {
            Token::Run => None,
            Token::Literal(character) => Some(vec![*character..=*character]),
            Token::Set(ranges) => Some(ranges.clone()),
        }
    }

    fn any_character() -> Token {
        Token::Set(vec!['\0'..=char::MAX])
    }

    /// The set between `[` or `[!` and its `]`.
    fn set(members: &str, negated: bool) -> Token {
        let mut ranges = Vec::new();
        let mut rest = members.chars();
        // A `]` that comes first is a member, and no range begins with it.
        if members.starts_with(']') {
            rest.next();
            ranges.push(']'..=']');
        }
        while let Some(member) = rest.next() {
            let mut behind = rest.clone();
            match (behind.next(), behind.next()) {
                (Some('-'), Some(end)) => {
                    // Of a range that runs backwards there is the first end.
                    ranges.push(member..=end.max(member));
                    rest = behind;
                }
                _ => ranges.push(member..=member),
            }
        }
        let ranges = merged(ranges);
        Token::Set(if negated { complement(&ranges) } else { ranges })
    }
}

/// The same characters, in ranges that are in order and do not touch.
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

/// All other characters, of ranges that are in order and do not touch.
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
        // No type has one.
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
                    // A `]` that comes first is a member of the set.
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

    /// Matches by a table: `matched[n]` says whether the tokens so far match the first n characters.
    fn table(tokens: &[Token], text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let mut matched: Vec<bool> = (0..=text.len()).map(|length| length == 0).collect();
        for token in tokens {
            let Some(characters) = token.characters() else {
                (1..=text.len()).for_each(|length| matched[length] |= matched[length - 1]);
                continue;
            };
            let takes = |character| characters.iter().any(|range| range.contains(&character));
            for length in (1..=text.len()).rev() {
                matched[length] = matched[length - 1] && takes(text[length - 1]);
            }
            matched[0] = false;
        }
        matched[text.len()]
    }
}

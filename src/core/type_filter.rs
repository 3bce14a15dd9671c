//! Which event types a query selects, and which ones a client may read and write.

use std::sync::Arc;

use super::glob::Glob;

/// The event types that a client may read and write; all by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PermittedTypes(Option<Arc<[Glob]>>);

impl PermittedTypes {
    /// Those that match one of these patterns.
    pub fn only(patterns: Vec<Glob>) -> PermittedTypes {
        PermittedTypes(Some(patterns.into()))
    }

    pub fn are_all(&self) -> bool {
        self.0.is_none()
    }

    /// `None` where all types are permitted.
    pub fn patterns(&self) -> Option<&[Glob]> {
        self.0.as_deref()
    }

    pub fn include(&self, event_type: &str) -> bool {
        self.patterns().is_none_or(|patterns| patterns.iter().any(|glob| glob.matches(event_type)))
    }

    /// Whether everything that this pattern matches is permitted; without a pattern: whether all types are.
    pub fn cover(&self, pattern: Option<&Glob>) -> bool {
        let Some(permitted) = self.patterns() else { return true };
        permitted.iter().any(|glob| match pattern {
            Some(pattern) => glob.covers(pattern),
            None => glob.matches_all(),
        })
    }
}

/// The event types that a query selects: those that match its pattern, if it has one, and that its client may read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TypeFilter {
    pub pattern: Option<Glob>,
    pub permitted: PermittedTypes,
}

impl TypeFilter {
    pub fn new(pattern: Option<Glob>, permitted: PermittedTypes) -> TypeFilter {
        TypeFilter { pattern: pattern.filter(|glob| !glob.matches_all()), permitted }
    }

    pub fn selects_all(&self) -> bool {
        self.pattern.is_none() && self.permitted.are_all()
    }

    pub fn selects(&self, event_type: &str) -> bool {
        self.pattern.as_ref().is_none_or(|glob| glob.matches(event_type))
            && self.permitted.include(event_type)
    }

    /// How many words of 64 bits a character of a type costs at most.
    pub fn words(&self) -> usize {
        let permitted = self.permitted.patterns().unwrap_or_default();
        self.pattern.iter().chain(permitted).map(Glob::words).sum()
    }
}

impl From<Option<Glob>> for TypeFilter {
    fn from(pattern: Option<Glob>) -> TypeFilter {
        TypeFilter::new(pattern, PermittedTypes::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(patterns: &[&str]) -> Vec<Glob> {
        patterns.iter().map(|pattern| pattern.parse().unwrap()).collect()
    }

    #[test]
    fn a_filter_selects_what_is_asked_for_and_permitted() {
        let permitted = PermittedTypes::only(globs(&["order.*", "message"]));
        let filter = TypeFilter::new(Some("*e*".parse().unwrap()), permitted.clone());
        for (event_type, selected) in
            [("order.new", true), ("order.", true), ("message", true), ("messages", false), ("event", false)]
        {
            assert_eq!(filter.selects(event_type), selected, "{event_type}");
        }
        assert!(!TypeFilter::new(None, permitted).selects_all());
        let everything = TypeFilter::from(Some("*".parse::<Glob>().unwrap()));
        assert!(everything.selects_all() && everything.selects("any") && everything.words() == 0);
    }

    #[test]
    fn a_pattern_is_covered_if_all_that_it_matches_is_permitted() {
        let permitted = PermittedTypes::only(globs(&["order.*", "message"]));
        let covers = |pattern: &str| permitted.cover(Some(&pattern.parse().unwrap()));
        assert!(covers("order.*") && covers("order.new") && covers("order.?*[ab]") && covers("message"));
        assert!(!covers("order*") && !covers("*") && !covers("messages") && !covers("[mn]essage"));
        assert!(!permitted.cover(None) && PermittedTypes::default().cover(None));
        assert!(PermittedTypes::only(globs(&["*"])).cover(None));
        assert!(!PermittedTypes::only(Vec::new()).include("any"));
    }
}

//! What texts are compared with, ready to run: patterns in the shape that compares fastest.
//!
//! Every comparison takes time in proportion to the text: wildcards that are more than a beginning or an end
//! become regular expressions, which never go back.

use regex::bytes::Regex;

use crate::config::rule::{Case, Pattern, RegexText};

/// One pattern that is no plain text.
#[derive(Debug)]
enum Matcher {
    /// `*`
    Any,
    /// `text*`
    Prefix(Box<[u8]>),
    /// `*text`
    Suffix(Box<[u8]>),
    /// Any other, and what was written as a regular expression.
    Regex(Regex),
}

/// Patterns of which one must match.
#[derive(Debug)]
pub(super) struct Texts {
    case: Case,
    /// Plain texts, sorted.
    exact: Vec<Box<[u8]>>,
    others: Vec<Matcher>,
}

impl Texts {
    /// Makes patterns run; where case does not count, they are in lower case.
    pub(super) fn new(patterns: &[Pattern], case: Case) -> Self {
        let mut texts = Self {
            case,
            exact: Vec::new(),
            others: Vec::new(),
        };
        for pattern in patterns {
            match pattern {
                Pattern::Exact(text) => texts.exact.push(text.as_bytes().into()),
                Pattern::Wildcard(text) => texts.others.push(wildcard(text, case)),
                Pattern::Regex(regex) => texts.others.push(Matcher::Regex(compile(regex))),
            }
        }
        texts.exact.sort_unstable();
        texts
    }

    /// Whether one of them matches.
    pub(super) fn match_any(&self, text: &[u8]) -> bool {
        let is_exact = match self.case {
            Case::Told => {
                let exact = &self.exact;
                exact.binary_search_by(|own| (**own).cmp(text)).is_ok()
            }
            Case::Ignored => self.exact.iter().any(|own| own.eq_ignore_ascii_case(text)),
        };
        is_exact
            || self
                .others
                .iter()
                .any(|other| other.matches(text, self.case))
    }

    /// Whether a regular expression has to run.
    pub(super) fn is_costly(&self) -> bool {
        let mut others = self.others.iter();
        others.any(|other| matches!(other, Matcher::Regex(_)))
    }
}

impl Matcher {
    fn matches(&self, text: &[u8], case: Case) -> bool {
        let same = |own: &[u8], text: &[u8]| match case {
            Case::Told => own == text,
            Case::Ignored => own.eq_ignore_ascii_case(text),
        };
        match self {
            Self::Any => true,
            Self::Prefix(own) => text.get(..own.len()).is_some_and(|start| same(own, start)),
            Self::Suffix(own) => {
                let start = text.len().checked_sub(own.len());
                let end = start.and_then(|start| text.get(start..));
                end.is_some_and(|end| same(own, end))
            }
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

fn wildcard(text: &str, case: Case) -> Matcher {
    let is_plain = |text: &str| !text.contains(['*', '?']);
    if text == "*" {
        return Matcher::Any;
    }
    if let Some(start) = text.strip_suffix('*').filter(|start| is_plain(start)) {
        return Matcher::Prefix(start.as_bytes().into());
    }
    if let Some(end) = text.strip_prefix('*').filter(|end| is_plain(end)) {
        return Matcher::Suffix(end.as_bytes().into());
    }
    let mut expression = String::from("(?s)^");
    let mut utf8 = [0; 4];
    for character in text.chars() {
        match character {
            '*' => expression.push_str(".*?"),
            '?' => expression.push('.'),
            other => expression.push_str(&regex::escape(other.encode_utf8(&mut utf8))),
        }
    }
    expression.push('$');
    Matcher::Regex(compile(&RegexText {
        text: expression,
        case,
        captures: 0,
    }))
}

/// A regular expression that the resolver has found to compile.
#[expect(
    clippy::expect_used,
    reason = "a plan holds only expressions that compile, and wildcards are short"
)]
pub(super) fn compile(text: &RegexText) -> Regex {
    text.compile().expect("a regular expression that compiles")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The plain reading of wildcards.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => (0..=text.len()).any(|end| naive(rest, &text[end..])),
            (Some((b'?', rest)), Some((_, after))) => naive(rest, after),
            (Some((own, rest)), Some((byte, after))) => own == byte && naive(rest, after),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    fn texts(pattern: &str, case: Case) -> Texts {
        let pattern = pattern.to_owned();
        let pattern = if pattern.contains(['*', '?']) {
            Pattern::Wildcard(pattern)
        } else {
            Pattern::Exact(pattern)
        };
        Texts::new(&[pattern], case)
    }

    #[test]
    fn wildcards_stand_for_runs_and_single_characters() {
        for (pattern, text, expected) in [
            ("*.example.com", "www.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "www.example.com.attacker", false),
            ("www.example.*", "www.example.co.uk", true),
            ("w?w.example.com", "wxw.example.com", true),
            ("w?w.example.com", "ww.example.com", false),
            ("/api/*", "/api/v1/x", true),
            ("/api/*", "/api/", true),
            ("/api/*", "/api", false),
            ("/*.php", "/a/b.php", true),
            ("/*.php", "/aXphp", false),
            ("/a*b?c", "/a\n\u{e9} b.c", true),
            ("*", "", true),
        ] {
            let found = texts(pattern, Case::Told).match_any(text.as_bytes());
            assert_eq!(found, expected, "{pattern} {text}");
        }
        assert!(!texts("/a*c", Case::Told).match_any(b"/A..c"));
        assert!(texts("b*d", Case::Ignored).match_any(b"B..D"));
        assert!(texts("b*", Case::Ignored).match_any(b"B.."));
        assert!(texts("*d", Case::Ignored).match_any(b"..D"));
        assert!(texts("bd", Case::Ignored).match_any(b"BD"));
    }

    #[test]
    fn expressions_match_anywhere_and_by_the_byte() {
        let regex = |text: &str, case| {
            let text = text.to_owned();
            let captures = 0;
            Texts::new(
                &[Pattern::Regex(RegexText {
                    text,
                    case,
                    captures,
                })],
                Case::Told,
            )
        };
        let told = regex("^/a.c", Case::Told);
        assert!(told.match_any(b"/a\xffc/d"));
        assert!(!told.match_any(b"/A.C"));
        assert!(regex("b+", Case::Ignored).match_any(b"aBc"));
        assert!(!regex("^\\w$", Case::Told).match_any("\u{e9}".as_bytes()));
    }

    proptest! {
        #[test]
        fn a_wildcard_means_what_a_plain_reading_says(pattern in "[ab*?]{1,8}", text in "[ab]{0,10}") {
            let expected = naive(pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(texts(&pattern, Case::Told).match_any(text.as_bytes()), expected);
        }
    }
}

//! What the texts of conditions are compared with: which are taken, and what they mean (alb.md 6.2).
//!
//! `~` begins a regular expression, `~*` one that ignores case; elsewhere `*` and `?` are wildcards. Characters
//! that a pattern cannot have are refused, with the regular expression as the way out.

use crate::config::defaults;
use crate::config::rule::{Case, Pattern, RegexText};
use crate::config::value::{self, ValueError};

/// A pattern of `host`. A name without a dot and an IPv4 address are taken too: Host fields hold them.
pub(super) fn host(text: String) -> Result<Pattern, ValueError> {
    let (least, most) = defaults::HOST_PATTERN_LENGTH;
    let text = value::text(text, least, most)?;
    if let Some((_, expression)) = regex_of(&text) {
        return regex(&text, expression, Case::Ignored);
    }
    let labels = text.split('.');
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_*?".contains(&byte))
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let ends_well = text.rsplit('.').next().is_some_and(|last| !is_number(last))
        || text.parse::<std::net::Ipv4Addr>().is_ok();
    if labels.into_iter().all(is_label) && ends_well {
        return Ok(wildcard(text.to_ascii_lowercase()));
    }
    Err(malformed(
        text,
        "a host",
        "a name such as `*.example.com`, without a port; `~` begins a regular expression",
    ))
}

/// A pattern of `path`.
pub(super) fn path(text: String) -> Result<Pattern, ValueError> {
    let (least, most) = defaults::PATH_PATTERN_LENGTH;
    let text = value::text(text, least, most)?;
    if let Some((case, expression)) = regex_of(&text) {
        return regex(&text, expression, case);
    }
    if !text.starts_with('/') {
        let expected = "a `/` at the start; `~` begins a regular expression";
        return Err(malformed(text, "a path", expected));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"$-_.+/&~@:*?".contains(&byte);
    if text.bytes().all(is_plain) {
        return Ok(wildcard(text));
    }
    let expected = "letters, digits and `$-_.+/&~@:*?`; a regular expression, which begins with `~`, takes others";
    Err(malformed(text, "a path", expected))
}

/// A value of `header` or `response_header`.
pub(super) fn header_value(text: String) -> Result<Pattern, ValueError> {
    let (least, most) = defaults::VALUE_PATTERN_LENGTH;
    let text = value::text(text, least, most)?;
    if text.is_ascii() && text.trim() == text {
        Ok(wildcard(text))
    } else {
        Err(ValueError::HeaderValue(text))
    }
}

/// A value of `query`.
pub(super) fn query_value(text: String) -> Result<Pattern, ValueError> {
    folded(text, defaults::VALUE_PATTERN_LENGTH, QUERY_EXCLUDED).map(wildcard)
}

/// A name of `query`.
pub(super) fn query_name(text: String) -> Result<String, ValueError> {
    folded(text, defaults::PARAMETER_NAME_LENGTH, QUERY_EXCLUDED)
}

/// A value of `cookie`.
pub(super) fn cookie_value(text: String) -> Result<Pattern, ValueError> {
    folded(text, defaults::VALUE_PATTERN_LENGTH, COOKIE_EXCLUDED).map(wildcard)
}

/// A name of `cookie`.
pub(super) fn cookie_name(text: String) -> Result<String, ValueError> {
    folded(text, defaults::PARAMETER_NAME_LENGTH, COOKIE_EXCLUDED)
}

const QUERY_EXCLUDED: &str = "#[]{}\\|<>&\"";
const COOKIE_EXCLUDED: &str = ";#[]{}\\|<>&\"";

/// A text that is compared without regard to case, and therefore written in lower case.
fn folded(
    text: String,
    (least, most): (usize, usize),
    excluded: &str,
) -> Result<String, ValueError> {
    let text = value::text(text, least, most)?;
    let is_taken =
        |c: char| c.is_ascii_graphic() && !c.is_ascii_uppercase() && !excluded.contains(c);
    if text.chars().all(is_taken) {
        return Ok(text);
    }
    let kind = "taken";
    let expected = if text.chars().any(|c| c.is_ascii_uppercase()) {
        "lower case: case does not count here".to_owned()
    } else {
        format!("printable ASCII characters, no space and none of `{excluded}`")
    };
    Err(ValueError::Malformed {
        text,
        kind,
        expected,
    })
}

fn malformed(text: String, kind: &'static str, expected: &str) -> ValueError {
    ValueError::Malformed {
        text,
        kind,
        expected: expected.to_owned(),
    }
}

/// A text in which `*` and `?` are wildcards.
fn wildcard(text: String) -> Pattern {
    if text.contains(['*', '?']) {
        Pattern::Wildcard(text)
    } else {
        Pattern::Exact(text)
    }
}

/// The regular expression that a text is, if it is one.
fn regex_of(text: &str) -> Option<(Case, &str)> {
    let expression = text.strip_prefix('~')?;
    Some(match expression.strip_prefix('*') {
        Some(expression) => (Case::Ignored, expression),
        None => (Case::Told, expression),
    })
}

/// Whether each branch of an expression begins with `^` and ends with `$`.
pub(super) fn is_anchored(expression: &str) -> bool {
    let (mut groups, mut classes) = (0_usize, 0_usize);
    let (mut begins, mut ends) = (true, false);
    let mut characters = expression.chars();
    while let Some(c) = characters.next() {
        if begins && c != '^' {
            return false;
        }
        let is_outside = groups == 0 && classes == 0;
        if c == '|' && is_outside {
            if !ends {
                return false;
            }
            (begins, ends) = (true, false);
            continue;
        }
        (begins, ends) = (false, c == '$' && is_outside);
        match c {
            '\\' => {
                characters.next();
            }
            '[' => classes += 1,
            ']' => classes = classes.saturating_sub(1),
            '(' if classes == 0 => groups += 1,
            ')' if classes == 0 => groups = groups.saturating_sub(1),
            _ => {}
        }
    }
    ends
}

/// The regular expression of a text, as it was written.
fn regex(written: &str, expression: &str, case: Case) -> Result<Pattern, ValueError> {
    let refused = |why| {
        Err(ValueError::Regex {
            text: written.to_owned(),
            why,
        })
    };
    let mut text = RegexText {
        text: expression.to_owned(),
        case,
        captures: 0,
    };
    if text.text.is_empty() {
        return refused("it is empty".to_owned());
    }
    if !text.text.chars().all(|c| c.is_ascii_graphic()) {
        let why = "expected printable ASCII characters without spaces".to_owned();
        return refused(why);
    }
    match text.compile() {
        Ok(compiled) => {
            text.captures = compiled.captures_len() - 1;
            Ok(Pattern::Regex(text))
        }
        Err(regex::Error::CompiledTooBig(_)) => {
            let why = "it is too large: repeat fewer times, or smaller groups".to_owned();
            refused(why)
        }
        Err(error) => {
            // The reason stands at the end, after a drawing of the place.
            let told = error.to_string();
            let why = told.rsplit("error: ").next().unwrap_or_default();
            refused(why.replace('\n', " "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(pattern: Result<Pattern, ValueError>) -> &'static str {
        match pattern {
            Ok(Pattern::Exact(_)) => "exact",
            Ok(Pattern::Wildcard(_)) => "wildcard",
            Ok(Pattern::Regex(_)) => "regex",
            Err(_) => "refused",
        }
    }

    #[test]
    fn an_expression_is_anchored_if_all_its_branches_are() {
        for (expression, expected) in [
            (r"^www\.example\.com$", true),
            (r"^a$|^b$", true),
            (r"^(a|b)$", true),
            (r"^[|]$", true),
            (r"^a\|b$", true),
            (r"^a\\$", true),
            (r"^www\.a\.com|www\.b\.com$", false),
            (r"^a$|b", false),
            (r"^a|^b$", false),
            (r"^a\$", false),
            (r"^a$|", false),
            (r"a$", false),
            (r"^a", false),
            ("", false),
        ] {
            assert_eq!(is_anchored(expression), expected, "{expression}");
        }
    }

    #[test]
    fn hosts_are_names_wildcards_or_expressions() {
        let longest = format!("{}examples", "a.".repeat(124));
        for (text, expected) in [
            ("api.example.com", "exact"),
            ("API.example.com", "exact"),
            ("localhost", "exact"),
            ("10.0.0.7", "exact"),
            ("my_app.internal", "exact"),
            ("xn--e1afmkfd.xn--p1ai", "exact"),
            ("*.example.com", "wildcard"),
            ("www.example.*", "wildcard"),
            ("*", "refused"),
            ("a?c", "wildcard"),
            ("~^www\\.example\\.(com|org)$", "regex"),
            ("~*^WWW", "regex"),
            ("~", "refused"),
            ("~()(", "refused"),
            ("ab", "refused"),
            (&longest, "exact"),
            (&format!("{longest}a"), "refused"),
            ("example.com:443", "refused"),
            ("https://example.com", "refused"),
            (".example.com", "refused"),
            ("example.com.", "refused"),
            ("a..b", "refused"),
            ("-a.example", "refused"),
            ("a-.example", "refused"),
            ("a.example.7", "refused"),
            ("10.0.0.256", "refused"),
            ("^www\\.example\\.com$", "refused"),
            ("b\u{fc}cher.example", "refused"),
        ] {
            assert_eq!(kind(host(text.to_owned())), expected, "{text}");
        }
        assert_eq!(host("A.B".into()), Ok(Pattern::Exact("a.b".into())));
        let Ok(Pattern::Regex(expression)) = host("~^A$".into()) else {
            panic!("a regular expression")
        };
        assert_eq!(expression.case, Case::Ignored, "hosts have no case");
    }

    #[test]
    fn paths_are_names_wildcards_or_expressions() {
        let longest = format!("/{}", "a".repeat(127));
        for (text, expected) in [
            ("/", "exact"),
            ("/a-b_c.d+e&f~g@h:i$", "exact"),
            ("/v1/*", "wildcard"),
            ("/?", "wildcard"),
            (&longest, "exact"),
            (&format!("{longest}a"), "refused"),
            ("", "refused"),
            ("v1", "refused"),
            ("*.php", "refused"),
            ("/a b", "refused"),
            ("/a%20b", "refused"),
            ("/a;b", "refused"),
            ("/a(b)", "refused"),
            ("~^/a%20b$", "regex"),
            ("~*\\.PHP$", "regex"),
            ("~a b", "refused"),
            ("~(?=a)", "refused"),
            ("~(a)\\1", "refused"),
            ("~(((a{99}){99}){99}){99}", "refused"),
        ] {
            assert_eq!(kind(path(text.to_owned())), expected, "{text}");
        }
        let captures = |text: &str| match path(text.to_owned()) {
            Ok(Pattern::Regex(regex)) => (regex.case, regex.captures),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(captures("~^/(a)/(?:b)/(c)"), (Case::Told, 2));
        assert_eq!(captures("~*^/a"), (Case::Ignored, 0));
    }

    #[test]
    fn what_is_compared_without_case_is_written_in_lower_case() {
        for (text, expected) in [
            ("true", "exact"),
            ("b*", "wildcard"),
            ("a%20b", "exact"),
            ("True", "refused"),
            ("a b", "refused"),
            ("a&b", "refused"),
            ("", "refused"),
            (&"a".repeat(129), "refused"),
        ] {
            assert_eq!(kind(query_value(text.to_owned())), expected, "{text}");
            assert_eq!(kind(cookie_value(text.to_owned())), expected, "{text}");
        }
        assert_eq!(kind(query_value("a;b".into())), "exact");
        assert_eq!(kind(cookie_value("a;b".into())), "refused");
        assert!(query_name("a".repeat(100)).is_ok());
        assert!(query_name("a".repeat(101)).is_err());
        assert!(cookie_name("A".into()).is_err());
    }

    #[test]
    fn values_of_headers_are_printable() {
        for (text, expected) in [
            ("1", "exact"),
            ("~a", "exact"),
            ("Mozilla/*", "wildcard"),
            ("a b", "exact"),
            (" a", "refused"),
            ("a ", "refused"),
            ("a\tb", "refused"),
            ("\u{e9}", "refused"),
            ("", "refused"),
        ] {
            assert_eq!(kind(header_value(text.to_owned())), expected, "{text:?}");
        }
    }
}

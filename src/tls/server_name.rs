//! Which host names a certificate's names cover (alb.md section 5.3).
//!
//! These are the load balancer's rules, not webpki's: one `*`, as the very first character, standing
//! for at least one of `0-9 A-Z a-z -` within the leftmost label. A partial wildcard such as
//! `*test.example.com` counts, but never covers an IDNA label. Anything else with a `*` is never matched.

use std::net::IpAddr;

/// A name of a certificate, in the form in which it is matched: lower-case, no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// `www.example.com`
    Exact(Box<str>),
    /// `*.example.com`, `*test.example.com`
    Wildcard {
        /// What follows the `*` in its label: empty, or `test`.
        tail: Box<str>,
        /// The labels to the right: `example.com`.
        parent: Box<str>,
    },
}

impl NamePattern {
    /// Reads a certificate's name; `None` for a name that no host can ever match.
    pub fn parse(name: &str) -> Option<Self> {
        let name = without_trailing_dot(name).to_ascii_lowercase();
        let Some(rest) = name.strip_prefix('*') else {
            return is_host(&name).then(|| Self::Exact(name.into()));
        };
        let (tail, parent) = rest.split_once('.')?;
        let recognised = tail.bytes().all(is_label_byte) && is_host(parent);
        recognised.then(|| Self::Wildcard {
            tail: tail.into(),
            parent: parent.into(),
        })
    }

    /// Whether `host` (any case, with or without a trailing dot, no port) is covered by this name.
    pub fn covers(&self, host: &str) -> bool {
        let host = without_trailing_dot(host);
        match self {
            Self::Exact(name) => name.eq_ignore_ascii_case(host),
            Self::Wildcard { tail, parent } => host.split_once('.').is_some_and(|(label, rest)| {
                rest.eq_ignore_ascii_case(parent) && star_covers(tail, label)
            }),
        }
    }
}

/// The names of one certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    patterns: Vec<NamePattern>,
    unmatched: Vec<Box<str>>,
    addresses: Vec<IpAddr>,
}

impl CertificateNames {
    /// Takes the names as the certificate spells them.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all = Self::default();
        for name in names {
            match NamePattern::parse(name) {
                Some(pattern) if all.patterns.contains(&pattern) => {}
                Some(pattern) => all.patterns.push(pattern),
                None => all.unmatched.push(name.into()),
            }
        }
        all
    }

    /// The same names, and these addresses. No client asks for an address by SNI, but a request may.
    #[must_use]
    pub fn with_addresses(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.addresses.extend(addresses);
        self
    }

    /// The names that hosts are matched against.
    pub fn patterns(&self) -> &[NamePattern] {
        &self.patterns
    }

    /// The names that no host can match, such as `test*.example.com`.
    pub fn unmatched(&self) -> &[Box<str>] {
        &self.unmatched
    }

    /// Whether both cover the same hosts, in whatever order they are listed.
    pub fn same_as(&self, other: &Self) -> bool {
        let within = |inner: &Self, outer: &Self| {
            inner
                .patterns
                .iter()
                .all(|name| outer.patterns.contains(name))
        };
        within(self, other) && within(other, self)
    }
}

/// Whether a certificate with these names may answer for `host`, given without its port.
pub fn covers(names: &CertificateNames, host: &str) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bare.unwrap_or(host).parse::<IpAddr>() {
        Ok(address) => names.addresses.contains(&address),
        Err(_) => names.patterns.iter().any(|name| name.covers(host)),
    }
}

/// Whether `*` followed by `tail` covers a host's leftmost label (any case).
pub fn star_covers(tail: &str, label: &str) -> bool {
    let Some((star, end)) = label
        .len()
        .checked_sub(tail.len())
        .and_then(|at| label.split_at_checked(at))
    else {
        return false;
    };
    let is_idna = label
        .get(..4)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--"));
    end.eq_ignore_ascii_case(tail)
        && !star.is_empty()
        && star
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && (tail.is_empty() || !is_idna)
}

/// A host name without the dot that marks it as fully qualified.
pub fn without_trailing_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

fn is_host(name: &str) -> bool {
    name.split('.')
        .all(|label| !label.is_empty() && label.bytes().all(is_label_byte))
}

/// Underscores stand in real certificates and hosts; only a `*` does not cover them.
fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_covers(pattern: &str, host: &str) -> bool {
        covers(&CertificateNames::new([pattern]), host)
    }

    #[test]
    fn wildcards_match_as_documented() {
        // alb.md section 14, "Wildcard certificate names", row by row.
        for (pattern, host, expected) in [
            ("*.example.com", "test.example.com", true),
            ("*.example.com", "test.test.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", "xn--fsqu00a.example.com", true),
            ("*test.example.com", "mytest.example.com", true),
            ("*test.example.com", "xn--fsqu00atest.example.com", false),
            ("test*.example.com", "test.example.com", false),
            ("test*.example.com", "testing.example.com", false),
            ("test*.example.com", "test*.example.com", false),
            ("*.example.com", "test_test.example.com", false),
            ("*.*.example.com", "a.b.example.com", false),
            ("a.*.example.com", "a.b.example.com", false),
            ("*test.example.com", "test.example.com", false),
        ] {
            assert_eq!(
                one_covers(pattern, host),
                expected,
                "`{pattern}` against `{host}`"
            );
        }
    }

    #[test]
    fn hosts_match_in_any_case_and_with_a_trailing_dot() {
        for (pattern, host, expected) in [
            ("www.example.com", "WWW.Example.com", true),
            ("WWW.EXAMPLE.COM", "www.example.com", true),
            ("www.example.com", "www.example.com.", true),
            ("www.example.com", "www.example.com..", false),
            ("*.Example.com", "WWW.eXample.COM.", true),
            ("*Test.example.com", "MYTEST.example.com", true),
            ("*test.example.com", "XN--fsqu00atest.example.com", false),
            ("*.example.com", "XN--fsqu00a.example.com", true),
        ] {
            assert_eq!(
                one_covers(pattern, host),
                expected,
                "`{pattern}` against `{host}`"
            );
        }
    }

    #[test]
    fn odd_patterns_and_odd_hosts_do_not_match() {
        for (pattern, host, expected) in [
            ("*.com", "example.com", true),
            ("*", "localhost", false),
            ("*.", "localhost", false),
            ("*test", "mytest", false),
            ("**.example.com", "a.example.com", false),
            ("*t*.example.com", "at.example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "*.example.com", false),
            ("*.example.com", "é.example.com", false),
            ("*é.example.com", "aé.example.com", false),
            ("*est.example.com", "é.example.com", false),
            ("*.example.com", "", false),
            ("my_host.example.com", "my_host.example.com", true),
            ("*_x.example.com", "a_x.example.com", true),
            ("Example Company", "example company", false),
            ("", "", false),
            (".", ".", false),
        ] {
            assert_eq!(
                one_covers(pattern, host),
                expected,
                "`{pattern}` against `{host}`"
            );
        }
    }

    #[test]
    fn names_are_kept_once_and_the_hopeless_ones_apart() {
        let names = CertificateNames::new(["a.example.com", "A.example.com.", "test*.example.com"]);
        assert_eq!(
            names.patterns(),
            [NamePattern::Exact("a.example.com".into())]
        );
        assert_eq!(names.unmatched(), [Box::from("test*.example.com")]);
        assert!(names.same_as(&CertificateNames::new(["a.example.com"])));
        assert!(!names.same_as(&CertificateNames::new(["a.example.com", "b.example.com"])));
        assert!(!CertificateNames::new(["a.example.com", "b.example.com"]).same_as(&names));
    }

    #[test]
    fn addresses_are_covered_by_addresses_only() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let names = CertificateNames::new(["192.0.2.9", "*.0.2.1", "www.example.com"])
            .with_addresses([address("192.0.2.1"), address("2001:db8::1")]);
        for (host, expected) in [
            ("192.0.2.1", true),
            ("192.0.2.9", false),
            ("8.0.2.1", false),
            ("[2001:db8::1]", true),
            ("[2001:DB8:0::1]", true),
            ("[::1]", false),
            ("www.example.com", true),
        ] {
            assert_eq!(covers(&names, host), expected, "{host}");
        }
    }
}

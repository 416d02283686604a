//! Texts with places that a request fills: `${host}`, `${1}` (alb.md 6.3).

use std::collections::BTreeSet;

use crate::config::defaults;
use crate::config::document::{Field, RedirectDocument, RewriteDocument, RuleDocument, Written};
use crate::config::plan::Origin;
use crate::config::resolve::Resolver;
use crate::config::rule::{Action, Condition, Pattern, Redirect, Rewrite, Segment, Template};
use crate::config::value::{self, ValueError};

/// The places of a path.
const PATH_PLACES: [(&str, Segment); 4] = [
    ("protocol", Segment::Protocol),
    ("host", Segment::Host),
    ("port", Segment::Port),
    ("path", Segment::Path),
];
/// The further place of a query.
const QUERY_PLACE: (&str, Segment) = ("query", Segment::Query);

/// `host`, `path` and `query` of a redirect or rewrite.
pub(super) struct Target {
    pub(super) host: Template,
    pub(super) path: Template,
    pub(super) query: Template,
}

impl Target {
    /// Whether it is where the request goes anyway.
    pub(super) fn is_same(&self) -> bool {
        self.host == Template::of(Segment::Host)
            && self.path == Template::of(Segment::Path)
            && self.query == Template::of(Segment::Query)
    }
}

impl Resolver<'_> {
    /// The three templates of a redirect or rewrite; absent ones stand for the request's own.
    pub(super) fn target(
        &mut self,
        host: &Field<String>,
        path: &Field<String>,
        query: &Field<String>,
    ) -> Target {
        let host = self.string("host", host, parse_host);
        let path = self.string("path", path, parse_path);
        let query = self.string("query", query, parse_query);
        Target {
            host: host.unwrap_or_else(|| Template::of(Segment::Host)),
            path: path.unwrap_or_else(|| Template::of(Segment::Path)),
            query: query.unwrap_or_else(|| Template::of(Segment::Query)),
        }
    }

    /// Holds `${1}` and its kin against the expressions of `path`: each must have as many groups as are used
    /// (alb.md 6.3).
    pub(super) fn check_captures(
        &mut self,
        written: &RuleDocument,
        conditions: &[Condition],
        rewrite: Option<&Rewrite>,
        action: Option<&Action>,
    ) {
        let mut used = BTreeSet::new();
        let mut place = None;
        if let (Some(rewrite), Some(written)) = (rewrite, &written.rewrite) {
            let texts = [&rewrite.host, &rewrite.path, &rewrite.query];
            note(texts, places_of_rewrite(written), &mut used, &mut place);
        }
        if let (Some(Action::Redirect(redirect)), Some(written)) = (action, &written.redirect) {
            let Redirect {
                host, path, query, ..
            } = redirect;
            let places = places_of_redirect(written);
            note([host, path, query], places, &mut used, &mut place);
        }
        let Some(place) = place else { return };
        let paths = conditions.iter().find_map(Condition::paths);
        let paths = paths.unwrap_or_default();
        let given = written.path.given().map(|list| list.value.as_slice());
        let given = given.unwrap_or_default();
        // Paths that are left out have mistakes of their own.
        if paths.len() == given.len() {
            self.compare_captures(paths, given, &used, place);
        }
    }

    fn compare_captures(
        &mut self,
        paths: &[Pattern],
        given: &[Written<String>],
        used: &BTreeSet<u8>,
        place: &Origin,
    ) {
        let most = used.last().copied().unwrap_or_default();
        let uses: Vec<_> = used
            .iter()
            .map(|number| format!("`${{{number}}}`"))
            .collect();
        let uses = uses.join(", ");
        if paths.is_empty() {
            self.report
                .error(
                    place,
                    format!("{uses}: there is no `path` to take this from"),
                )
                .help("give the rule a path with groups, such as `path = [\"~^/old/(.*)$\"]`");
        }
        for (pattern, written) in paths.iter().zip(given) {
            let captures = match pattern {
                Pattern::Regex(regex) => regex.captures,
                Pattern::Exact(_) | Pattern::Wildcard(_) => 0,
            };
            if captures == used.len() && captures == usize::from(most) {
                continue;
            }
            let groups = match (pattern, captures) {
                (Pattern::Exact(_) | Pattern::Wildcard(_), _) => "no expression".to_owned(),
                (Pattern::Regex(_), 0) => "no group".to_owned(),
                (Pattern::Regex(_), 1) => "1 group".to_owned(),
                (Pattern::Regex(_), captures) => format!("{captures} groups"),
            };
            self.report
                .error(
                    place,
                    format!("{uses}: not what the groups of the path are"),
                )
                .also(&written.origin, groups)
                .help("use every group once, and group with `(?:...)` what is not used");
        }
    }
}

fn places_of_rewrite(written: &RewriteDocument) -> [Option<&Origin>; 3] {
    [&written.host, &written.path, &written.query].map(|field| field.given().map(|w| &w.origin))
}

fn places_of_redirect(written: &RedirectDocument) -> [Option<&Origin>; 3] {
    [&written.host, &written.path, &written.query].map(|field| field.given().map(|w| &w.origin))
}

/// Notes which captures templates use, and where the first that does so stands.
fn note<'d>(
    templates: [&Template; 3],
    places: [Option<&'d Origin>; 3],
    used: &mut BTreeSet<u8>,
    first: &mut Option<&'d Origin>,
) {
    for (template, place) in templates.into_iter().zip(places) {
        let before = used.len();
        used.extend(template.captures());
        if used.len() > before && first.is_none() {
            *first = place;
        }
    }
}

/// `${host}`, or a name.
fn parse_host(text: String) -> Result<Template, ValueError> {
    if text == "${host}" {
        return Ok(Template::of(Segment::Host));
    }
    if text.contains('$') {
        return Err(ValueError::Malformed {
            text,
            kind: "a host",
            expected: "`${host}` alone, or a name".to_owned(),
        });
    }
    let host = match text.parse::<std::net::Ipv4Addr>() {
        Ok(_) => text,
        Err(_) => value::host_name(&text)?,
    };
    Ok(Template::of(Segment::Literal(host)))
}

/// A path; it begins with `/` whatever the request was.
fn parse_path(text: String) -> Result<Template, ValueError> {
    let text = value::text(text, 1, defaults::TEMPLATE_LENGTH)?;
    let template = parse(&text, &PATH_PLACES, |c| !"#?\"<>[]\\^`{|}".contains(c))?;
    let is_rooted = match template.0.first() {
        Some(Segment::Literal(literal)) => literal.starts_with('/'),
        Some(Segment::Path) => true,
        Some(
            Segment::Protocol
            | Segment::Host
            | Segment::Port
            | Segment::Query
            | Segment::Capture(_),
        )
        | None => false,
    };
    if is_rooted {
        Ok(template)
    } else {
        Err(ValueError::Malformed {
            text,
            kind: "a path",
            expected: "`/` or `${path}` at the start".to_owned(),
        })
    }
}

/// A query without its `?`; an empty one is none.
fn parse_query(text: String) -> Result<Template, ValueError> {
    let text = value::text(text, 0, defaults::TEMPLATE_LENGTH)?;
    let [protocol, host, port, path] = PATH_PLACES;
    let places = [protocol, host, port, path, QUERY_PLACE];
    parse(&text, &places, |c| !"#[]{}\\|<>\"".contains(c))
}

/// Text and places, each place once but captures as often as one likes.
fn parse(
    text: &str,
    places: &[(&str, Segment)],
    is_taken: impl Fn(char) -> bool,
) -> Result<Template, ValueError> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("${") {
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| unknown(text, after, places))?;
            let segment = place(name, places).ok_or_else(|| unknown(text, name, places))?;
            if segments.contains(&segment) && !matches!(segment, Segment::Capture(_)) {
                return Err(ValueError::Malformed {
                    text: text.to_owned(),
                    kind: "taken",
                    expected: format!("`${{{name}}}` only once"),
                });
            }
            segments.push(segment);
            rest = after;
            continue;
        }
        // A `$` that begins no place is a character.
        let end = rest.get(1..).and_then(|tail| tail.find("${"));
        let (literal, after) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
        if let Some(wrong) = literal
            .chars()
            .find(|c| !c.is_ascii_graphic() || !is_taken(*c))
        {
            return Err(ValueError::Malformed {
                text: text.to_owned(),
                kind: "taken",
                expected: format!("no `{}`", wrong.escape_debug()),
            });
        }
        segments.push(Segment::Literal(literal.to_owned()));
        rest = after;
    }
    Ok(Template(segments))
}

fn place(name: &str, places: &[(&str, Segment)]) -> Option<Segment> {
    match name {
        "1" => Some(Segment::Capture(1)),
        "2" => Some(Segment::Capture(2)),
        "3" => Some(Segment::Capture(3)),
        name => {
            let mut places = places.iter();
            let known = places.find(|(known, _)| *known == name);
            known.map(|(_, segment)| segment.clone())
        }
    }
}

fn unknown(text: &str, name: &str, places: &[(&str, Segment)]) -> ValueError {
    let known: Vec<_> = places
        .iter()
        .map(|(known, _)| format!("`${{{known}}}`"))
        .collect();
    ValueError::Malformed {
        text: text.to_owned(),
        kind: "taken",
        expected: format!(
            "{} or `${{1}}` to `${{3}}`, not `${{{}}}`",
            known.join(", "),
            name.escape_debug()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Segment {
        Segment::Literal(text.to_owned())
    }

    #[test]
    fn templates_are_text_and_places() {
        for (text, expected) in [
            ("/", Some(vec![literal("/")])),
            ("${path}", Some(vec![Segment::Path])),
            (
                "/${host}/x/${1}${2}/$",
                Some(vec![
                    literal("/"),
                    Segment::Host,
                    literal("/x/"),
                    Segment::Capture(1),
                    Segment::Capture(2),
                    literal("/$"),
                ]),
            ),
            (
                "/${1}${1}",
                Some(vec![literal("/"), Segment::Capture(1), Segment::Capture(1)]),
            ),
            ("/$1", Some(vec![literal("/$1")])),
            ("", None),
            ("${1}", None),
            ("x", None),
            ("/${query}", None),
            ("/${4}", None),
            ("/${host", None),
            ("/${path}${path}", None),
            ("/a?b", None),
            ("/a b", None),
            (&format!("/{}", "a".repeat(128)), None),
        ] {
            let parsed = parse_path(text.to_owned()).ok().map(|template| template.0);
            assert_eq!(parsed, expected, "{text}");
        }
        for (text, is_taken) in [
            ("", true),
            ("a=b&${query}", true),
            ("from=${protocol}${port}${1}", true),
            ("a b", false),
            ("a#b", false),
            ("{}", false),
        ] {
            assert_eq!(parse_query(text.to_owned()).is_ok(), is_taken, "{text}");
        }
        for (text, is_taken) in [
            ("${host}", true),
            ("www.example.com", true),
            ("10.0.0.1", true),
            ("www.${host}", false),
            ("a:80", false),
            ("", false),
        ] {
            assert_eq!(parse_host(text.to_owned()).is_ok(), is_taken, "{text}");
        }
    }
}

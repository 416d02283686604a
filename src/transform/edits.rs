//! Puts fields into messages and takes them out, as a rule says (`insert_headers`, `remove_headers`;
//! alb.md 6.3).
//!
//! A request is edited once what its client may not send is gone, and before lockgate adds fields of its
//! own: a reference finds nothing that was forged, and nothing that lockgate says of the client is undone.
//! Which names no rule may touch is the resolver's to say.

use std::slice;

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::rule::{Existing, HeaderEdits, InsertValue, SystemValue};
use crate::transform::forwarded::{ClientValues, ForwardedHeaders};
use crate::transform::hop_by_hop::remove_names;

/// What inserted fields are made from, beside what the file says.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The request's host as the client wrote it, which HTTP/2 has in no field.
    pub host: Option<&'a HeaderValue>,
    /// The last hop, whom X-Forwarded-For tells of too.
    pub client: &'a ClientValues,
    /// The listener.
    pub listener: &'a ForwardedHeaders,
}

/// Edits a request; references are to its fields as they were before.
pub fn edit_request(edits: &HeaderEdits, headers: &mut HeaderMap, sources: &Sources<'_>) {
    if is_empty(edits) {
        return;
    }
    let inserted = inserted(edits, headers, sources);
    edit(edits, inserted, headers);
}

/// Edits the answer to a request that had these fields when it was sent to the backend.
pub fn edit_response(
    edits: &HeaderEdits,
    headers: &mut HeaderMap,
    request: &HeaderMap,
    sources: &Sources<'_>,
) {
    if is_empty(edits) {
        return;
    }
    let inserted = inserted(edits, request, sources);
    edit(edits, inserted, headers);
}

fn is_empty(edits: &HeaderEdits) -> bool {
    edits.remove.is_empty() && edits.insert.is_empty()
}

/// A field to be inserted: one value, or every line of the field that it refers to.
struct Inserted {
    name: HeaderName,
    values: Vec<HeaderValue>,
    existing: Existing,
}

fn inserted(edits: &HeaderEdits, request: &HeaderMap, sources: &Sources<'_>) -> Vec<Inserted> {
    let fields = edits.insert.iter();
    fields
        .map(|field| Inserted {
            name: field.name.clone(),
            values: match &field.value {
                InsertValue::Literal(value) => vec![value.clone()],
                InsertValue::Reference(name) if *name == HOST => {
                    sources.host.into_iter().cloned().collect()
                }
                InsertValue::Reference(name) => request.get_all(name).iter().cloned().collect(),
                InsertValue::System(value) => vec![system(*value, sources)],
            },
            existing: field.existing,
        })
        .collect()
}

fn system(value: SystemValue, sources: &Sources<'_>) -> HeaderValue {
    match value {
        SystemValue::ClientSrcIp => sources.client.ip().clone(),
        SystemValue::ClientSrcPort => sources.client.port(),
        SystemValue::Protocol => sources.listener.protocol(),
        SystemValue::SlbId => sources.listener.slb_id().clone(),
        SystemValue::SlbPort => sources.listener.port().clone(),
    }
}

fn edit(edits: &HeaderEdits, inserted: Vec<Inserted>, headers: &mut HeaderMap) {
    remove_names(headers, &edits.remove);
    // A reference that finds nothing leaves nothing: else what the client wrote would stand in its place.
    for field in &inserted {
        if field.existing == Existing::Replaced {
            remove_names(headers, slice::from_ref(&field.name));
        }
    }
    for field in inserted {
        for value in field.values {
            headers.append(&field.name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ClientAddr;
    use crate::config::defaults;
    use crate::config::rule::InsertHeader;
    use crate::scheme::Scheme;
    use crate::transform::testing::{lines, map};

    fn insert(name: &'static str, value: InsertValue, existing: Existing) -> HeaderEdits {
        HeaderEdits {
            remove: Vec::new(),
            insert: vec![InsertHeader {
                name: HeaderName::from_static(name),
                spelling: name.into(),
                value,
                existing,
            }],
        }
    }

    fn literal(value: &'static str) -> InsertValue {
        InsertValue::Literal(HeaderValue::from_static(value))
    }

    fn reference(name: &'static str) -> InsertValue {
        InsertValue::Reference(HeaderName::from_static(name))
    }

    const CLIENT: [(&str, &str); 4] = [("x-a", "1"), ("x-b", "2"), ("x-b", "3"), ("x-c", "4")];

    #[track_caller]
    fn check(edits: &HeaderEdits, expected: &[&str]) -> usize {
        let mut headers = map(&CLIENT);
        let host = HeaderValue::from_static("Example.com:8443");
        let client = ClientValues::new(ClientAddr::new("192.0.2.7:40000".parse().unwrap()));
        let id = HeaderValue::from_static("alb-1");
        let listener = ForwardedHeaders::new(defaults::HEADERS, Scheme::Https, 8443, id);
        let sources = Sources {
            host: Some(&host),
            client: &client,
            listener: &listener,
        };
        edit_request(edits, &mut headers, &sources);
        assert_eq!(lines(&headers), expected);

        // In an answer the same is made from the request.
        let mut answer = HeaderMap::new();
        edit_response(edits, &mut answer, &map(&CLIENT), &sources);
        let made = lines(&answer);
        let all_made = made.iter().all(|line| expected.contains(&line.as_str()));
        assert!(all_made, "{made:?}");
        made.len()
    }

    const NOTHING: &[&str] = &["x-a: 1", "x-b: 2", "x-b: 3", "x-c: 4"];

    #[test]
    fn a_field_is_replaced_or_kept_beside_the_new_one() {
        let (replaced, kept) = (Existing::Replaced, Existing::Kept);
        for (name, value, existing, expected) in [
            (
                "x-b",
                literal("9"),
                replaced,
                &["x-a: 1", "x-b: 9", "x-c: 4"][..],
            ),
            (
                "x-b",
                literal("9"),
                kept,
                &["x-a: 1", "x-b: 2", "x-b: 3", "x-b: 9", "x-c: 4"],
            ),
            (
                "x-d",
                literal("9"),
                kept,
                &["x-a: 1", "x-b: 2", "x-b: 3", "x-c: 4", "x-d: 9"],
            ),
            (
                "x-a",
                reference("x-b"),
                replaced,
                &["x-a: 2", "x-a: 3", "x-b: 2", "x-b: 3", "x-c: 4"],
            ),
            (
                "x-a",
                reference("x-none"),
                replaced,
                &["x-b: 2", "x-b: 3", "x-c: 4"],
            ),
            ("x-a", reference("x-none"), kept, NOTHING),
            (
                "x-a",
                reference("host"),
                replaced,
                &["x-a: Example.com:8443", "x-b: 2", "x-b: 3", "x-c: 4"],
            ),
        ] {
            let made = check(&insert(name, value.clone(), existing), expected);
            let lines = match &value {
                InsertValue::Reference(name) if name == "x-b" => 2,
                InsertValue::Reference(name) if name == "x-none" => 0,
                InsertValue::Reference(_) | InsertValue::Literal(_) | InsertValue::System(_) => 1,
            };
            assert_eq!(made, lines);
        }
    }

    #[test]
    fn other_spellings_that_a_backend_may_take_for_a_name_go_with_it() {
        let before = [("x_user", "forged"), ("x-user", "1"), ("x.debug", "2")];
        let client = ClientValues::new(ClientAddr::new("192.0.2.7:40000".parse().unwrap()));
        let id = HeaderValue::from_static("alb-1");
        let sources = Sources {
            host: None,
            client: &client,
            listener: &ForwardedHeaders::new(defaults::HEADERS, Scheme::Https, 8443, id),
        };
        for (existing, left) in [
            (Existing::Replaced, &["x-user: 9"][..]),
            (
                Existing::Kept,
                &["x-user: 1", "x-user: 9", "x_user: forged"],
            ),
        ] {
            let edits = HeaderEdits {
                remove: vec![HeaderName::from_static("x-debug")],
                ..insert("x-user", literal("9"), existing)
            };
            let mut headers = map(&before);
            edit_request(&edits, &mut headers, &sources);
            assert_eq!(lines(&headers), left);
        }
    }

    #[test]
    fn system_values_say_what_lockgate_knows() {
        for (value, expected) in [
            (SystemValue::ClientSrcIp, "x-d: 192.0.2.7"),
            (SystemValue::ClientSrcPort, "x-d: 40000"),
            (SystemValue::Protocol, "x-d: HTTPS"),
            (SystemValue::SlbId, "x-d: alb-1"),
            (SystemValue::SlbPort, "x-d: 8443"),
        ] {
            let all = [NOTHING, &[expected]].concat();
            let edits = insert("x-d", InsertValue::System(value), Existing::Replaced);
            assert_eq!(check(&edits, &all), 1);
        }
    }

    #[test]
    fn what_is_removed_is_removed_before_anything_is_inserted() {
        let edits = HeaderEdits {
            remove: vec![
                HeaderName::from_static("x-b"),
                HeaderName::from_static("x-none"),
            ],
            ..insert("x-b", reference("x-b"), Existing::Kept)
        };
        assert_eq!(check(&edits, NOTHING), 2);
        let edits = HeaderEdits {
            insert: Vec::new(),
            ..edits
        };
        assert_eq!(check(&edits, &["x-a: 1", "x-c: 4"]), 0);
    }
}

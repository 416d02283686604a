//! Decides whether a response is compressed and with what, and what its fields say then (alb.md section
//! 4 and decision 7).
//!
//! What the client accepts is read from its request ([`Accepted`]) before that is sent on; the decision
//! is made when the response's head is there. The bytes are `body`'s.

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use crate::config::plan::{Algorithm, CompressionSettings, UnknownLength};
use crate::transform::field::members;

/// What gzip is applied to; `text/html` is indeed not among them (alb.md 4.1).
const GZIP_TYPES: [&str; 9] = [
    "text/xml",
    "text/plain",
    "text/css",
    "application/javascript",
    "application/x-javascript",
    "application/rss+xml",
    "application/atom+xml",
    "application/xml",
    "application/json",
];

/// Digests of the content or of its coded representation: wrong once lockgate has coded it.
static DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// What a client's request says about compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    content: Content,
    brotli: Word,
    gzip: Word,
    zstd: Word,
}

/// Whether a response will have content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Expected,
    /// The answer to HEAD.
    None,
}

impl Accepted {
    /// Reads a request. Clients older than HTTP/1.1 accept nothing: they cannot be sent content whose
    /// length is not known beforehand on a connection that stays.
    pub fn new(method: &Method, version: Version, headers: &HeaderMap) -> Self {
        let content = if *method == Method::HEAD {
            Content::None
        } else {
            Content::Expected
        };
        let mut accepted = Self {
            content,
            brotli: Word::Absent,
            gzip: Word::Absent,
            zstd: Word::Absent,
        };
        if version >= Version::HTTP_11 {
            accepted.read(headers);
        }
        accepted
    }

    /// Reads Accept-Encoding. A coding is accepted that is named and nowhere refused. Weights only refuse, by
    /// being 0 (or no weight at all); `*` alone switches nothing on (alb.md 4.2).
    fn read(&mut self, headers: &HeaderMap) {
        let lines = headers.get_all(ACCEPT_ENCODING).iter();
        for member in lines.flat_map(|value| members(value.as_bytes())) {
            let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let coding = parts.next().unwrap_or_default();
            let is = |name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
            // RFC 9110 8.4.1.3: `x-gzip` is an old name for the same.
            let word = if is("gzip") || is("x-gzip") {
                &mut self.gzip
            } else if is("br") {
                &mut self.brotli
            } else if is("zstd") {
                &mut self.zstd
            } else {
                continue;
            };
            if parts.any(refuses) {
                *word = Word::Refused;
            } else if *word == Word::Absent {
                *word = Word::Accepted;
            }
        }
    }

    /// The same, but for one algorithm.
    #[must_use]
    pub fn without(mut self, algorithm: Algorithm) -> Self {
        let word = match algorithm {
            Algorithm::Brotli => &mut self.brotli,
            Algorithm::Gzip => &mut self.gzip,
            Algorithm::Zstd => &mut self.zstd,
        };
        *word = Word::Refused;
        self
    }

    fn has(self, algorithm: Algorithm) -> bool {
        let word = match algorithm {
            Algorithm::Brotli => self.brotli,
            Algorithm::Gzip => self.gzip,
            Algorithm::Zstd => self.zstd,
        };
        word == Word::Accepted
    }
}

/// What a client says of a coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Absent,
    Accepted,
    Refused,
}

/// Whether a parameter is a weight of 0, or one that cannot be read.
fn refuses(parameter: &[u8]) -> bool {
    let Some((name, weight)) = str::from_utf8(parameter)
        .ok()
        .and_then(|text| text.split_once('='))
    else {
        return false;
    };
    name.trim().eq_ignore_ascii_case("q")
        && !weight
            .trim()
            .parse::<f32>()
            .is_ok_and(|weight| weight > 0.0)
}

/// What becomes of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It passes as it is.
    Pass,
    /// It passes to this client, but others would get it compressed: caches must know.
    PassButVary,
    /// Its content is to go through a `CompressedBody`.
    Compress(Algorithm),
}

impl Decision {
    /// Decides for a final response whose content has this length, if known.
    ///
    /// Answers to HEAD pass untouched, `Vary` included, as do all that could never be compressed.
    pub fn new(
        accepted: Accepted,
        status: StatusCode,
        headers: &HeaderMap,
        length: Option<u64>,
        settings: &CompressionSettings,
    ) -> Self {
        if accepted.content == Content::None
            || !is_compressible(status, headers)
            || !is_long(length, settings)
        {
            return Self::Pass;
        }
        let media_type = media_type(headers);
        let mut eligible = settings
            .algorithms
            .iter()
            .filter(|algorithm| suits(**algorithm, media_type, settings));
        let mut decision = Self::Pass;
        loop {
            match eligible.next() {
                Some(algorithm) if accepted.has(*algorithm) => return Self::Compress(*algorithm),
                Some(_) => decision = Self::PassButVary,
                None => return decision,
            }
        }
    }

    /// Makes a response's fields say what was decided.
    ///
    /// A strong ETag becomes weak: two clients no longer get the same bytes under it. Length, ranges and
    /// digests of the plain content are dropped.
    pub fn apply(self, headers: &mut HeaderMap) {
        match self {
            Self::Pass => {}
            Self::PassButVary => add_vary(headers),
            Self::Compress(algorithm) => {
                let coding = match algorithm {
                    Algorithm::Brotli => "br",
                    Algorithm::Gzip => "gzip",
                    Algorithm::Zstd => "zstd",
                };
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
                headers.remove(CONTENT_LENGTH);
                headers.remove(ACCEPT_RANGES);
                for digest in &DIGESTS {
                    headers.remove(digest);
                }
                weaken_etag(headers);
                add_vary(headers);
            }
        }
    }
}

/// Whether status and fields allow it; alb.md 4.2 and decision 7 name each.
fn is_compressible(status: StatusCode, headers: &HeaderMap) -> bool {
    matches!(
        status,
        StatusCode::OK | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
    ) && !headers.contains_key(CONTENT_RANGE)
        && !headers.get_all(CONTENT_ENCODING).iter().any(|value| {
            members(value.as_bytes()).any(|coding| !coding.eq_ignore_ascii_case(b"identity"))
        })
        && !has_member(headers, CACHE_CONTROL, "no-transform")
}

fn is_long(length: Option<u64>, settings: &CompressionSettings) -> bool {
    match (length, settings.unknown_length) {
        (Some(length), _) => length >= settings.min_length.get(),
        (None, UnknownLength::Compress) => true,
        (None, UnknownLength::Pass) => false,
    }
}

/// The media type of a response without its parameters, in any case; empty if it does not say.
fn media_type(headers: &HeaderMap) -> &[u8] {
    let value = headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    value
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii()
}

/// Whether an algorithm is for a media type: Brotli and zstd for all but the excluded, gzip for its list. Event
/// streams and gRPC are for neither, since compression would hold their messages back.
fn suits(algorithm: Algorithm, media_type: &[u8], settings: &CompressionSettings) -> bool {
    let is = |name: &str| media_type.eq_ignore_ascii_case(name.as_bytes());
    let begins = |prefix: &str| {
        media_type
            .get(..prefix.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    if is("text/event-stream") || begins("application/grpc") {
        return false;
    }
    match algorithm {
        Algorithm::Gzip => GZIP_TYPES.iter().any(|name| is(name)),
        Algorithm::Brotli | Algorithm::Zstd => {
            !settings
                .brotli_exclude_types
                .iter()
                .any(|excluded| match excluded.strip_suffix('*') {
                    Some(family) => begins(family),
                    None => is(excluded),
                })
        }
    }
}

/// Adds `Accept-Encoding` to Vary, unless it is there or `*` is.
fn add_vary(headers: &mut HeaderMap) {
    if has_member(headers, VARY, "*") || has_member(headers, VARY, "accept-encoding") {
        return;
    }
    let mut vary = Vec::new();
    for line in headers
        .get_all(VARY)
        .iter()
        .map(|line| line.as_bytes().trim_ascii())
        .filter(|line| !line.is_empty())
    {
        vary.extend_from_slice(line);
        vary.extend_from_slice(b", ");
    }
    if vary.is_empty() {
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        return;
    }
    vary.extend_from_slice(b"Accept-Encoding");
    if let Ok(value) = HeaderValue::try_from(vary) {
        headers.insert(VARY, value);
    }
}

/// Makes a strong ETag weak; what is no entity tag goes, as with nginx.
fn weaken_etag(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG) else { return };
    if tag.as_bytes().starts_with(b"W/") {
        return;
    }
    let weak = [b"W/", tag.as_bytes()].concat();
    match HeaderValue::try_from(weak) {
        Ok(weak) if tag.as_bytes().starts_with(b"\"") => headers.insert(ETAG, weak),
        Ok(_) | Err(_) => headers.remove(ETAG),
    };
}

/// Lets a backend recognise its entity tags when they come back: each weak tag in If-Match and
/// If-None-Match is followed by its strong form.
///
/// The client may have got the tag from lockgate, weakened. If-Match compares strongly (RFC 9110 13.1.1)
/// and would fail for ever, If-None-Match fails with backends that compare letters. A tag that the
/// backend made weak itself gains nothing by this: its strong form names nothing.
pub fn restore_validators(headers: &mut HeaderMap) {
    let strengthened = |value: &HeaderValue| {
        with_strong_forms(value.as_bytes()).and_then(|both| HeaderValue::try_from(both).ok())
    };
    for name in [IF_MATCH, IF_NONE_MATCH] {
        if headers
            .get_all(&name)
            .iter()
            .all(|value| strengthened(value).is_none())
        {
            continue;
        }
        let lines: Vec<_> = headers
            .get_all(&name)
            .iter()
            .map(|value| strengthened(value).unwrap_or_else(|| value.clone()))
            .collect();
        headers.remove(&name);
        for line in lines {
            headers.append(&name, line);
        }
    }
}

/// The entity tags by which a client asks whether what it holds is still good.
///
/// Kept from before [`restore_validators`], for the answer: where the backend says 304 with its strong tag
/// to a client that holds the weakened one, that one is still its name (RFC 9110 15.4.5). Otherwise
/// caches would file compressed content under the strong tag.
pub fn held(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(IF_NONE_MATCH).cloned()
}

/// Gives a 304 the tag by which the client knows the content that it holds, and says that there are others.
pub fn confirm(status: StatusCode, headers: &mut HeaderMap, held: Option<&HeaderValue>) {
    let (StatusCode::NOT_MODIFIED, Some(held), Some(tag)) = (status, held, headers.get(ETAG))
    else {
        return;
    };
    let tag = tag.as_bytes().strip_prefix(b"W/").unwrap_or(tag.as_bytes());
    let is_held_weakly = entity_tags(held.as_bytes())
        .any(|found| matches!(found, Some(EntityTag::Weak(opaque)) if opaque == tag));
    if is_held_weakly {
        weaken_etag(headers);
        add_vary(headers);
    }
}

/// A tag without its `W/`.
enum EntityTag<'a> {
    Weak(&'a [u8]),
    Strong(&'a [u8]),
}

/// The entity tags of a list; none in place of the first that cannot be read, which is the last.
fn entity_tags(list: &[u8]) -> impl Iterator<Item = Option<EntityTag<'_>>> {
    let mut rest = list.trim_ascii();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (tag, behind) = match first_tag(rest) {
            Some((tag, behind)) => (Some(tag), behind),
            None => (None, &b""[..]),
        };
        rest = behind;
        Some(tag)
    })
}

/// The first tag of a list, and the list behind it.
fn first_tag(list: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    let (is_weak, from_quote) = match list.strip_prefix(b"W/") {
        Some(tag) => (true, tag),
        None => (false, list),
    };
    // An opaque tag holds anything but quotes, so commas too.
    let length = from_quote
        .strip_prefix(b"\"")?
        .iter()
        .position(|byte| *byte == b'"')?
        + 2;
    let (opaque, behind) = from_quote.split_at_checked(length)?;
    let tag = if is_weak {
        EntityTag::Weak(opaque)
    } else {
        EntityTag::Strong(opaque)
    };
    let behind = behind.trim_ascii_start();
    match behind.strip_prefix(b",") {
        Some(next) => Some((tag, next.trim_ascii_start())),
        None if behind.is_empty() => Some((tag, behind)),
        None => None,
    }
}

/// A list of entity tags with the strong form behind each weak one; none if it holds no weak tag, or
/// cannot be read to its end.
fn with_strong_forms(list: &[u8]) -> Option<Vec<u8>> {
    let mut both = Vec::with_capacity(list.len() * 2);
    let mut weak = false;
    for tag in entity_tags(list) {
        if !both.is_empty() {
            both.extend_from_slice(b", ");
        }
        let opaque = match tag? {
            EntityTag::Strong(opaque) => opaque,
            EntityTag::Weak(opaque) => {
                weak = true;
                both.extend_from_slice(b"W/");
                both.extend_from_slice(opaque);
                both.extend_from_slice(b", ");
                opaque
            }
        };
        both.extend_from_slice(opaque);
    }
    weak.then_some(both)
}

fn has_member(headers: &HeaderMap, name: HeaderName, member: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| members(value.as_bytes()))
        .any(|found| found.eq_ignore_ascii_case(member.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::Decision::{Compress, Pass, PassButVary};
    use super::*;

    fn settings() -> CompressionSettings {
        CompressionSettings {
            algorithms: vec![Algorithm::Brotli, Algorithm::Gzip],
            min_length: NonZeroU64::new(1025).unwrap(),
            gzip_level: 4,
            brotli_quality: 4,
            brotli_exclude_types: Vec::new(),
            unknown_length: UnknownLength::Pass,
        }
    }

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn accepted(value: &str) -> Accepted {
        Accepted::new(
            &Method::GET,
            Version::HTTP_11,
            &map(&[("accept-encoding", value)]),
        )
    }

    fn decide(accept: &str, media_type: &str, length: u64) -> Decision {
        let headers = map(&[("content-type", media_type)]);
        Decision::new(
            accepted(accept),
            StatusCode::OK,
            &headers,
            Some(length),
            &settings(),
        )
    }

    #[test]
    fn zstd_is_taken_where_it_is_switched_on_and_accepted() {
        let settings = CompressionSettings {
            algorithms: vec![Algorithm::Brotli, Algorithm::Zstd],
            brotli_exclude_types: vec!["image/*".into()],
            ..settings()
        };
        for (accept, media_type, decision) in [
            (
                "gzip, deflate, br, zstd",
                "text/html",
                Compress(Algorithm::Brotli),
            ),
            ("gzip, zstd", "text/html", Compress(Algorithm::Zstd)),
            ("ZSTD;q=0.1", "application/json", Compress(Algorithm::Zstd)),
            ("zstd;q=0", "application/json", PassButVary),
            ("zstd, zstd;q=0", "application/json", PassButVary),
            ("zstd;q=0, zstd", "application/json", PassButVary),
            ("zstd", "image/png", Pass),
            ("zstd", "text/event-stream", Pass),
        ] {
            let headers = map(&[("content-type", media_type)]);
            let found = Decision::new(
                accepted(accept),
                StatusCode::OK,
                &headers,
                Some(5000),
                &settings,
            );
            assert_eq!(found, decision, "{accept} {media_type}");
        }
        assert_eq!(
            decide("zstd", "text/plain", 5000),
            PassButVary,
            "not by default"
        );
        let mut headers = HeaderMap::new();
        Compress(Algorithm::Zstd).apply(&mut headers);
        assert_eq!(headers[CONTENT_ENCODING], "zstd");
    }

    #[test]
    fn a_304_names_what_the_client_holds() {
        for (status, held, etag, expected) in [
            (304, Some("W/\"a\""), "\"a\"", "W/\"a\""),
            (304, Some("\"b\", W/\"a\""), "\"a\"", "W/\"a\""),
            (304, Some("W/\"a\""), "W/\"a\"", "W/\"a\""),
            (304, Some("\"a\""), "\"a\"", "\"a\""),
            (304, Some("W/\"b\""), "\"a\"", "\"a\""),
            (304, Some("*"), "\"a\"", "\"a\""),
            (304, None, "\"a\"", "\"a\""),
            (200, Some("W/\"a\""), "\"a\"", "\"a\""),
        ] {
            let mut headers = map(&[("etag", etag)]);
            let held = held.map(|held| HeaderValue::from_str(held).unwrap());
            let status = StatusCode::from_u16(status).unwrap();
            confirm(status, &mut headers, held.as_ref());
            assert_eq!(headers[ETAG], expected, "{status} {held:?} {etag}");
            let is_confirmed = expected.starts_with('W');
            assert_eq!(headers.contains_key(VARY), is_confirmed, "{held:?} {etag}");
        }
    }

    #[test]
    fn the_documented_responses_are_compressed() {
        let (br, gzip) = (Compress(Algorithm::Brotli), Compress(Algorithm::Gzip));
        for (accept, media_type, length, decision) in [
            ("br, gzip", "application/json", 1024, Pass),
            ("br, gzip", "application/json", 1025, br),
            ("gzip, br", "image/png", 5000, br),
            ("gzip", "image/png", 5000, PassButVary),
            ("gzip", "text/html", 5000, PassButVary),
            ("br", "text/html", 5000, br),
            ("gzip", "application/json; charset=utf-8", 2000, gzip),
            ("gzip", "Application/JSON;charset=utf-8", 2000, gzip),
            ("gzip", "application/json-seq", 2000, PassButVary),
            ("", "application/json", 2000, PassButVary),
            ("br, gzip", "text/event-stream", 2000, Pass),
            ("br, gzip", "application/grpc", 2000, Pass),
            ("br, gzip", "application/grpc-web+proto", 2000, Pass),
            ("br", "", 2000, br),
            ("gzip", "", 2000, PassButVary),
        ] {
            assert_eq!(
                decide(accept, media_type, length),
                decision,
                "{accept} / {media_type} / {length}"
            );
        }
        for media_type in GZIP_TYPES {
            assert_eq!(decide("gzip", media_type, 2000), gzip);
        }
    }

    #[test]
    fn weights_only_refuse() {
        for (accept, brotli, gzip) in [
            ("gzip, br", true, true),
            ("gzip;q=1.0, br;q=0.1", true, true),
            ("GZIP, Br", true, true),
            ("br;q=0, gzip", false, true),
            ("br;q=0.000,gzip;q=0.001", false, true),
            ("br ; Q=0 , gzip ; q=0", false, false),
            ("*", false, false),
            ("identity;q=0", false, false),
            ("identity;q=0, *;q=0.5", false, false),
            ("gzip, *;q=0", false, true),
            ("br;q=x, gzip;q=", false, false),
            ("br;q=nan", false, false),
            ("br;q=-1", false, false),
            ("br;v=0", true, false),
            ("br, br;q=0", false, false),
            ("x-gzip", false, true),
            ("gzipped, brotli", false, false),
            ("", false, false),
        ] {
            let found = accepted(accept);
            let found = (found.has(Algorithm::Brotli), found.has(Algorithm::Gzip));
            assert_eq!(found, (brotli, gzip), "{accept}");
        }
        let lines = map(&[("accept-encoding", "gzip"), ("accept-encoding", "br")]);
        let found = Accepted::new(&Method::GET, Version::HTTP_2, &lines);
        assert!(found.has(Algorithm::Brotli) && found.has(Algorithm::Gzip));
    }

    #[test]
    fn old_clients_get_it_plain_and_caches_know() {
        let headers = map(&[("accept-encoding", "br, gzip")]);
        let accepted = Accepted::new(&Method::GET, Version::HTTP_10, &headers);
        assert_eq!(
            Decision::new(accepted, StatusCode::OK, &map(&[]), Some(2000), &settings()),
            PassButVary
        );
    }

    #[test]
    fn what_must_not_be_compressed_is_untouched() {
        let decide = |method: Method, status: u16, fields: &[(&'static str, &str)]| {
            let request = map(&[("accept-encoding", "br, gzip")]);
            let accepted = Accepted::new(&method, Version::HTTP_11, &request);
            let status = StatusCode::from_u16(status).unwrap();
            Decision::new(accepted, status, &map(fields), Some(5000), &settings())
        };
        assert_eq!(decide(Method::HEAD, 200, &[]), Pass);
        for status in [201, 204, 206, 301, 304, 400, 401, 416, 500, 502] {
            assert_eq!(decide(Method::GET, status, &[]), Pass, "{status}");
        }
        for status in [200, 403, 404] {
            assert_eq!(
                decide(Method::POST, status, &[]),
                Compress(Algorithm::Brotli),
                "{status}"
            );
        }
        for (fields, decision) in [
            (&[("content-encoding", "gzip")][..], Pass),
            (&[("content-encoding", "identity, x")], Pass),
            (
                &[("content-encoding", "identity")],
                Compress(Algorithm::Brotli),
            ),
            (&[("content-encoding", "")], Compress(Algorithm::Brotli)),
            (&[("content-range", "bytes 0-1/2")], Pass),
            (&[("cache-control", "public, No-Transform")], Pass),
            (
                &[
                    ("cache-control", "public"),
                    ("cache-control", "no-transform"),
                ],
                Pass,
            ),
            (&[("cache-control", "public")], Compress(Algorithm::Brotli)),
        ] {
            assert_eq!(decide(Method::GET, 200, fields), decision, "{fields:?}");
        }
    }

    #[test]
    fn settings_say_what_is_compressed() {
        let json = map(&[("content-type", "application/json")]);
        let decide = |settings: &CompressionSettings, headers: &HeaderMap, length: Option<u64>| {
            Decision::new(
                accepted("br, gzip"),
                StatusCode::OK,
                headers,
                length,
                settings,
            )
        };
        let gzip_first = CompressionSettings {
            algorithms: vec![Algorithm::Gzip, Algorithm::Brotli],
            ..settings()
        };
        assert_eq!(
            decide(&gzip_first, &json, Some(2000)),
            Compress(Algorithm::Gzip)
        );

        let gzip_only = CompressionSettings {
            algorithms: vec![Algorithm::Gzip],
            ..settings()
        };
        assert_eq!(
            decide(
                &gzip_only,
                &map(&[("content-type", "text/html")]),
                Some(2000)
            ),
            Pass
        );

        assert_eq!(decide(&settings(), &json, None), Pass);
        let unknown = CompressionSettings {
            unknown_length: UnknownLength::Compress,
            ..settings()
        };
        assert_eq!(decide(&unknown, &json, None), Compress(Algorithm::Brotli));

        let excluding = CompressionSettings {
            brotli_exclude_types: vec!["image/*".into(), "application/json".into()],
            ..settings()
        };
        assert_eq!(
            decide(&excluding, &json, Some(2000)),
            Compress(Algorithm::Gzip)
        );
        assert_eq!(
            decide(
                &excluding,
                &map(&[("content-type", "IMAGE/png")]),
                Some(2000)
            ),
            Pass
        );
        assert_eq!(
            decide(&excluding, &map(&[("content-type", "text/x")]), Some(2000)),
            Compress(Algorithm::Brotli)
        );
    }

    #[test]
    fn a_compressed_response_says_so() {
        let mut headers = map(&[
            ("content-length", "5000"),
            ("accept-ranges", "bytes"),
            ("content-encoding", "identity"),
            ("etag", "\"x\""),
            ("content-md5", "y"),
            ("repr-digest", "z"),
            ("server", "s"),
        ]);
        Compress(Algorithm::Gzip).apply(&mut headers);
        let expected = [
            ("content-encoding", "gzip"),
            ("etag", "W/\"x\""),
            ("vary", "Accept-Encoding"),
            ("server", "s"),
        ];
        assert_eq!(headers, map(&expected));

        Compress(Algorithm::Brotli).apply(&mut headers);
        assert_eq!(headers[CONTENT_ENCODING], "br");
        assert_eq!(headers[ETAG], "W/\"x\"");
    }

    #[test]
    fn what_is_no_entity_tag_goes() {
        let mut headers = map(&[("etag", "x")]);
        Compress(Algorithm::Gzip).apply(&mut headers);
        assert!(!headers.contains_key(ETAG));
    }

    #[test]
    fn vary_is_merged() {
        for (incoming, left) in [
            (&[][..], &["Accept-Encoding"][..]),
            (&["Origin"], &["Origin, Accept-Encoding"]),
            (&["Origin", "Cookie"], &["Origin, Cookie, Accept-Encoding"]),
            (&["origin, ACCEPT-encoding"], &["origin, ACCEPT-encoding"]),
            (&["*"], &["*"]),
            (&[""], &["Accept-Encoding"]),
        ] {
            let mut headers = HeaderMap::new();
            for line in incoming {
                headers.append(VARY, line.parse().unwrap());
            }
            PassButVary.apply(&mut headers);
            assert_eq!(headers.get_all(VARY).iter().collect::<Vec<_>>(), left);
        }
        let mut headers = map(&[("etag", "\"x\""), ("content-length", "1")]);
        Pass.apply(&mut headers);
        assert_eq!(headers, map(&[("etag", "\"x\""), ("content-length", "1")]));
    }

    #[test]
    fn weakened_tags_come_back_in_both_forms() {
        for (incoming, left) in [
            ("W/\"x\"", "W/\"x\", \"x\""),
            ("\"a,b\" , W/\"c,d\"", "\"a,b\", W/\"c,d\", \"c,d\""),
            ("W/\"a\",W/\"b\"", "W/\"a\", \"a\", W/\"b\", \"b\""),
            ("\"x\"", "\"x\""),
            ("\"W/\"", "\"W/\""),
            ("*", "*"),
            ("W/\"x", "W/\"x"),
            ("W/\"x\" \"y\"", "W/\"x\" \"y\""),
            ("", ""),
        ] {
            for name in ["if-match", "if-none-match"] {
                let mut headers = map(&[(name, incoming), (name, "\"o\""), (name, incoming)]);
                restore_validators(&mut headers);
                assert_eq!(
                    headers,
                    map(&[(name, left), (name, "\"o\""), (name, left)]),
                    "{incoming}"
                );
            }
        }
    }
}

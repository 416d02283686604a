//! The bridge between WebSocket over HTTP/2 (RFC 8441) and over HTTP/1.1 (RFC 6455).
//!
//! An extended CONNECT becomes an upgrade: the key that HTTP/2 has no use for is made here, and the
//! backend's answer to it is checked, so that nobody is taken for a WebSocket server who is none.

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};

/// What a server appends to a key to prove that it knows WebSocket (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The only version of the protocol (RFC 6455 section 4.1).
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// What the backend must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected(String);

impl Expected {
    /// The answer to a key as it stands in its field.
    fn to(key: &str) -> Self {
        let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        hash.update(key.as_bytes());
        hash.update(GUID);
        Self(STANDARD.encode(hash.finish()))
    }

    /// Whether the answer's fields hold it, once.
    pub fn is_met(&self, answer: &HeaderMap) -> bool {
        let mut fields = answer.get_all(SEC_WEBSOCKET_ACCEPT).iter();
        fields.next().is_some_and(|field| field == self.0.as_str()) && fields.next().is_none()
    }
}

/// Adds the fields of an upgrade to those of an extended CONNECT: a key of ours, whatever the client
/// said, and the version if it said none. Subprotocols and extensions pass as they are. `None` if the
/// system has no randomness to give.
pub fn ask(headers: &mut HeaderMap) -> Option<Expected> {
    let mut nonce = [0; 16];
    rand::fill(&mut nonce).ok()?;
    let key = STANDARD.encode(nonce);
    let value = HeaderValue::try_from(&key).ok()?;
    headers.insert(SEC_WEBSOCKET_KEY, value);
    headers.entry(SEC_WEBSOCKET_VERSION).or_insert(VERSION);
    Some(Expected::to(&key))
}

/// Takes out of a 101's fields what HTTP/2 has no use for.
pub fn translate_answer(headers: &mut HeaderMap) {
    headers.remove(SEC_WEBSOCKET_ACCEPT);
    headers.remove(http::header::CONTENT_LENGTH);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_rfc_6455_shows() {
        let expected = Expected::to("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(expected.0, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_the_exact_answer_said_once_is_believed() {
        let mut headers = HeaderMap::new();
        let expected = ask(&mut headers).unwrap();
        for (answers, met) in [
            (vec![expected.0.clone()], true),
            (vec![expected.0.to_lowercase()], false),
            (vec![expected.0.clone(), expected.0.clone()], false),
            (vec!["s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned()], false),
            (vec![], false),
        ] {
            let mut fields = HeaderMap::new();
            for answer in &answers {
                fields.append(SEC_WEBSOCKET_ACCEPT, answer.parse().unwrap());
            }
            assert_eq!(expected.is_met(&fields), met, "{answers:?}");
        }
    }

    #[test]
    fn keys_are_random_and_replace_the_clients() {
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("mine"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        let first = ask(&mut headers).unwrap();
        let key = headers.get(SEC_WEBSOCKET_KEY).unwrap().clone();
        assert_eq!(key.len(), 24);
        assert_ne!(ask(&mut headers).unwrap(), first);
        assert_eq!(headers.get(SEC_WEBSOCKET_VERSION).unwrap(), "8");
        assert_eq!(headers.get_all(SEC_WEBSOCKET_KEY).iter().count(), 1);
    }

    #[test]
    fn the_version_is_added_where_it_is_missing() {
        let mut headers = HeaderMap::new();
        ask(&mut headers).unwrap();
        assert_eq!(headers.get(SEC_WEBSOCKET_VERSION).unwrap(), "13");
    }
}

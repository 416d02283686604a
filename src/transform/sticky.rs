//! The cookie that keeps a client with one server of a group, or one group of a rule (alb.md 7.3).
//!
//! An inserted cookie is `MARK|LAST|FIRST`: who served the client, when last and since when, in seconds of
//! Unix time. It is renewed by every answer, has a twin for requests from other sites, and is a session
//! cookie: its age is judged here. A cookie of the server's own has its value replaced by the mark.

use http::HeaderMap;
use http::header::{COOKIE, Entry, HeaderValue, SET_COOKIE};

use crate::config::balance::{InsertedCookie, StickyPlan};
use crate::mark::Mark;
use crate::scheme::Scheme;

/// Cookies of that name that are looked at: a client has one, a forger may send many.
const MOST_COOKIES: usize = 8;

/// What a client's cookie says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Who served the client.
    pub mark: Mark,
    /// Since when, in seconds of Unix time.
    pub first: u64,
}

/// The request that an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// What its cookie said.
    pub held: Option<Held>,
    /// When it came, in seconds of Unix time.
    pub now: u64,
    /// What its client speaks.
    pub scheme: Scheme,
}

/// What a request's cookie stands for, as `known` knows it: the first one that is neither damaged, nor too
/// old at `now` (Unix time in seconds), nor unknown.
pub fn find<T>(
    headers: &HeaderMap,
    plan: &StickyPlan,
    now: u64,
    known: impl Fn(Mark) -> Option<T>,
) -> Option<(T, Held)> {
    let known = |held: Held| Some((known(held.mark)?, held));
    match plan {
        StickyPlan::Off => None,
        StickyPlan::Insert(cookie) => {
            let own = values(headers, &cookie.name).chain(values(headers, &cookie.twin));
            let mut held = own.filter_map(|value| inserted(value, cookie, now));
            held.find_map(known)
        }
        StickyPlan::Rewrite { cookie } => {
            let mut held = values(headers, cookie).filter_map(|value| {
                let mark = Mark::parse(value)?;
                Some(Held { mark, first: now })
            });
            held.find_map(known)
        }
    }
}

/// Keeps a client with who has answered it, of this mark.
pub fn keep(
    headers: &mut HeaderMap,
    plan: &StickyPlan,
    mark: Mark,
    Visit { held, now, scheme }: Visit,
) {
    match plan {
        StickyPlan::Off => {}
        StickyPlan::Insert(cookie) => {
            let first = held.filter(|held| held.mark == mark);
            let first = first.map_or(now, |held| held.first.min(now));
            let secure = match scheme {
                Scheme::Http => "",
                Scheme::Https => "; Secure",
            };
            let InsertedCookie { name, twin, .. } = cookie;
            let value = format!("{mark}|{now}|{first}");
            append(headers, format!("{name}={value}; Path=/"));
            append(
                headers,
                format!("{twin}={value}; Path=/; SameSite=None{secure}"),
            );
        }
        StickyPlan::Rewrite { cookie } => rewrite(headers, cookie, mark),
    }
}

/// The values of a request's cookies of that name.
fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| named(pair, name))
        .take(MOST_COOKIES)
}

/// The value of `name=value`, if the name is that one.
fn named<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let rest = pair.trim_ascii_start().strip_prefix(name.as_bytes())?;
    Some(rest.strip_prefix(b"=")?.trim_ascii_end())
}

/// What an inserted cookie says, unless it is damaged or too old. A stamp of the future was made by a replica
/// whose clock is ahead.
fn inserted(value: &[u8], cookie: &InsertedCookie, now: u64) -> Option<Held> {
    let mut parts = value.split(|byte| *byte == b'|');
    let mark = Mark::parse(parts.next()?)?;
    let last = stamp(parts.next()?)?;
    let first = stamp(parts.next()?)?;
    if parts.next().is_some() || now.saturating_sub(last) > cookie.timeout.as_secs() {
        return None;
    }
    Some(Held { mark, first })
}

fn stamp(digits: &[u8]) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    str::from_utf8(digits)
        .ok()
        .filter(|_| all_digits)?
        .parse()
        .ok()
}

fn append(headers: &mut HeaderMap, cookie: String) {
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        headers.append(SET_COOKIE, cookie);
    }
}

/// Replaces the value of every cookie of that name that an answer sets; its attributes stay.
fn rewrite(headers: &mut HeaderMap, name: &str, mark: Mark) {
    let Entry::Occupied(mut cookies) = headers.entry(SET_COOKIE) else {
        return;
    };
    for cookie in cookies.iter_mut() {
        let bytes = cookie.as_bytes();
        let end = bytes.iter().position(|byte| *byte == b';');
        let (pair, attributes) = bytes.split_at(end.unwrap_or(bytes.len()));
        if named(pair, name).is_none() {
            continue;
        }
        let text = [format!("{name}={mark}").as_bytes(), attributes].concat();
        if let Ok(rewritten) = HeaderValue::from_bytes(&text) {
            *cookie = rewritten;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const A: &str = "00112233445566778899aabbccddeeff";
    const B: &str = "ffeeddccbbaa99887766554433221100";
    const NOW: u64 = 1_700_000_000;

    fn mark(text: &str) -> Mark {
        Mark::parse(text.as_bytes()).unwrap()
    }

    fn insert() -> StickyPlan {
        StickyPlan::Insert(InsertedCookie::new(
            "SERVERID".into(),
            Duration::from_secs(1000),
        ))
    }

    fn server() -> StickyPlan {
        StickyPlan::Rewrite {
            cookie: "JSESSIONID".into(),
        }
    }

    /// Whom a request with these Cookie lines is for, where `A` is the only one known.
    fn found(plan: &StickyPlan, lines: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_str(line).unwrap());
        }
        let known = |found: Mark| (found == mark(A)).then_some(());
        find(&headers, plan, NOW, known).map(|((), held)| held.first)
    }

    fn set(plan: &StickyPlan, lines: &[&str], held: Option<Held>, scheme: Scheme) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SET_COOKIE, HeaderValue::from_str(line).unwrap());
        }
        let visit = Visit {
            held,
            now: NOW,
            scheme,
        };
        keep(&mut headers, plan, mark(A), visit);
        let cookies = headers.get_all(SET_COOKIE).iter();
        cookies
            .map(|cookie| cookie.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn an_inserted_cookie_is_found_wherever_it_stands() {
        let value = format!("{A}|1699999999|1699990000");
        for lines in [
            &[format!("SERVERID={value}")][..],
            &[format!("a=b; SERVERID={value}; c=d")],
            &[format!("a=b;SERVERID={value};c")],
            &["a=b".into(), format!("SERVERID={value}")],
            &[format!("SERVERCORSID={value}")],
            &[format!("SERVERID=rubbish; SERVERCORSID={value}")],
            &[format!("SERVERID={B}|{NOW}|{NOW}; SERVERID={value}")],
        ] {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            assert_eq!(found(&insert(), &lines), Some(1_699_990_000), "{lines:?}");
        }
    }

    #[test]
    fn a_cookie_that_is_damaged_unknown_or_another_is_ignored() {
        for cookie in [
            format!("SERVERID={A}"),
            format!("SERVERID={A}|{NOW}"),
            format!("SERVERID={A}|{NOW}|{NOW}|1"),
            format!("SERVERID={A}|+1|{NOW}"),
            format!("SERVERID={A}|{NOW}|"),
            format!("SERVERID={A}|{NOW}|99999999999999999999999"),
            format!("SERVERID={B}|{NOW}|{NOW}"),
            format!("SERVERID=\"{A}|{NOW}|{NOW}\""),
            format!("serverid={A}|{NOW}|{NOW}"),
            format!("XSERVERID={A}|{NOW}|{NOW}"),
            format!("SERVERID2={A}|{NOW}|{NOW}"),
            "SERVERID=".into(),
            "SERVERID".into(),
        ] {
            assert_eq!(found(&insert(), &[&cookie]), None, "{cookie}");
        }
    }

    #[test]
    fn a_cookie_lasts_as_long_as_the_timeout_after_the_last_answer() {
        for (last, expected) in [
            (NOW - 1000, Some(5)),
            (NOW - 1001, None),
            (NOW + 60, Some(5)),
        ] {
            let cookie = format!("SERVERID={A}|{last}|5");
            assert_eq!(found(&insert(), &[&cookie]), expected, "{last}");
        }
    }

    #[test]
    fn only_so_many_cookies_are_looked_at() {
        let forged = format!("SERVERID={B}|{NOW}|{NOW}; ").repeat(8);
        let cookie = format!("{forged}SERVERID={A}|{NOW}|{NOW}");
        assert_eq!(found(&insert(), &[&cookie]), None);
    }

    #[test]
    fn an_answer_sets_the_cookie_and_its_twin_beside_those_of_the_server() {
        let cookies = set(&insert(), &["own=1"], None, Scheme::Https);
        assert_eq!(
            cookies,
            [
                "own=1".to_owned(),
                format!("SERVERID={A}|{NOW}|{NOW}; Path=/"),
                format!("SERVERCORSID={A}|{NOW}|{NOW}; Path=/; SameSite=None; Secure"),
            ]
        );
        let plain = set(&insert(), &[], None, Scheme::Http);
        assert!(plain[1].ends_with("; SameSite=None"), "{plain:?}");
    }

    #[test]
    fn a_client_that_stays_keeps_its_first_stamp_and_one_that_moves_does_not() {
        for (who, first, expected) in [(A, 5, 5), (A, NOW + 9, NOW), (B, 5, NOW)] {
            let held = Held {
                mark: mark(who),
                first,
            };
            let cookies = set(&insert(), &[], Some(held), Scheme::Http);
            assert_eq!(cookies[0], format!("SERVERID={A}|{NOW}|{expected}; Path=/"));
        }
    }

    #[test]
    fn a_servers_own_cookie_has_its_value_replaced() {
        for (line, expected) in [
            ("JSESSIONID=abc", format!("JSESSIONID={A}")),
            (
                "JSESSIONID=abc; Path=/; HttpOnly",
                format!("JSESSIONID={A}; Path=/; HttpOnly"),
            ),
            (
                "JSESSIONID=; Max-Age=0",
                format!("JSESSIONID={A}; Max-Age=0"),
            ),
            ("JSESSIONID2=abc; Path=/", "JSESSIONID2=abc; Path=/".into()),
            ("other=JSESSIONID=abc", "other=JSESSIONID=abc".into()),
            ("JSESSIONID", "JSESSIONID".into()),
        ] {
            assert_eq!(set(&server(), &[line], None, Scheme::Https), [expected]);
        }
        assert!(set(&server(), &[], None, Scheme::Https).is_empty());
        assert_eq!(found(&server(), &[&format!("JSESSIONID={A}")]), Some(NOW));
        assert_eq!(found(&server(), &[&format!("JSESSIONID={B}")]), None);
        assert_eq!(found(&server(), &["JSESSIONID=abc"]), None);
    }

    #[test]
    fn without_stickiness_nothing_is_read_or_set() {
        let cookie = format!("SERVERID={A}|{NOW}|{NOW}");
        assert_eq!(found(&StickyPlan::Off, &[&cookie]), None);
        assert!(set(&StickyPlan::Off, &[], None, Scheme::Https).is_empty());
    }
}

//! Whose turn it is in a `[[server_group]]`, who stays with whom, and how servers come and go.

use super::{Resolver, switch};
use crate::config::balance::{DrainPlan, InsertedCookie, Scheduler, SlowStart, StickyPlan};
use crate::config::defaults;
use crate::config::document::{
    ConnectionDrainDocument, Field, GroupDocument, SlowStartDocument, StickySessionDocument,
};
use crate::config::plan::Switch;
use crate::config::value::{self, ValueError};

/// `scheduler` before its parameter is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Wrr,
    Wlc,
    Sch,
    Uch,
}

impl Resolver<'_> {
    /// `scheduler`, its slow start and `hash_query_parameter`, which belongs to `uch` alone; `None` if there are mistakes.
    pub(super) fn scheduler(&mut self, written: &GroupDocument) -> Option<Scheduler> {
        let words = [
            ("wrr", Some(Kind::Wrr)),
            ("wlc", Some(Kind::Wlc)),
            ("sch", Some(Kind::Sch)),
            ("uch", Some(Kind::Uch)),
        ];
        let parameter = self.string(
            "hash_query_parameter",
            &written.hash_query_parameter,
            query_parameter,
        );
        let kind = match &written.scheduler {
            Field::Absent => Kind::Wrr,
            Field::Wrong => return None,
            Field::Given(scheduler) => self.choice("scheduler", scheduler, &words)?,
        };
        let slow_start = self.slow_start(written.slow_start.as_ref(), kind);
        if let (Kind::Wrr | Kind::Wlc | Kind::Sch, Some(parameter)) =
            (kind, written.hash_query_parameter.given())
        {
            self.report
                .error(
                    &parameter.origin,
                    "`hash_query_parameter` belongs to another scheduler",
                )
                .label("nothing is chosen by it")
                .help("say `scheduler = \"uch\"`, or leave it out");
        }
        match kind {
            Kind::Wrr => Some(Scheduler::RoundRobin(slow_start)),
            Kind::Wlc => Some(Scheduler::LeastConnections),
            Kind::Sch => Some(Scheduler::SourceHash),
            Kind::Uch => {
                if let (Field::Absent, Some(scheduler)) =
                    (&written.hash_query_parameter, written.scheduler.given())
                {
                    self.report
                        .error(&scheduler.origin, "`uch` has no `hash_query_parameter`")
                        .label("chooses by the value of a query parameter")
                        .help("name the parameter: `hash_query_parameter = \"user\"`");
                }
                parameter.map(Scheduler::QueryHash)
            }
        }
    }
}

/// `type` of a sticky session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StickyKind {
    Insert,
    Server,
}

impl Resolver<'_> {
    /// How servers of a group begin: with slow start, which weighted round robin alone has (alb.md 7.6).
    fn slow_start(&mut self, written: Option<&SlowStartDocument>, kind: Kind) -> SlowStart {
        let Some(written) = written else {
            return SlowStart::Off;
        };
        let duration = self.duration("duration", &written.duration, defaults::SLOW_START_DURATION);
        match switch(&written.enabled, defaults::SLOW_START) {
            Switch::Off => SlowStart::Off,
            Switch::On => {
                if let (Kind::Wlc | Kind::Sch | Kind::Uch, Some(enabled)) =
                    (kind, written.enabled.given())
                {
                    self.report
                        .error(&enabled.origin, "slow start belongs to another scheduler")
                        .label("this group's has no weights that could grow")
                        .help("say `scheduler = \"wrr\"`, or leave `slow_start` out");
                }
                SlowStart::Over(duration)
            }
        }
    }

    /// What happens to what goes on with a server that is taken away.
    pub(super) fn connection_drain(
        &mut self,
        written: Option<&ConnectionDrainDocument>,
    ) -> DrainPlan {
        let Some(written) = written else {
            return DrainPlan::Off;
        };
        let timeout = self.duration("timeout", &written.timeout, defaults::DRAIN_SERVER_TIMEOUT);
        match switch(&written.enabled, defaults::CONNECTION_DRAIN) {
            Switch::Off => DrainPlan::Off,
            Switch::On => DrainPlan::Within(timeout),
        }
    }

    /// How clients are kept with their servers; `None` if that has mistakes.
    pub(super) fn sticky_session(
        &mut self,
        written: Option<&StickySessionDocument>,
    ) -> Option<StickyPlan> {
        let Some(written) = written else {
            return Some(StickyPlan::Off);
        };
        let timeout = self.duration("timeout", &written.timeout, defaults::STICKY_TIMEOUT);
        let cookie = self.string("cookie", &written.cookie, cookie_name);
        let words = [
            ("insert", Some(StickyKind::Insert)),
            ("server", Some(StickyKind::Server)),
        ];
        let kind = match &written.kind {
            Field::Absent => StickyKind::Insert,
            Field::Wrong => return None,
            Field::Given(kind) => self.choice("type", kind, &words)?,
        };
        let enabled = switch(&written.enabled, defaults::STICKY_SESSION);
        let plan = match kind {
            StickyKind::Insert => {
                let name = match (&written.cookie, cookie) {
                    (Field::Absent, _) => defaults::STICKY_COOKIE.to_owned(),
                    (Field::Wrong | Field::Given(_), cookie) => cookie?,
                };
                StickyPlan::Insert(InsertedCookie::new(name, timeout))
            }
            StickyKind::Server => StickyPlan::Rewrite {
                cookie: self.servers_cookie(written, cookie, enabled)?,
            },
        };
        Some(match enabled {
            Switch::On => plan,
            Switch::Off => StickyPlan::Off,
        })
    }

    /// The server's own cookie has a name that only the user knows, and lasts as long as the server says.
    fn servers_cookie(
        &mut self,
        written: &StickySessionDocument,
        cookie: Option<String>,
        enabled: Switch,
    ) -> Option<String> {
        if let (Some(timeout), Switch::On) = (written.timeout.given(), enabled) {
            self.report
                .error(
                    &timeout.origin,
                    "`timeout` belongs to sticky sessions of the type `insert`",
                )
                .label("a server's own cookie lasts as long as the server says")
                .help("leave it out, or say `type = \"insert\"`");
        }
        if let (Field::Absent, Switch::On) = (&written.cookie, enabled) {
            let message = "sticky sessions of the type `server` need `cookie`";
            let help = "name the cookie that the servers set: `cookie = \"JSESSIONID\"`";
            self.missing(&written.origin, message, help);
        }
        match enabled {
            Switch::On => cookie,
            Switch::Off => Some(cookie.unwrap_or_default()),
        }
    }
}

/// A query parameter's name, as it stands in a request's target.
fn query_parameter(value: String) -> Result<String, ValueError> {
    let value = value::text(value, 1, defaults::QUERY_PARAMETER_LENGTH)?;
    let stands_in_a_name =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'&' | b'=' | b'#');
    if value.bytes().all(stands_in_a_name) {
        Ok(value)
    } else {
        Err(ValueError::Malformed {
            text: value,
            kind: "a parameter's name",
            expected: "a name as it stands in a query, percent-encoded where it must be".into(),
        })
    }
}

/// A cookie's name: a token (RFC 6265 section 4.1.1) that does not begin with `$` (alb.md 7.3).
fn cookie_name(value: String) -> Result<String, ValueError> {
    let value = value::text(value, 1, defaults::COOKIE_NAME_LENGTH)?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if value.bytes().all(is_token) && !value.starts_with('$') {
        Ok(value)
    } else {
        Err(ValueError::Malformed {
            text: value,
            kind: "a cookie's name",
            expected: "letters, digits and signs such as `-`, `_` and `.`".into(),
        })
    }
}

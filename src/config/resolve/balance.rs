//! Whose turn it is in a `[[server_group]]`.

use super::Resolver;
use crate::config::balance::Scheduler;
use crate::config::defaults;
use crate::config::document::{Field, GroupDocument};
use crate::config::value;

/// `scheduler` before its parameter is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Wrr,
    Wlc,
    Sch,
    Uch,
}

impl Resolver<'_> {
    /// `scheduler` and `hash_query_parameter`, which belongs to `uch` alone; `None` if there are mistakes.
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
            value::query_parameter,
        );
        let kind = match &written.scheduler {
            Field::Absent => None,
            Field::Wrong => return None,
            Field::Given(scheduler) => Some(self.choice("scheduler", scheduler, &words)?),
        };
        if let (None | Some(Kind::Wrr | Kind::Wlc | Kind::Sch), Some(parameter)) =
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
            None => Some(defaults::SCHEDULER),
            Some(Kind::Wrr) => Some(Scheduler::RoundRobin),
            Some(Kind::Wlc) => Some(Scheduler::LeastConnections),
            Some(Kind::Sch) => Some(Scheduler::SourceHash),
            Some(Kind::Uch) => {
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

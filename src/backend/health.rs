//! What checks have found a server to be: a small state machine, fed with one result after the other.
//!
//! A new server serves until it is proven unhealthy (alb.md decision 23): it takes as many failures in a
//! row as one that was healthy before.

use crate::config::health::Thresholds;

/// What a server is held to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// No check has succeeded yet, and not enough have failed; or nobody checks it. It serves.
    #[default]
    Initial,
    /// It serves.
    Healthy,
    /// It is asked only where no server of its group is better off.
    Unhealthy,
}

impl State {
    /// The word for it in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What one check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered as it should.
    Passed,
    /// It did not.
    Failed,
}

/// A server's state, and how close it is to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What it is held to be.
    pub state: State,
    /// How many checks in a row have spoken against that.
    pub against: u8,
}

impl Health {
    /// What a server is after one more check.
    pub fn after(self, outcome: Outcome, thresholds: Thresholds) -> Self {
        let against = self.against.saturating_add(1);
        match (self.state, outcome) {
            (State::Initial | State::Healthy, Outcome::Passed) => State::Healthy.into(),
            (State::Unhealthy, Outcome::Failed) => State::Unhealthy.into(),
            (State::Initial | State::Healthy, Outcome::Failed)
                if against >= thresholds.unhealthy =>
            {
                State::Unhealthy.into()
            }
            (State::Unhealthy, Outcome::Passed) if against >= thresholds.healthy => {
                State::Healthy.into()
            }
            (state, Outcome::Passed | Outcome::Failed) => Self { state, against },
        }
    }

    /// As one number, for an atomic.
    pub fn pack(self) -> u32 {
        let state = match self.state {
            State::Initial => 0,
            State::Healthy => 1,
            State::Unhealthy => 2,
        };
        state << 8 | u32::from(self.against)
    }

    /// From what [`Self::pack`] made of it.
    pub fn unpack(packed: u32) -> Self {
        let [against, state, ..] = packed.to_le_bytes();
        let state = match state {
            0 => State::Initial,
            1 => State::Healthy,
            _ => State::Unhealthy,
        };
        Self { state, against }
    }
}

impl From<State> for Health {
    /// Nothing speaks against it.
    fn from(state: State) -> Self {
        Self { state, against: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The states that a row of checks leads through; `+` passes, `-` fails; i, h and u are the states.
    fn states(from: State, checks: &str, thresholds: (u8, u8)) -> String {
        let thresholds = Thresholds {
            healthy: thresholds.0,
            unhealthy: thresholds.1,
        };
        let mut health = Health::from(from);
        let mut states = String::new();
        for check in checks.chars() {
            let outcome = match check {
                '+' => Outcome::Passed,
                _ => Outcome::Failed,
            };
            health = health.after(outcome, thresholds);
            states.push_str(&health.state.as_str()[..1]);
            assert_eq!(Health::unpack(health.pack()), health);
        }
        states
    }

    #[test]
    fn a_state_changes_after_as_many_results_in_a_row_as_its_threshold_says() {
        for (from, checks, thresholds, expected) in [
            // A new server: one success is enough, failures count as for any other.
            (State::Initial, "+", (3, 3), "h"),
            (State::Initial, "---", (3, 3), "iiu"),
            (State::Initial, "--+---", (3, 3), "iihhhu"),
            (State::Initial, "-----", (2, 5), "iiiiu"),
            // Only results in a row count.
            (State::Healthy, "--+--+---", (3, 3), "hhhhhhhhu"),
            (State::Healthy, "--", (10, 2), "hu"),
            (State::Unhealthy, "++-++-+++", (3, 3), "uuuuuuuuh"),
            (State::Unhealthy, "++", (2, 10), "uh"),
            // And back again.
            (State::Healthy, "---+++---", (3, 3), "hhuuuhhhu"),
            (State::Unhealthy, "----------", (2, 2), "uuuuuuuuuu"),
            (State::Healthy, "++++++++++", (2, 2), "hhhhhhhhhh"),
        ] {
            assert_eq!(
                states(from, checks, thresholds),
                expected,
                "{checks} {thresholds:?}"
            );
        }
    }

    #[test]
    fn a_very_long_row_of_results_does_not_overflow() {
        let thresholds = Thresholds {
            healthy: u8::MAX,
            unhealthy: u8::MAX,
        };
        let mut health = Health::default();
        for _ in 0..300 {
            health = health.after(Outcome::Failed, thresholds);
        }
        assert_eq!(health.state, State::Unhealthy);
    }
}

//! Slow start (alb.md 7.6): a server that has just come gets its share little by little.
//!
//! Its weight grows in proportion to the time that it has been serving; but where all servers are at their
//! beginning, as after a start, there is nobody to spare them for, and each has its whole weight.

use std::time::Duration;

/// A whole weight, in the steps that it grows by.
pub const STEPS: i64 = 1000;
/// The least that a server begins with, in steps: with nothing, its time would come to nothing.
const LEAST: i64 = 10;

/// A server's weight in steps, after it has been `serving` for so long, growing over `duration`.
pub fn weight(weight: u8, serving: Duration, duration: Duration) -> i64 {
    if serving >= duration {
        return whole(weight);
    }
    let grown = serving.as_millis() * STEPS.unsigned_abs() as u128 / duration.as_millis().max(1);
    let grown = i64::try_from(grown).unwrap_or(STEPS);
    i64::from(weight) * grown.clamp(LEAST, STEPS)
}

/// A server's whole weight in steps.
pub fn whole(weight: u8) -> i64 {
    i64::from(weight) * STEPS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_grows_with_the_time_from_a_little_to_the_whole() {
        let duration = Duration::from_secs(30);
        for (millis, expected) in [
            (0, 1_000),
            (299, 1_000),
            (3_000, 10_000),
            (15_000, 50_000),
            (29_999, 99_900),
            (30_000, 100_000),
            (900_000, 100_000),
        ] {
            let serving = Duration::from_millis(millis);
            assert_eq!(weight(100, serving, duration), expected, "{millis} ms");
        }
        assert_eq!(weight(0, Duration::ZERO, duration), 0);
        assert_eq!(weight(1, duration, duration), whole(1));
    }
}

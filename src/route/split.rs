//! Which of a rule's groups a request goes to: each gets its share of every few requests, not of chance.
//!
//! The turns of one round are written down when the rules are compiled; all workers go through the same round,
//! so the shares hold for the process, whoever serves.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::plan::GroupId;
use crate::config::rule::WeightedGroup;

/// The groups of one rule, in turns.
#[derive(Debug)]
pub struct Split {
    /// Empty if no group takes requests.
    round: Box<[GroupId]>,
    next: AtomicUsize,
}

impl Split {
    /// Makes the round of some groups: smooth, as servers are taken.
    pub fn new(groups: &[WeightedGroup]) -> Self {
        let divisor = groups
            .iter()
            .fold(0, |divisor, group| gcd(divisor, group.weight));
        let weights: Vec<i64> = groups
            .iter()
            .map(|group| i64::from(group.weight.checked_div(divisor).unwrap_or(0)))
            .collect();
        let total: i64 = weights.iter().sum();
        let mut standings = vec![0; groups.len()];
        let round = (0..total)
            .filter_map(|_| {
                for (standing, weight) in standings.iter_mut().zip(&weights) {
                    *standing += weight;
                }
                let (at, highest) = (0_usize..)
                    .zip(standings.iter_mut())
                    .max_by_key(|(at, standing)| (**standing, std::cmp::Reverse(*at)))?;
                *highest -= total;
                groups.get(at).map(|group| group.group)
            })
            .collect();
        Self {
            round,
            next: AtomicUsize::new(0),
        }
    }

    /// The group whose turn it is; none if all have the weight 0.
    pub fn pick(&self) -> Option<GroupId> {
        if let [only] = *self.round {
            return Some(only);
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let at = turn.checked_rem(self.round.len())?;
        self.round.get(at).copied()
    }
}

fn gcd(one: u8, other: u8) -> u8 {
    if other == 0 {
        one
    } else {
        gcd(other, one % other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(weights: &[u8], count: usize) -> Vec<Option<usize>> {
        let groups: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(at, weight)| WeightedGroup {
                group: GroupId(at),
                weight: *weight,
            })
            .collect();
        let split = Split::new(&groups);
        (0..count)
            .map(|_| split.pick().map(|group| group.0))
            .collect()
    }

    #[test]
    fn groups_get_their_shares_in_turns() {
        let cases: &[(&[u8], &[usize])] = &[
            (&[100], &[0, 0, 0]),
            (&[90, 30], &[0, 0, 1, 0, 0, 0, 1, 0]),
            (&[1, 1, 1], &[0, 1, 2, 0]),
            (&[0, 50, 50], &[1, 2, 1, 2]),
            (&[0, 7], &[1, 1]),
        ];
        for (weights, expected) in cases {
            let expected: Vec<_> = expected.iter().copied().map(Some).collect();
            assert_eq!(picks(weights, expected.len()), expected, "{weights:?}");
        }
    }

    #[test]
    fn shares_are_exact_over_a_round() {
        for weights in [&[90, 10][..], &[100, 99, 98, 97, 1], &[33, 0, 67]] {
            let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            let taken = picks(weights, total);
            for (at, weight) in weights.iter().enumerate() {
                let count = taken.iter().filter(|group| **group == Some(at)).count();
                assert_eq!(count, usize::from(*weight), "{weights:?}");
            }
        }
    }

    #[test]
    fn where_nobody_has_a_weight_nobody_is_picked() {
        assert_eq!(picks(&[0, 0], 2), [None, None]);
        assert_eq!(picks(&[0], 1), [None]);
    }
}

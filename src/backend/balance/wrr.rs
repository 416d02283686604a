//! Chooses a server by smooth weighted round robin, as nginx does.
//!
//! At every pick each server's standing grows by its weight; the server that stands highest is taken and goes
//! back by the sum of all weights. So heavy servers come often, but never in one burst: weights 5, 1, 1 give
//! a a b a c a a. Which servers may be taken at all is the caller's knowledge.

/// The standings of one group's servers, in one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SmoothWrr {
    current: Vec<i64>,
}

impl SmoothWrr {
    /// Standings of `servers` servers, all at the start.
    pub fn new(servers: usize) -> Self {
        Self {
            current: vec![0; servers],
        }
    }

    /// Standings as they are after `picks` picks, so that workers do not all begin with the same server.
    pub fn with_offset<W: Copy + Into<i64>>(weights: &[W], picks: usize) -> Self {
        let mut standings = Self::new(weights.len());
        for _ in 0..picks {
            standings.pick(weights, |_| true);
        }
        standings
    }

    /// Picks the next server's index among those that are `eligible` and have a weight above 0.
    ///
    /// `weights` is the same list every time; when its length changes, the new servers start at 0. Servers that
    /// are not eligible keep their standing.
    pub fn pick<W: Copy + Into<i64>>(
        &mut self,
        weights: &[W],
        eligible: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let weight = |index: usize| match weights.get(index) {
            Some(weight) if eligible(index) => (*weight).into(),
            Some(_) | None => 0,
        };
        self.pick_by(weights.len(), weight)
    }

    /// The same for weights that change: `weight` says each server's of now, 0 of those not to be picked.
    pub fn pick_by(&mut self, servers: usize, weight: impl Fn(usize) -> i64) -> Option<usize> {
        if self.current.len() != servers {
            self.current.resize(servers, 0);
        }
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (index, current) in self.current.iter_mut().enumerate() {
            let weight = weight(index);
            if weight <= 0 {
                continue;
            }
            total += weight;
            *current += weight;
            if best.is_none_or(|(_, highest)| *current > highest) {
                best = Some((index, *current));
            }
        }
        let (index, highest) = best?;
        if let Some(current) = self.current.get_mut(index) {
            *current = highest - total;
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn picks(weights: &[u8], count: usize) -> Vec<usize> {
        let mut standings = SmoothWrr::new(weights.len());
        (0..count)
            .filter_map(|_| standings.pick(weights, |_| true))
            .collect()
    }

    #[test]
    fn heavy_servers_come_often_but_never_in_a_burst() {
        let cases: &[(&[u8], &[usize])] = &[
            (&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]),
            (&[1, 1, 1], &[0, 1, 2, 0, 1, 2]),
            (&[100, 50], &[0, 1, 0, 0, 1, 0]),
            (&[7], &[0, 0]),
            (&[0, 1, 0], &[1, 1]),
        ];
        for (weights, expected) in cases {
            assert_eq!(
                picks(weights, expected.len()),
                *expected,
                "weights {weights:?}"
            );
        }
    }

    #[test]
    fn nothing_to_pick_is_none() {
        let mut standings = SmoothWrr::new(0);
        assert_eq!(standings.pick::<u8>(&[], |_| true), None);
        assert_eq!(standings.pick(&[0_u8, 0], |_| true), None);
        assert_eq!(standings.pick(&[1_u8, 1], |_| false), None);
    }

    #[test]
    fn servers_that_are_not_eligible_are_passed_over_and_keep_their_standing() {
        let weights = [1_u8, 1, 1];
        let mut standings = SmoothWrr::new(3);
        let chosen: Vec<_> = (0..4)
            .filter_map(|_| standings.pick(&weights, |server| server != 1))
            .collect();
        assert_eq!(chosen, [0, 2, 0, 2]);
        assert_eq!(standings, SmoothWrr::new(3));
    }

    #[test]
    fn a_changed_list_is_taken_as_it_is() {
        let mut standings = SmoothWrr::new(3);
        standings.pick(&[1_u8, 1, 1], |_| true);
        assert_eq!(standings.pick(&[1_u8], |_| true), Some(0));
        assert!(standings.pick(&[1_u8, 1, 1, 1], |_| true).is_some());
    }

    #[test]
    fn an_offset_starts_later_in_the_same_sequence() {
        let weights = [5_u8, 1, 1];
        let mut standings = SmoothWrr::with_offset(&weights, 2);
        let chosen: Vec<_> = (0..5)
            .filter_map(|_| standings.pick(&weights, |_| true))
            .collect();
        assert_eq!(chosen, [1, 0, 2, 0, 0]);
    }

    #[test]
    fn weights_hold_whatever_the_number_of_workers_and_however_unevenly_they_are_used() {
        let weights = [100_u8, 60, 40];
        for workers in [1, 2, 4, 7] {
            // A worker's share of the connections, and how long each of them is kept.
            for pattern in [&[1][..], &[1, 1, 3, 20], &[300, 1, 7, 90, 2]] {
                let mut standings: Vec<_> = (0..workers)
                    .map(|worker| SmoothWrr::with_offset(&weights, worker))
                    .collect();
                let mut taken = [0_i32; 3];
                let mut connections = pattern.iter().cycle().zip((0..workers).cycle());
                let mut left = 10_000;
                while left > 0 {
                    let (requests, worker) = connections.next().unwrap();
                    for _ in 0..left.min(*requests) {
                        left -= 1;
                        taken[standings[worker].pick(&weights, |_| true).unwrap()] += 1;
                    }
                }
                for (taken, expected) in taken.iter().zip([5000, 3000, 2000]) {
                    assert!(
                        (taken - expected).abs() * 50 <= expected,
                        "{workers}: {taken}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_full_cycle_gives_each_server_exactly_its_weight(
            weights in vec(0_u8..=100, 1..8),
            offset in 0_usize..50,
        ) {
            let cycle: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            let mut standings = SmoothWrr::with_offset(&weights, offset);
            let start = standings.clone();
            let mut taken = vec![0_usize; weights.len()];
            for _ in 0..cycle {
                taken[standings.pick(&weights, |_| true).unwrap()] += 1;
            }
            prop_assert_eq!(taken, weights.iter().map(|weight| usize::from(*weight)).collect::<Vec<_>>());
            prop_assert_eq!(standings, start);
        }

        #[test]
        fn only_eligible_servers_with_weight_are_picked(
            weights in vec(0_u8..=100, 1..8),
            eligible in vec(any::<bool>(), 8),
        ) {
            let mut standings = SmoothWrr::new(weights.len());
            for _ in 0..50 {
                match standings.pick(&weights, |server| eligible[server]) {
                    Some(server) => prop_assert!(eligible[server] && weights[server] > 0),
                    None => prop_assert!(weights.iter().zip(&eligible).all(|(w, e)| *w == 0 || !e)),
                }
            }
        }
    }
}

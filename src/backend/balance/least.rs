//! Chooses the server with the fewest exchanges for its weight (`wlc`, alb.md 7.2).
//!
//! Exchanges count from the moment that a server is chosen until the client has the whole answer, tunnels
//! until they are closed, and in all workers together. Where several servers have as few, weighted round
//! robin decides: so an idle group is used evenly.

use super::wrr::SmoothWrr;

/// Picks a server's index among those that are `eligible` and have a weight above 0; `active` says how many
/// exchanges a server has.
pub fn pick(
    weights: &[u8],
    active: impl Fn(usize) -> usize,
    eligible: impl Fn(usize) -> bool,
    standings: &mut SmoothWrr,
) -> Option<usize> {
    let load = |index: usize, weight: u8| (active(index) as u64, u64::from(weight));
    let mut least: Option<(usize, (u64, u64))> = None;
    for (index, weight) in weights.iter().enumerate() {
        if *weight == 0 || !eligible(index) {
            continue;
        }
        let load = load(index, *weight);
        if least.is_none_or(|(_, least)| load.0 * least.1 < least.0 * load.1) {
            least = Some((index, load));
        }
    }
    let (first, least) = least?;
    let is_least = |index: usize| {
        let weight = weights.get(index).copied().unwrap_or_default();
        let load = load(index, weight);
        eligible(index) && load.0 * least.1 == least.0 * load.1
    };
    // Other workers count too: in between, none may be left that has as few.
    standings.pick(weights, is_least).or(Some(first))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_fewest_exchanges_for_the_weight_win() {
        let cases: &[(&[u8], &[usize], Option<usize>)] = &[
            (&[1, 1, 1], &[2, 1, 3], Some(1)),
            (&[100, 50], &[3, 2], Some(0)),
            (&[100, 50], &[5, 2], Some(1)),
            (&[0, 1], &[0, 9], Some(1)),
            (&[0, 0], &[0, 0], None),
            (&[], &[], None),
        ];
        for (weights, active, expected) in cases {
            let mut standings = SmoothWrr::new(weights.len());
            let picked = pick(weights, |server| active[server], |_| true, &mut standings);
            assert_eq!(picked, *expected, "{weights:?} {active:?}");
        }
    }

    #[test]
    fn an_idle_group_is_used_by_weight() {
        let mut standings = SmoothWrr::new(3);
        let picked: Vec<_> = (0..7)
            .filter_map(|_| pick(&[5, 1, 1], |_| 0, |_| true, &mut standings))
            .collect();
        assert_eq!(picked, [0, 0, 1, 0, 2, 0, 0]);
    }

    proptest! {
        #[test]
        fn no_other_server_has_fewer(
            weights in vec(0_u8..=100, 1..8),
            active in vec(0_usize..1000, 8),
            eligible in vec(any::<bool>(), 8),
        ) {
            let mut standings = SmoothWrr::new(weights.len());
            let share = |server: usize| active[server] as f64 / f64::from(weights[server]);
            let others = || (0..weights.len()).filter(|server| eligible[*server] && weights[*server] > 0);
            match pick(&weights, |server| active[server], |server| eligible[server], &mut standings) {
                Some(server) => {
                    prop_assert!(eligible[server] && weights[server] > 0);
                    prop_assert!(others().all(|other| share(server) <= share(other)));
                }
                None => prop_assert_eq!(others().count(), 0),
            }
        }
    }
}

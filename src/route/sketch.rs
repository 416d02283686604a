//! Remembers when each of very many clients may come to a rule again, in memory that never grows.
//!
//! A listener has one for all of its rules, however many they are. A client of a rule has one cell in each of a few rows, chosen by a keyed hash, and is judged by the earliest of
//! them; only cells that lie before are moved. So nobody is ever forgotten and nobody gains by numbers: a
//! client that shares all its cells with others that are at their limit is held back too, which grows
//! likely only with ten thousands of such clients in the same second.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// Rows: a client is held back wrongly only if it meets others in all of them.
const ROWS: usize = 4;
/// Cells of a row. All rows together take 1 MiB.
const CELLS: usize = 1 << 15;

/// The cells; a time each, in nanoseconds since it began.
#[derive(Debug)]
pub struct Sketch {
    /// When it began.
    pub(super) began: Instant,
    cells: Box<[AtomicU64]>,
    hasher: RandomState,
}

/// A rule, in one sketch.
#[derive(Clone, Copy, Debug)]
pub(super) struct RuleHash(u64);

impl Default for Sketch {
    fn default() -> Self {
        Self::new()
    }
}

impl Sketch {
    /// Nobody has come yet.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            cells: (0..ROWS * CELLS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    /// What stands for the rule of that name.
    pub(super) fn rule(&self, name: &str) -> RuleHash {
        RuleHash(self.hasher.hash_one(name))
    }

    /// Moves a client's time at a rule on, from what it is to what `next` says; `None` leaves it. Whether it was
    /// moved.
    ///
    /// Workers that meet at the same client at the same moment may find the same time in different cells. Each
    /// cell gives it to one of them, so as many requests may pass for one as there are rows, and no more.
    pub(super) fn advance(
        &self,
        rule: RuleHash,
        client: IpAddr,
        next: impl Fn(u64) -> Option<u64>,
    ) -> bool {
        let cells = self.cells_of(rule, client);
        loop {
            let times =
                cells.map(|cell| cell.map_or(u64::MAX, |cell| cell.load(Ordering::Relaxed)));
            let before = times.iter().copied().min().unwrap_or_default();
            let Some(after) = next(before) else {
                return false;
            };
            let earliest = cells.iter().zip(times).find(|(_, time)| *time == before);
            let Some((Some(cell), _)) = earliest else {
                return false;
            };
            let order = Ordering::Relaxed;
            if cell
                .compare_exchange_weak(before, after, order, order)
                .is_ok()
            {
                for cell in cells.into_iter().flatten() {
                    cell.fetch_max(after, Ordering::Relaxed);
                }
                return true;
            }
        }
    }

    /// One cell of each row.
    fn cells_of(&self, rule: RuleHash, client: IpAddr) -> [Option<&AtomicU64>; ROWS] {
        let hash = self.hasher.hash_one((rule.0, client));
        std::array::from_fn(|row| {
            let column = hash >> (row * CELLS.ilog2() as usize);
            let column = usize::try_from(column % CELLS as u64).unwrap_or_default();
            self.cells.get(row * CELLS + column)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const RULE: RuleHash = RuleHash(1);

    fn client(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn every_client_has_a_time_of_its_own() {
        let sketch = Sketch::new();
        for number in 0..100 {
            assert!(sketch.advance(RULE, client(number), |before| {
                (before == 0).then_some(u64::from(number) + 1)
            }));
        }
        for number in 0..100 {
            let found = |before| (before == u64::from(number) + 1).then_some(before);
            assert!(sketch.advance(RULE, client(number), found), "{number}");
        }
    }

    #[test]
    fn a_time_stays_where_it_may_not_move() {
        let sketch = Sketch::new();
        assert!(sketch.advance(RULE, client(1), |_| Some(7)));
        assert!(!sketch.advance(RULE, client(1), |_| None));
        assert!(sketch.advance(RULE, client(1), |before| (before == 7).then_some(8)));
    }

    #[test]
    fn no_crowd_makes_it_forget_a_client() {
        let sketch = Sketch::new();
        assert!(sketch.advance(RULE, client(0), |_| Some(1000)));
        for number in 1..500_000 {
            sketch.advance(RULE, client(number), |before| Some(before + 1));
        }
        assert!(!sketch.advance(RULE, client(0), |before| (before < 1000).then_some(before)));
    }

    #[test]
    fn a_thousand_clients_at_their_limit_hold_nobody_else_back() {
        let sketch = Sketch::new();
        for number in 0..1000 {
            assert!(sketch.advance(RULE, client(number), |_| Some(1000)));
        }
        let held = (1000..101_000).filter(|number| {
            !sketch.advance(RULE, client(*number), |before| {
                (before < 1000).then_some(before)
            })
        });
        // Expected: 100,000 times (1000 / 32768)^4, which is less than one in ten runs.
        assert!(held.count() < 10);
    }

    #[test]
    fn each_rule_has_times_of_its_own() {
        let sketch = Sketch::new();
        let (one, other) = (sketch.rule("one"), sketch.rule("other"));
        assert!(sketch.advance(one, client(1), |_| Some(7)));
        assert!(sketch.advance(other, client(1), |before| (before == 0).then_some(8)));
        assert!(sketch.advance(one, client(1), |before| (before == 7).then_some(9)));
        assert_eq!(sketch.rule("one").0, one.0);
    }

    #[test]
    fn workers_that_meet_let_no_more_pass_than_there_are_rows() {
        let sketch = Sketch::new();
        let passed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 * ROWS {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if sketch.advance(RULE, client(1), |before| {
                            (before < 1000).then_some(before + 1)
                        }) {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let passed = passed.into_inner();
        assert!((1000..=1000 * ROWS as u64).contains(&passed), "{passed}");
    }
}

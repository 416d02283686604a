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
        if self.current.len() != weights.len() {
            self.current.resize(weights.len(), 0);
        }
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (index, (current, weight)) in self.current.iter_mut().zip(weights).enumerate() {
            let weight: i64 = (*weight).into();
            if weight <= 0 || !eligible(index) {
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

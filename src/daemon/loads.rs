//! How many connections each worker has, and who takes the next.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many connections more than the emptiest worker one may have before it hands new ones over.
const SLACK: usize = 1;

/// The connections of every worker.
#[derive(Debug)]
pub struct Loads(Vec<AtomicUsize>);

impl Loads {
    /// Nobody has any.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| AtomicUsize::new(0)).collect())
    }

    /// How many a worker has.
    pub fn load(&self, worker: usize) -> usize {
        self.0
            .get(worker)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// It has one more.
    pub fn add(&self, worker: usize) {
        if let Some(count) = self.0.get(worker) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It has one less.
    pub fn remove(&self, worker: usize) {
        if let Some(count) = self.0.get(worker) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Who should serve a connection that `worker` has accepted: itself, unless another has clearly less to do.
    pub fn choose(&self, worker: usize) -> usize {
        let own = self.load(worker);
        if own < SLACK {
            return worker;
        }
        let emptiest = (0..self.0.len())
            .min_by_key(|other| self.load(*other))
            .unwrap_or(worker);
        if self.load(emptiest) + SLACK <= own {
            emptiest
        } else {
            worker
        }
    }
}

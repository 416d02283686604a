//! What was meant of health checks: `[server_group.health_check]`, a part of the plan.

/// How many results in a row change what a server is held to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// `healthy_threshold`: successes that make it healthy.
    pub healthy: u8,
    /// `unhealthy_threshold`: failures that make it unhealthy.
    pub unhealthy: u8,
}

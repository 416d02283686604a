//! Configuration in three tenses: the document (what was written), the plan (what was meant) and, in
//! `daemon::generation`, what runs.

pub mod plan;

//! Diagnostics: every mistake at once, where it was written, with a way out.
//!
//! Messages are lower-case, without a full stop, with values in backticks. Rendering is
//! annotate-snippets' business; what a mistake is, is decided by `resolve` and `daemon::generation`.
//! A report that holds an error stands for a configuration that is not used.

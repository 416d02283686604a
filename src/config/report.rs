//! shim
use super::plan::Origin;
use std::path::Path;
#[derive(Debug)]
pub struct Report {
    lines: Vec<String>,
    errors: usize,
}
pub enum Colour {
    No,
}
impl Colour {
    pub fn when_terminal() -> Self {
        Self::No
    }
}
impl Report {
    pub fn new(_: &Path, _: &str) -> Self {
        Self {
            lines: vec![],
            errors: 0,
        }
    }
    pub fn error(&mut self, _: &Origin, m: impl Into<String>, h: &str) {
        self.errors += 1;
        self.lines.push(format!("error: {} ({h})", m.into()));
    }
    pub fn warning(&mut self, _: &Origin, m: impl Into<String>, h: &str) {
        self.lines.push(format!("warning: {} ({h})", m.into()));
    }
    pub fn error_unplaced(&mut self, m: &str, h: &str) {
        self.errors += 1;
        self.lines.push(format!("error: {m} ({h})"));
    }
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }
    pub fn log(&self) {
        for l in &self.lines {
            tracing::warn!("{l}");
        }
    }
    pub fn render(&self, _: Colour) -> String {
        self.lines.join("\n") + "\n"
    }
}

//! Configuration in three tenses: the document (what was written), the plan (what was meant) and, in
//! `daemon::generation`, what runs.

pub mod plan;
pub mod report;
pub type Environment = fn(&str) -> Option<String>;
pub fn process_environment(_: &str) -> Option<String> {
    None
}
pub fn load(_: &std::path::Path, _: &Environment) -> (Option<plan::Plan>, report::Report) {
    (None, report::Report::new(std::path::Path::new(""), ""))
}
pub fn render_toml(_: &plan::Plan) -> String {
    String::new()
}

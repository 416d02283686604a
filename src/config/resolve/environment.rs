//! `${env:NAME}` in strings (config.toml): the one place where a configuration meets the environment.
//!
//! Every other `$` is literal. What a variable holds is taken as it is, without another round.

use super::Resolver;
use crate::config::document::Written;

/// What begins a variable.
const OPENING: &str = "${env:";

/// Why a text cannot be expanded.
#[derive(Debug, PartialEq, Eq)]
enum Flaw<'t> {
    /// There is no closing brace.
    Unclosed,
    /// Between the braces stands no name of a variable.
    Name(&'t str),
    /// The environment has no such variable.
    Unset(&'t str),
}

impl Resolver<'_> {
    /// A text with its variables, if it has no mistakes, which whoever uses it reports.
    pub(super) fn expanded(&self, text: &str) -> Option<String> {
        expand(text, self.environment).ok()
    }

    /// A string with its variables put in; `None` if one cannot be, which is reported.
    pub(super) fn expand(&mut self, written: &Written<String>) -> Option<String> {
        match expand(&written.value, self.environment) {
            Ok(text) => Some(text),
            Err(flaw) => {
                let origin = &written.origin;
                match flaw {
                    Flaw::Unclosed => self.report.error(origin, "`${env:` has no closing brace"),
                    Flaw::Name(name) => {
                        let message = format!(
                            "`{}` is not the name of an environment variable",
                            name.escape_debug()
                        );
                        self.report
                            .error(origin, message)
                            .label("expected letters, digits and `_`")
                    }
                    Flaw::Unset(name) => self
                        .report
                        .error(
                            origin,
                            format!("the environment variable `{name}` is not set"),
                        )
                        .help(format!(
                            "set `{name}` before lockgate starts, or write the value itself"
                        )),
                };
                None
            }
        }
    }
}

fn expand<'t>(
    text: &'t str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Flaw<'t>> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPENING) {
        let (name, after) = after.split_once('}').ok_or(Flaw::Unclosed)?;
        let is_name = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            return Err(Flaw::Name(name));
        }
        expanded.push_str(before);
        expanded.push_str(&environment(name).ok_or(Flaw::Unset(name))?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_env_variables_are_replaced_and_only_once() {
        let environment = |name: &str| match name {
            "HOST" => Some("app".to_owned()),
            "NEST" => Some("${env:HOST}".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("plain", Ok("plain")),
            ("${env:HOST}:80", Ok("app:80")),
            ("${env:HOST}${env:HOST}", Ok("appapp")),
            ("${host} $1 $ {env:HOST}", Ok("${host} $1 $ {env:HOST}")),
            ("${env:NEST}", Ok("${env:HOST}")),
            ("${env:GONE}", Err(Flaw::Unset("GONE"))),
            ("${env:}", Err(Flaw::Name(""))),
            ("${env:A-B}", Err(Flaw::Name("A-B"))),
            ("${env:HOST", Err(Flaw::Unclosed)),
        ] {
            assert_eq!(
                expand(text, &environment).as_deref(),
                expected.as_ref().copied(),
                "{text}"
            );
        }
    }
}

//! Reads field values that are comma-separated lists (RFC 9110 5.6.1).

/// The members of a list, in order, without white space around them; empty ones are none.
pub fn members(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_members_are_none() {
        for (value, list) in [
            ("", &[][..]),
            (" , ,", &[]),
            ("a", &["a"]),
            (",a ,\tb c,,", &["a", "b c"]),
        ] {
            let found: Vec<_> = members(value.as_bytes())
                .map(|member| str::from_utf8(member).unwrap())
                .collect();
            assert_eq!(found, list);
        }
    }
}

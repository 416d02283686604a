//! "Did you mean": the known word that is nearest to a misspelt one.

/// The candidate within a third of the word's length in edits, the nearest first.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                distance(&word.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many characters must be inserted, removed, replaced or swapped with their neighbour to make one word
/// of the other (Damerau's distance, optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or_default();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    let mut two_above = Vec::new();
    let mut previous = None;
    for (line, from) in from.chars().enumerate() {
        let mut row = vec![line + 1];
        let mut left = None;
        for (column, &to) in to.iter().enumerate() {
            let replaced = at(&above, column) + usize::from(from != to);
            let mut least = replaced
                .min(at(&above, column + 1) + 1)
                .min(at(&row, column) + 1);
            if previous == Some(to) && left == Some(from) {
                least = least.min(at(&two_above, column.saturating_sub(1)) + 1);
            }
            row.push(least);
            left = Some(to);
        }
        two_above = std::mem::replace(&mut above, row);
        previous = Some(from);
    }
    at(&above, to.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_edits() {
        for (from, to, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("port", "prot", 1),
            ("ca", "abc", 3),
            ("é", "e", 1),
        ] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let words = ["idle_timeout", "request_timeout", "port"];
        assert_eq!(nearest("idle_timout", words), Some("idle_timeout"));
        assert_eq!(nearest("Port", words), Some("port"));
        assert_eq!(nearest("colour", words), None);
    }
}

//! The word that was meant: the nearest of those that are known.

/// The known word that takes the fewest changes to become `word`, if these are few for its length.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A longer text is no slip of the hand, and would cost time.
    if word.chars().count() > 64 {
        return None;
    }
    let best = known.into_iter().map(|candidate| (distance(word, candidate), candidate)).min()?;
    let allowed = (best.1.len() / 3).max(1) + usize::from(best.1.len() > 3);
    (best.0 <= allowed).then_some(best.1)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one to the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let width = other.len() + 1;
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..width).collect();
    for (row, char) in one.iter().enumerate() {
        let mut next = vec![row + 1; width];
        for (column, wanted) in other.iter().enumerate() {
            let same = usize::from(char != wanted);
            let mut best = (last[column] + same).min(last[column + 1] + 1).min(next[column] + 1);
            let swapped = row > 0 && column > 0 && one[row - 1] == *wanted && other[column - 1] == *char;
            if swapped && same == 1 {
                best = best.min(before[column - 1] + 1);
            }
            next[column + 1] = best;
        }
        before = std::mem::replace(&mut last, next);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_a_far_one_is_not_guessed() {
        let known = ["version", "user", "cni", "network", "timeout_factor", "mtu", "low_ports"];
        for (word, meant) in [
            ("netwrok", Some("network")),
            ("timeout-factor", Some("timeout_factor")),
            ("mut", Some("mtu")),
            ("lowports", Some("low_ports")),
            ("Version", Some("version")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
        assert_eq!((distance("ab", "ba"), distance("abc", "abc"), distance("", "abc")), (1, 0, 3));
    }
}

//! The known name that a mistyped one most likely stands for.

/// The name of `known` nearest to `given`, unless none is near.
///
/// The distance is the number of letters to insert, delete, replace or swap with their neighbour.
/// Near is at most a third of the letters, or one letter of two.
pub(crate) fn nearest<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = given.chars().count();
    let near = if length == 2 { 1 } else { length / 3 };
    let distances = known.into_iter().map(|name| (distance(given, name), name));
    distances.filter(|&(distance, _)| distance <= near).min().map(|(_, name)| name)
}

/// Damerau and Levenshtein's distance in its restricted form, over letters without their case.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| -> Vec<char> {
        text.chars().take(NAME_CHARS_MAX).map(|letter| letter.to_ascii_lowercase()).collect()
    };
    let (a, b) = (letters(a), letters(b));
    // Three rows of the table: the one being filled and the two before it.
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        (before, above) = (above, row);
    }
    above[b.len()]
}

/// Letters of a name that are compared: longer names are cut, as the work grows with the square.
const NAME_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_name_with_one_slip() {
        let known = ["listen", "workers", "memory", "name"];
        assert_eq!(nearest("lisen", known), Some("listen"));
        assert_eq!(nearest("Workers", known), Some("workers"));
        assert_eq!(nearest("memroy", known), Some("memory"));
        assert_eq!(nearest("nane", known), Some("name"));
    }

    #[test]
    fn leaves_strangers_alone() {
        assert_eq!(nearest("colour", ["listen", "workers"]), None);
        assert_eq!(nearest("", ["listen"]), None);
        assert_eq!(nearest("a", ["b"]), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn distances_are_exact() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("abcd", "acbd"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}

//! Quantities written with their unit: "4 GiB", "500 ms".

use std::time::Duration;

/// Reads a size such as "4 GiB", "64KiB" or "100 MB".
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    number.checked_mul(factor(&BYTE_UNITS, unit)?)
}

/// Reads a time such as "500 ms", "2s" or "1 h".
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    number.checked_mul(factor(&TIME_UNITS, unit)?).map(Duration::from_nanos)
}

/// Reads a list of core numbers such as "2-4,7", in the order given.
pub(crate) fn parse_cores(text: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: usize = first.trim().parse().ok()?;
        let last: usize = last.trim().parse().ok()?;
        if last >= CORES_END || first > last {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

/// No machine has a core of this number or above.
const CORES_END: usize = 4096;

/// A size as an operator would write it: in the largest binary unit that loses nothing.
///
/// ```
/// assert_eq!(config::show_bytes(20 << 20), "20 MiB");
/// assert_eq!(config::show_bytes(1500), "1500 B");
/// ```
pub fn show_bytes(bytes: u64) -> String {
    let binary = BYTE_UNITS.iter().filter(|(unit, _)| is_binary(unit));
    show(bytes, binary.copied())
}

/// A time as an operator would write it: in the largest unit that loses nothing.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(config::show_duration(Duration::from_millis(1500)), "1500 ms");
/// assert_eq!(config::show_duration(Duration::from_secs(7200)), "2 h");
/// ```
pub fn show_duration(time: Duration) -> String {
    show(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), TIME_UNITS.iter().copied())
}

fn is_binary(unit: &str) -> bool {
    unit == "B" || unit.contains('i')
}

/// `amount` in the largest of `units` (largest first) that divides it.
fn show(amount: u64, units: impl Iterator<Item = (&'static str, u64)>) -> String {
    let mut last = ("", 1);
    for (unit, factor) in units {
        last = (unit, factor);
        if amount != 0 && amount.is_multiple_of(factor) {
            break;
        }
    }
    format!("{} {}", amount / last.1, last.0)
}

/// The number and the unit after it; a space between them may be left out.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.strip_prefix(' ').unwrap_or(unit)))
}

fn factor(units: &[(&str, u64)], wanted: &str) -> Option<u64> {
    units.iter().find(|(unit, _)| *unit == wanted).map(|&(_, factor)| factor)
}

/// Units of size, largest first among the binary ones.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Units of time in nanoseconds, largest first.
const TIME_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_listed_one_by_one_and_in_ranges() {
        assert_eq!(parse_cores("2-4, 7"), Some(vec![2, 3, 4, 7]));
        for wrong in ["", "a", "3-1", "0-99999999", "-"] {
            assert_eq!(parse_cores(wrong), None);
        }
    }

    #[test]
    fn reads_sizes() {
        assert_eq!(parse_bytes("4 GiB"), Some(4 << 30));
        assert_eq!(parse_bytes("64KiB"), Some(65_536));
        assert_eq!(parse_bytes("100 MB"), Some(100_000_000));
        assert_eq!(parse_bytes("0 B"), Some(0));
        for wrong in ["", "4", "GiB", "4  GiB", "4 gib", "-1 B", "1.5 GiB", "99999999 TiB"] {
            assert_eq!(parse_bytes(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn reads_times() {
        assert_eq!(parse_duration("500 ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2s"), Some(Duration::from_secs(2)));
        assert_eq!(parse_duration("5 d"), Some(Duration::from_secs(5 * 86_400)));
        for wrong in ["", "5", "5 seconds", "s", "5 M", "999999999999 d"] {
            assert_eq!(parse_duration(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn shows_what_it_reads() {
        for bytes in [0, 1, 1023, 1024, 3 << 20, 5 << 30, 1 << 40, u64::MAX] {
            assert_eq!(parse_bytes(&show_bytes(bytes)), Some(bytes));
        }
        for nanos in [0, 1, 1_500_000, 60_000_000_000, 86_400_000_000_000] {
            let time = Duration::from_nanos(nanos);
            assert_eq!(parse_duration(&show_duration(time)), Some(time));
        }
        assert_eq!(show_bytes(0), "0 B");
        assert_eq!(show_bytes(1 << 30), "1 GiB");
    }
}

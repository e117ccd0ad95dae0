//! A figure over several rounds.

/// The median of several rounds, and how far they lie apart.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// Half of the rounds were lower.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
    /// Whether in all of them the cores were apart, and not so elsewhere. Of a ratio: in those of one side only, so that it
    /// tells nothing.
    pub apart: bool,
}

impl Spread {
    /// Of these rounds, if there are any.
    pub fn of(rounds: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut rounds: Vec<f64> = rounds.collect();
        rounds.sort_by(f64::total_cmp);
        let middle = rounds.len() / 2;
        let median = match rounds.len() {
            0 => return None,
            count if count.is_multiple_of(2) => f64::midpoint(rounds[middle - 1], rounds[middle]),
            _ => rounds[middle],
        };
        Some(Spread { median, low: rounds[0], high: rounds[rounds.len() - 1], apart: false })
    }

    /// How many times the other this is. Its ends are those of the worst against the best round, and of the
    /// best against the worst: it cannot lie outside.
    pub fn over(self, other: Spread) -> Spread {
        Spread {
            median: self.median / other.median,
            low: self.low / other.high,
            high: self.high / other.low,
            apart: self.apart != other.apart,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rounds: &[f64]) -> Option<Spread> {
        Spread::of(rounds.iter().copied())
    }

    #[test]
    fn a_ratio_is_as_wide_as_the_rounds_allow() {
        let ours = of(&[30.0, 20.0, 40.0]).unwrap();
        let theirs = of(&[8.0, 10.0]).unwrap();
        assert_eq!(ours, Spread { median: 30.0, low: 20.0, high: 40.0, apart: false });
        assert_eq!(theirs, Spread { median: 9.0, low: 8.0, high: 10.0, apart: false });
        let ratio = ours.over(theirs);
        assert_eq!((ratio.low, ratio.high), (2.0, 5.0));
        assert!((ratio.median - 10.0 / 3.0).abs() < 1e-9);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_ratio_tells_nothing_where_the_cores_were_apart_on_one_side_only() {
        let near = of(&[30.0]).unwrap();
        let apart = Spread { apart: true, ..near };
        assert!(near.over(apart).apart && apart.over(near).apart);
        assert!(!near.over(near).apart && !apart.over(apart).apart);
    }
}

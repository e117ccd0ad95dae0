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
    /// How far the cores were apart in these rounds.
    pub cores: Cores,
}

/// How far the cores were apart in the rounds of a figure.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Cores {
    /// No more than twice as far as ever in the comparison, or that is not known.
    #[default]
    Near,
    /// Farther, in all rounds.
    Apart,
    /// It comes from figures of both kinds, and tells nothing.
    Mixed,
}

/// Which of two figures is the better one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Better {
    More,
    Less,
}

/// The best of them by its median. Where another one was measured with cores apart, and would be the best if it were twice as
/// good with cores near each other, nobody knows which is.
pub(super) fn best<T>(
    candidates: impl Iterator<Item = (T, Spread)>,
    better: Better,
) -> Option<(T, Spread)> {
    let mut candidates: Vec<(T, Spread)> = candidates.collect();
    let good = |spread: &Spread| match better {
        Better::More => spread.median,
        Better::Less => 1.0 / spread.median,
    };
    candidates.sort_by(|(_, a), (_, b)| good(a).total_cmp(&good(b)));
    let (name, mut spread) = candidates.pop()?;
    let might_win =
        |other: &Spread| other.cores != Cores::Near && 2.0 * good(other) > good(&spread);
    if spread.cores == Cores::Near && candidates.iter().any(|(_, other)| might_win(other)) {
        spread.cores = Cores::Mixed;
    }
    Some((name, spread))
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
        Some(Spread { median, low: rounds[0], high: rounds[rounds.len() - 1], cores: Cores::Near })
    }

    /// How many times the other this is. Its ends are those of the worst against the best round, and of the
    /// best against the worst: it cannot lie outside.
    pub fn over(self, other: Spread) -> Spread {
        Spread {
            median: self.median / other.median,
            low: self.low / other.high,
            high: self.high / other.low,
            cores: if self.cores == other.cores { self.cores } else { Cores::Mixed },
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
        assert_eq!(ours, Spread { median: 30.0, low: 20.0, high: 40.0, cores: Cores::Near });
        assert_eq!(theirs, Spread { median: 9.0, low: 8.0, high: 10.0, cores: Cores::Near });
        let ratio = ours.over(theirs);
        assert_eq!((ratio.low, ratio.high), (2.0, 5.0));
        assert!((ratio.median - 10.0 / 3.0).abs() < 1e-9);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_ratio_tells_nothing_where_the_cores_were_apart_on_one_side_only() {
        let near = of(&[30.0]).unwrap();
        let apart = Spread { cores: Cores::Apart, ..near };
        assert_eq!(near.over(near).cores, Cores::Near);
        assert_eq!(apart.over(apart).cores, Cores::Apart);
        let mixed = near.over(apart);
        assert_eq!(mixed.cores, Cores::Mixed);
        for cores in [apart.over(near), mixed.over(near), apart.over(mixed), mixed.over(mixed)] {
            assert_eq!(cores.cores, Cores::Mixed);
        }
    }

    #[test]
    fn who_is_best_is_not_known_while_another_might_be_with_cores_near() {
        let with = |median: f64, cores| Spread { cores, ..of(&[median]).unwrap() };
        let best_of = |a, b, better| best([("a", a), ("b", b)].into_iter(), better).unwrap();
        let near = with(100.0, Cores::Near);
        for (other, better, cores) in [
            (with(51.0, Cores::Apart), Better::More, Cores::Mixed),
            (with(51.0, Cores::Mixed), Better::More, Cores::Mixed),
            (with(49.0, Cores::Apart), Better::More, Cores::Near),
            (with(99.0, Cores::Near), Better::More, Cores::Near),
            (with(199.0, Cores::Apart), Better::Less, Cores::Mixed),
            (with(201.0, Cores::Apart), Better::Less, Cores::Near),
        ] {
            let expected = ("a", Spread { cores, ..near });
            assert_eq!(best_of(near, other, better), expected, "{other:?}");
            assert_eq!(best([("b", other), ("a", near)].into_iter(), better), Some(expected));
        }
        // Who is the best even so is.
        let (name, spread) = best_of(near, with(110.0, Cores::Apart), Better::More);
        assert_eq!((name, spread.cores), ("b", Cores::Apart));
        assert_eq!(best(std::iter::empty::<((), _)>(), Better::More), None);
    }
}

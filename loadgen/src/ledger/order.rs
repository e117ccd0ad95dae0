//! How far first attempts contradict the order of acceptance.

/// One mail of a queue, in the order of first attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Accepted {
    /// When its final dot was sent.
    pub(super) dot_us: u64,
    /// When its 250 came.
    pub(super) at_us: u64,
}

/// For each mail, by how many it was overtaken: mails attempted before it although their final dot was sent
/// (by more than `slack_us`) after its 250 had come.
pub(super) fn displacements(mails: &[Accepted], slack_us: u64) -> Vec<u64> {
    let mut dots: Vec<u64> = mails.iter().map(|mail| mail.dot_us).collect();
    dots.sort_unstable();
    let rank = |us: u64| dots.partition_point(|&dot| dot <= us);
    let mut seen = Counts::new(dots.len() + 1);
    let mut displacements = Vec::with_capacity(mails.len());
    for (earlier, mail) in (0..).zip(mails) {
        let not_later = seen.up_to(rank(mail.at_us.saturating_add(slack_us)));
        displacements.push(earlier - not_later);
        seen.add(rank(mail.dot_us));
    }
    displacements
}

/// Counts by rank, with sums of all ranks up to one in logarithmic time (a Fenwick tree).
struct Counts(Vec<u64>);

impl Counts {
    fn new(ranks: usize) -> Counts {
        Counts(vec![0; ranks + 1])
    }

    fn add(&mut self, rank: usize) {
        let mut at = rank + 1;
        while at < self.0.len() {
            self.0[at] += 1;
            at += at & at.wrapping_neg();
        }
    }

    fn up_to(&self, rank: usize) -> u64 {
        let mut at = rank + 1;
        let mut sum = 0;
        while at > 0 {
            sum += self.0[at];
            at &= at - 1;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counting_by_ranks_is_counting_one_by_one(
            mails in prop::collection::vec((0_u64..30, 0_u64..5), 0..40), slack in 0_u64..3,
        ) {
            let mails: Vec<Accepted> = mails
                .iter()
                .map(|&(dot_us, took)| Accepted { dot_us, at_us: dot_us + took })
                .collect();
            let plainly: Vec<u64> = (0..mails.len())
                .map(|this| {
                    let overtakes = |m: &&Accepted| m.dot_us > mails[this].at_us + slack;
                    mails[..this].iter().filter(overtakes).count() as u64
                })
                .collect();
            prop_assert_eq!(displacements(&mails, slack), plainly);
        }
    }
}

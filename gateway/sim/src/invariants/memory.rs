//! I8: memory stays within its budget.

use super::{Broken, Invariant, MemorySight};

/// Compares what is held with the bounds.
pub(super) fn check(sight: &MemorySight) -> Result<(), Broken> {
    let mut gateways = sight.gateways.iter();
    if let Some((left, total)) =
        gateways.find(|(left, total)| !is_within(*left, *total, sight.life * REPORT_SIZE_BYTES_MAX))
    {
        return Err(Invariant::I8.broken(format!("a gateway has {left} bytes left of {total}")));
    }
    for (place, (left, bounds)) in sight.queues.iter().enumerate() {
        let bytes = sight.life * REPORT_SIZE_BYTES_MAX;
        if !is_within(left.0, bounds.0, sight.life) || !is_within(left.1, bounds.1, bytes) {
            let what = format!("queue {place} has {left:?} left of {bounds:?}");
            return Err(Invariant::I8.broken(what));
        }
    }
    for (place, (bytes, messages)) in sight.servers.iter().enumerate() {
        if bytes.0 > bytes.1 || messages.0 > messages.1 {
            let what = format!("server {place} holds {bytes:?} bytes and {messages:?} messages");
            return Err(Invariant::I8.broken(what));
        }
    }
    Ok(())
}

/// Reports that end a message are taken until a bound is exceeded by a sixteenth, so by the `last` of
/// them more; and a gateway that recovers that much may take one more before what it replaces goes.
fn is_within(left: i64, bound: i64, last: i64) -> bool {
    left <= bound && left >= -(bound / 16) - last
}

/// The largest report with what is counted for it.
const REPORT_SIZE_BYTES_MAX: i64 = 300 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_budget_or_less_than_nothing_breaks_i8() {
        let sight = MemorySight {
            life: 1,
            gateways: vec![(-100_000, 16_000_000)],
            queues: vec![((-2, 1), (16, 160))],
            servers: vec![((100, 100), (5, 5))],
        };
        assert_eq!(check(&sight), Ok(()));
        let wrong = [
            MemorySight { gateways: vec![(-1_400_000, 16_000_000)], ..sight.clone() },
            MemorySight {
                gateways: vec![(1, 16_000_000), (17_000_000, 16_000_000)],
                ..sight.clone()
            },
            MemorySight { queues: vec![((-3, 1), (16, 160))], ..sight.clone() },
            MemorySight { queues: vec![((0, 161), (16, 160))], ..sight.clone() },
            MemorySight { servers: vec![((101, 100), (5, 5))], ..sight.clone() },
            MemorySight { servers: vec![((1, 100), (6, 5))], ..sight },
        ];
        let next = MemorySight { life: 2, ..wrong[2].clone() };
        assert_eq!(check(&next), Ok(()), "one more is allowed in the second life");
        for sight in wrong {
            let broken = check(&sight).expect_err("it is out of bounds");
            assert_eq!(broken.invariant, Invariant::I8, "{sight:?}");
        }
    }
}

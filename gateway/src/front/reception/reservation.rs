//! Room on the board that a transaction holds.

use std::sync::Arc;

use crate::board::{Board, Shortage};
use crate::message::QueueIndex;

/// Room for one message in each of its queues. Given back when dropped, unless it went over to the
/// shards with the message: so no way out of a transaction can forget it.
#[derive(Debug)]
pub(super) struct Reservation {
    board: Arc<Board>,
    /// Each once.
    queues: Vec<QueueIndex>,
    /// Content octets reserved in each of the queues.
    bytes: usize,
}

impl Reservation {
    /// Takes room for `bytes` of content in each queue, or in none.
    pub(super) fn take(
        board: &Arc<Board>,
        queues: &[QueueIndex],
        bytes: usize,
    ) -> Result<Reservation, Shortage> {
        let board = Arc::clone(board);
        let mut reservation =
            Reservation { board, queues: Vec::with_capacity(queues.len()), bytes };
        for queue in queues {
            // A shortage drops the reservation, and with it what was taken so far.
            reservation.board.reserve(*queue, bytes)?;
            reservation.queues.push(*queue);
        }
        Ok(reservation)
    }

    /// Makes sure of `bytes` in each queue. After a shortage it holds what it held before.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Shortage> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return Ok(());
        };
        for (done, queue) in self.queues.iter().enumerate() {
            if let Err(shortage) = self.board.reserve_more(*queue, more) {
                for queue in &self.queues[..done] {
                    self.board.release_part(*queue, more);
                }
                return Err(shortage);
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// The message turned out to have `bytes`, not more than reserved, and goes to the shards,
    /// which give its room back when it leaves.
    pub(super) fn hand_over(mut self, bytes: usize) {
        let surplus = self.bytes.checked_sub(bytes).expect("content fits its reservation");
        for queue in std::mem::take(&mut self.queues) {
            self.board.release_part(queue, surplus);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for queue in &self.queues {
            self.board.release(*queue, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::MESSAGE_OVERHEAD_BYTES;

    const QUEUES: [QueueIndex; 2] = [QueueIndex(0), QueueIndex(1)];

    fn board() -> Arc<Board> {
        let board = Board::new([(1, 2000), (1, 1000)], 10_000);
        QUEUES.into_iter().for_each(|queue| board.set_accepting(queue, true));
        Arc::new(board)
    }

    /// Everything can be taken again: nothing is missing.
    fn is_whole(board: &Arc<Board>) -> bool {
        let most = usize::try_from(1000 - MESSAGE_OVERHEAD_BYTES).unwrap();
        Reservation::take(board, &QUEUES, most).is_ok()
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let board = board();
        drop(Reservation::take(&board, &QUEUES, 100).unwrap());
        assert!(is_whole(&board));
    }

    #[test]
    fn a_shortage_in_one_queue_takes_nothing_from_the_others() {
        let board = board();
        assert_eq!(Reservation::take(&board, &QUEUES, 900).err(), Some(Shortage::QueueFull));
        let mut held = Reservation::take(&board, &QUEUES, 100).unwrap();
        assert_eq!(held.grow_to(900), Err(Shortage::QueueFull));
        assert_eq!(held.grow_to(200), Ok(()));
        drop(held);
        assert!(is_whole(&board));
    }

    #[test]
    fn the_shard_gives_back_exactly_what_went_over() {
        let board = board();
        let mut held = Reservation::take(&board, &QUEUES, 100).unwrap();
        held.grow_to(300).unwrap();
        held.hand_over(250);
        assert!(!is_whole(&board));
        QUEUES.into_iter().for_each(|queue| board.release(queue, 250));
        assert!(is_whole(&board));
    }
}

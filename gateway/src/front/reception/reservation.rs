//! Room on the board that a transaction holds.

use std::sync::Arc;

use crate::board::{Board, Shortage};
use crate::clients::ContentRoom;
use crate::message::QueueIndex;

/// Room that an envelope takes while it grows, before it is known to which queues it goes.
#[derive(Debug)]
pub(super) struct EnvelopeRoom {
    board: Arc<Board>,
    bytes: usize,
}

impl EnvelopeRoom {
    /// Room for nothing.
    pub(super) fn new(board: &Arc<Board>) -> EnvelopeRoom {
        EnvelopeRoom { board: Arc::clone(board), bytes: 0 }
    }

    /// Makes sure of `bytes`. After a shortage it holds what it held before.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Shortage> {
        self.board.reserve_shared(bytes.saturating_sub(self.bytes))?;
        self.bytes = self.bytes.max(bytes);
        Ok(())
    }
}

impl Drop for EnvelopeRoom {
    fn drop(&mut self) {
        self.board.release_shared(self.bytes);
    }
}

/// Room for one message in each of its queues. Given back when dropped, unless it went over to the
/// shards with the message: so no way out of a transaction can forget it.
#[derive(Debug)]
pub(super) struct Reservation {
    board: Arc<Board>,
    /// What the client holds by it, if that is limited.
    client: Option<Box<ContentRoom>>,
    /// Each once, with what its part of the envelope has beyond a usual one.
    queues: Vec<(QueueIndex, usize)>,
    /// Content octets reserved in each of the queues, beside that.
    bytes: usize,
}

impl Reservation {
    /// Takes room for `bytes` of content in each queue, and for its part of the envelope, or in none.
    pub(super) fn take(
        board: &Arc<Board>,
        client: Option<ContentRoom>,
        queues: &[(QueueIndex, usize)],
        bytes: usize,
    ) -> Result<Reservation, Shortage> {
        let (board, none) = (Arc::clone(board), Vec::with_capacity(queues.len()));
        let mut reservation =
            Reservation { board, client: client.map(Box::new), queues: none, bytes };
        reservation.count_for_client(queues.len(), bytes)?;
        for (queue, envelope) in queues {
            // A shortage drops the reservation, and with it what was taken so far.
            reservation.board.reserve(*queue, bytes.saturating_add(*envelope))?;
            reservation.queues.push((*queue, *envelope));
        }
        Ok(reservation)
    }

    /// Makes sure of `bytes` in each queue. After a shortage it holds what it held before.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Shortage> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return Ok(());
        };
        self.count_for_client(self.queues.len(), bytes)?;
        for (done, (queue, _)) in self.queues.iter().enumerate() {
            if let Err(shortage) = self.board.reserve_more(*queue, more) {
                for (queue, _) in &self.queues[..done] {
                    self.board.release_part(*queue, more);
                }
                self.count_for_client(self.queues.len(), self.bytes)
                    .expect("less can always be held");
                return Err(shortage);
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Has the client hold so many octets in each of so many queues.
    fn count_for_client(&mut self, queues: usize, bytes: usize) -> Result<(), Shortage> {
        let bytes = queues.saturating_mul(bytes) as u64;
        let has_room = self.client.as_mut().is_none_or(|client| client.resize(bytes));
        if has_room { Ok(()) } else { Err(Shortage::ClientFull) }
    }

    /// The content turned out to have `bytes`, not more than reserved, and goes to the shards,
    /// which give its room back when it leaves.
    pub(super) fn hand_over(mut self, bytes: usize) {
        let surplus = self.bytes.checked_sub(bytes).expect("content fits its reservation");
        for (queue, _) in std::mem::take(&mut self.queues) {
            self.board.release_part(queue, surplus);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for (queue, envelope) in &self.queues {
            self.board.release(*queue, self.bytes + envelope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::MESSAGE_OVERHEAD_BYTES;
    use crate::clients::ClientLimits;
    use std::num::NonZeroU64;
    use tcpstack::Instant;

    const QUEUES: [(QueueIndex, usize); 2] = [(QueueIndex(0), 0), (QueueIndex(1), 0)];

    fn board() -> Arc<Board> {
        let board = Board::new([(1, 2000), (1, 1000)], 10_000);
        QUEUES.into_iter().for_each(|(queue, _)| board.set_accepting(queue, true));
        Arc::new(board)
    }

    /// Everything can be taken again: nothing is missing.
    fn is_whole(board: &Arc<Board>) -> bool {
        let most = usize::try_from(1000 - MESSAGE_OVERHEAD_BYTES).unwrap();
        Reservation::take(board, None, &QUEUES, most).is_ok()
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let board = board();
        drop(Reservation::take(&board, None, &QUEUES, 100).unwrap());
        assert!(is_whole(&board));
    }

    #[test]
    fn a_shortage_in_one_queue_takes_nothing_from_the_others() {
        let board = board();
        assert_eq!(Reservation::take(&board, None, &QUEUES, 900).err(), Some(Shortage::QueueFull));
        let mut held = Reservation::take(&board, None, &QUEUES, 100).unwrap();
        assert_eq!(held.grow_to(900), Err(Shortage::QueueFull));
        assert_eq!(held.grow_to(200), Ok(()));
        drop(held);
        assert!(is_whole(&board));
    }

    #[test]
    fn the_shard_gives_back_exactly_what_went_over() {
        let board = board();
        let mut held = Reservation::take(&board, None, &QUEUES, 100).unwrap();
        held.grow_to(300).unwrap();
        held.hand_over(250);
        assert!(!is_whole(&board));
        QUEUES.into_iter().for_each(|(queue, _)| board.release(queue, 250));
        assert!(is_whole(&board));
    }

    #[test]
    fn a_client_holds_its_share_and_no_more_in_all_queues_together() {
        let board = board();
        let limits = ClientLimits { content_max: NonZeroU64::new(500), ..ClientLimits::default() };
        let address = [192, 0, 2, 1].into();
        let session = board.clients().begin_session(address, &limits, Instant::ZERO).unwrap();
        let take =
            |bytes| Reservation::take(&board, session.content_room(&limits), &QUEUES[1..], bytes);
        let mut other = session.content_room(&limits).unwrap();
        assert!(other.resize(100));
        assert_eq!(take(401).err(), Some(Shortage::ClientFull));
        let mut held = take(100).unwrap();
        assert_eq!(held.grow_to(401), Err(Shortage::ClientFull));
        assert!(other.resize(0) && other.resize(1));
        assert_eq!(held.grow_to(489), Err(Shortage::QueueFull));
        assert!(other.resize(400) && !other.resize(401), "a shortage elsewhere holds nothing");
        held.grow_to(100).unwrap();
        held.hand_over(100);
        assert!(other.resize(450), "what is stored is the queue's");
        board.release(QueueIndex(1), 100);
        let both = |bytes| Reservation::take(&board, session.content_room(&limits), &QUEUES, bytes);
        assert_eq!(both(26).err(), Some(Shortage::ClientFull));
        drop(both(25).unwrap());
        assert!(is_whole(&board));
    }

    #[test]
    fn each_queue_has_room_for_its_part_of_the_envelope() {
        let board = board();
        let queues = [(QueueIndex(0), 700), (QueueIndex(1), 50)];
        let mut held = Reservation::take(&board, None, &queues, 100).unwrap();
        held.grow_to(300).unwrap();
        assert_eq!(board.left(QueueIndex(0)).1, 2000 - MESSAGE_OVERHEAD_BYTES - 1000);
        assert_eq!(board.left(QueueIndex(1)).1, 1000 - MESSAGE_OVERHEAD_BYTES - 350);
        held.hand_over(250);
        board.release(QueueIndex(0), 950);
        board.release(QueueIndex(1), 300);
        assert!(is_whole(&board));
        drop(Reservation::take(&board, None, &queues, 100).unwrap());
        assert!(is_whole(&board));
    }

    #[test]
    fn an_envelope_that_grows_takes_of_the_budget_and_gives_it_back() {
        let board = board();
        let mut room = EnvelopeRoom::new(&board);
        assert_eq!((room.grow_to(6000), room.grow_to(2000)), (Ok(()), Ok(())));
        assert_eq!(room.grow_to(10_001), Err(Shortage::MemoryFull));
        assert_eq!(board.bytes_left(), 4000);
        assert_eq!(room.grow_to(10_000), Ok(()));
        drop(room);
        assert_eq!(board.bytes_left(), 10_000);
    }
}

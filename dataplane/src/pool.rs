//! A fixed number of frames.

/// A slot of memory and the length of the packet in it. Only a [`FramePool`] makes one, and it wants
/// it back: dropping a frame is a leak, which [`FramePool::assert_conserved`] finds.
#[derive(Debug)]
pub struct Frame {
    memory: Box<[u8]>,
    length: usize,
}

impl Frame {
    /// The packet.
    pub fn packet(&self) -> &[u8] {
        &self.memory[..self.length]
    }

    /// Makes room for a packet of `length` bytes, whose content is arbitrary until written.
    ///
    /// # Panics
    /// If the frame is shorter.
    pub fn packet_mut(&mut self, length: usize) -> &mut [u8] {
        assert!(length <= self.memory.len(), "a packet longer than its frame");
        self.length = length;
        &mut self.memory[..length]
    }
}

/// A fixed number of frames of equal size; those that are not in use.
#[derive(Debug)]
pub struct FramePool {
    free: Vec<Frame>,
    total: usize,
}

impl FramePool {
    /// `total` frames of `frame_bytes` each, all free.
    pub fn new(total: usize, frame_bytes: usize) -> FramePool {
        let frame = || Frame { memory: vec![0; frame_bytes].into_boxed_slice(), length: 0 };
        FramePool { free: (0..total).map(|_| frame()).collect(), total }
    }

    /// A free frame; `None` if all are in use.
    pub fn take(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    /// Takes a frame back.
    ///
    /// # Panics
    /// If there were more frames than at the beginning.
    pub fn give_back(&mut self, frame: Frame) {
        assert!(self.free.len() < self.total, "a frame that is not of this pool");
        self.free.push(frame);
    }

    /// How many are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Checks that every frame is somewhere: `in_use` is the caller's count of all that it holds.
    ///
    /// # Panics
    /// If free and in use are not together what there was at the beginning.
    pub fn assert_conserved(&self, in_use: usize) {
        let free = self.free.len();
        assert!(free + in_use == self.total, "{free} free + {in_use} in use != {}", self.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pool_gives_nothing_until_a_frame_comes_back() {
        let mut pool = FramePool::new(1, 64);
        let frame = pool.take().unwrap();
        assert!(pool.take().is_none());
        pool.give_back(frame);
        assert_eq!(pool.free(), 1);
    }

    #[test]
    fn a_packet_has_the_length_that_was_asked_for() {
        let mut pool = FramePool::new(1, 64);
        let mut frame = pool.take().unwrap();
        frame.packet_mut(3).copy_from_slice(b"abc");
        assert_eq!(frame.packet(), b"abc");
        pool.give_back(frame);
    }

    #[test]
    #[should_panic(expected = "longer than its frame")]
    fn a_packet_longer_than_its_frame_is_refused() {
        FramePool::new(1, 64).take().unwrap().packet_mut(65);
    }

    #[test]
    #[should_panic(expected = "0 free + 0 in use != 1")]
    fn a_leaked_frame_is_found() {
        let mut pool = FramePool::new(1, 64);
        drop(pool.take());
        pool.assert_conserved(0);
    }

    #[test]
    #[should_panic(expected = "not of this pool")]
    fn a_foreign_frame_is_refused() {
        let foreign = FramePool::new(1, 64).take().unwrap();
        FramePool::new(1, 64).give_back(foreign);
    }
}

//! Cuts a stream of bytes into frames, wherever the network split it.

use crate::{HEADER_SIZE_BYTES, Header, HeaderError, checksum, checksum_append};

/// Finds the frames in a stream.
///
/// It keeps at most one header's bytes; bodies are handed on as they come. Call
/// [`Decoder::handle_bytes`] with what was received until it answers `None` for the piece.
///
/// A body received straight into its place goes the same way: hand its bytes to
/// [`Decoder::handle_bytes`], at most [`Decoder::body_left`] of them, and ignore where the piece
/// points.
#[derive(Debug)]
pub struct Decoder {
    state: State,
}

/// A piece of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// A frame that lay in the input as a whole. Both checksums are right.
    Frame(Header, &'a [u8]),
    /// The header (checked) of a frame with a body that follows in pieces.
    Start(Header),
    /// The next bytes of that body, not empty, not yet checked.
    Body(&'a [u8]),
    /// The body was complete and its checksum right.
    End,
}

/// Why the stream cannot be followed any further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// Those bytes are not a header.
    Header(HeaderError),
    /// The body's checksum is wrong.
    BodyChecksum,
}

#[derive(Debug)]
enum State {
    /// Between frames, or `length < HEADER_SIZE_BYTES` bytes into a header.
    Header { bytes: [u8; HEADER_SIZE_BYTES], length: usize },
    /// In a body: `left` bytes are to come.
    Body { left: usize, sum: u32, expected: u32 },
    /// It failed before.
    Failed(DecodeError),
}

impl Decoder {
    /// At the start of a stream.
    pub const fn new() -> Decoder {
        Decoder { state: State::BETWEEN }
    }

    /// Takes the next piece from the front of `input`: how many bytes it used, and the piece if
    /// one is complete. With `None` all of `input` was used; call again with newer bytes.
    ///
    /// A `Body` piece that ends its body is followed by `End`, which uses no bytes: so call until
    /// `None` also when the input is used up.
    ///
    /// # Errors
    /// [`DecodeError`], for ever after.
    #[inline]
    pub fn handle_bytes<'a>(
        &mut self,
        input: &'a [u8],
    ) -> Result<(usize, Option<Piece<'a>>), DecodeError> {
        if let State::Header { length: 0, .. } = self.state
            && let Some((header, rest)) = input.split_first_chunk::<HEADER_SIZE_BYTES>()
        {
            return self.handle_header(header, rest, HEADER_SIZE_BYTES);
        }
        self.handle_bytes_slowly(input)
    }

    /// How many bytes of the present frame's body are still to come; 0 between frames.
    pub const fn body_left(&self) -> usize {
        match self.state {
            State::Body { left, .. } => left,
            State::Header { .. } | State::Failed(_) => 0,
        }
    }

    fn handle_bytes_slowly<'a>(
        &mut self,
        input: &'a [u8],
    ) -> Result<(usize, Option<Piece<'a>>), DecodeError> {
        match &mut self.state {
            State::Header { bytes, length } => {
                let used = input.len().min(HEADER_SIZE_BYTES - *length);
                bytes[*length..*length + used].copy_from_slice(&input[..used]);
                *length += used;
                if *length < HEADER_SIZE_BYTES {
                    return Ok((used, None));
                }
                let header = *bytes;
                self.handle_header(&header, &input[used..], used)
            }
            State::Body { left: 0, sum, expected } => {
                if sum != expected {
                    return Err(self.fail(DecodeError::BodyChecksum));
                }
                self.state = State::BETWEEN;
                Ok((0, Some(Piece::End)))
            }
            State::Body { left, sum, .. } => {
                let used = input.len().min(*left);
                if used == 0 {
                    return Ok((0, None));
                }
                let body = &input[..used];
                *left -= used;
                *sum = checksum_append(*sum, body);
                Ok((used, Some(Piece::Body(body))))
            }
            State::Failed(error) => Err(*error),
        }
    }

    /// A whole header, of which `used` bytes came from the present input; `rest` follows it.
    #[inline]
    fn handle_header<'a>(
        &mut self,
        bytes: &[u8; HEADER_SIZE_BYTES],
        rest: &'a [u8],
        used: usize,
    ) -> Result<(usize, Option<Piece<'a>>), DecodeError> {
        let header = match Header::decode(bytes) {
            Ok(header) => header,
            Err(error) => return Err(self.fail(DecodeError::Header(error))),
        };
        let left = header.body_length as usize;
        if let Some(body) = rest.get(..left) {
            if header.body_checksum != checksum(body) {
                return Err(self.fail(DecodeError::BodyChecksum));
            }
            self.state = State::BETWEEN;
            return Ok((used + left, Some(Piece::Frame(header, body))));
        }
        self.state = State::Body { left, sum: 0, expected: header.body_checksum };
        Ok((used, Some(Piece::Start(header))))
    }

    #[cold]
    fn fail(&mut self, error: DecodeError) -> DecodeError {
        self.state = State::Failed(error);
        error
    }
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl State {
    const BETWEEN: State = State::Header { bytes: [0; HEADER_SIZE_BYTES], length: 0 };
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::{Op, PART_SIZE_BYTES_MAX};

    fn frame(op: Op, aux: u64, body: &[u8]) -> Vec<u8> {
        let mut header = Header::new(op);
        header.aux = aux;
        header.body_length = u32::try_from(body.len()).expect("test bodies are short");
        header.body_checksum = checksum(body);
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    /// Decodes pieces of input given one after the other into whole frames.
    fn decode<'a>(
        inputs: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<(Header, Vec<u8>)>, DecodeError> {
        let mut decoder = Decoder::new();
        let mut frames = Vec::new();
        let mut open: Option<(Header, Vec<u8>)> = None;
        for mut input in inputs {
            loop {
                let (used, piece) = decoder.handle_bytes(input)?;
                input = &input[used..];
                match piece {
                    None => break,
                    Some(Piece::Frame(header, body)) => frames.push((header, body.to_vec())),
                    Some(Piece::Start(header)) => open = Some((header, Vec::new())),
                    Some(Piece::Body(body)) => {
                        assert!(!body.is_empty());
                        open.as_mut().expect("after Start").1.extend_from_slice(body);
                    }
                    Some(Piece::End) => frames.push(open.take().expect("after Start")),
                }
            }
            assert!(input.is_empty(), "None means that all input was used");
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..6),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            let mut stream = Vec::new();
            for (place, body) in bodies.iter().enumerate() {
                stream.extend(frame(Op::Store, place as u64, body));
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let split = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]);
            let frames = decode(split).expect("the stream is sound");
            prop_assert_eq!(&frames, &decode([&stream[..]]).expect("the stream is sound"));
            prop_assert_eq!(frames.len(), bodies.len());
            for (frame, body) in frames.iter().zip(&bodies) {
                prop_assert_eq!(&frame.1, body);
            }
        }

        #[test]
        fn random_bytes_harm_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(decode([&bytes[..]]).is_err() || bytes.len() < HEADER_SIZE_BYTES);
        }

        #[test]
        fn a_flipped_bit_is_found(
            body in proptest::collection::vec(any::<u8>(), 0..100),
            at in any::<proptest::sample::Index>(),
            split in any::<bool>(),
        ) {
            let mut stream = frame(Op::Store, 1, &body);
            let bit = at.index(stream.len() * 8);
            stream[bit / 8] ^= 1 << (bit % 8);
            let (first, second) = stream.split_at(if split { stream.len() / 2 } else { 0 });
            prop_assert!(decode([first, second]).is_err());
        }
    }

    #[test]
    fn an_error_stays() {
        let mut decoder = Decoder::new();
        let error = decoder.handle_bytes(&[1; 64]).expect_err("not a header");
        assert_eq!(decoder.handle_bytes(&frame(Op::HeartBeat, 0, &[])), Err(error));
    }

    #[test]
    fn a_body_above_the_bound_is_refused_by_its_header() {
        let mut header = Header::new(Op::Store);
        header.body_length = u32::try_from(PART_SIZE_BYTES_MAX + 1).expect("fits");
        assert_eq!(
            Decoder::new().handle_bytes(&header.encode()),
            Err(DecodeError::Header(HeaderError::BodyLength(header.body_length)))
        );
    }
}

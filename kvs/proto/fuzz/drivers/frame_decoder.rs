//! The decoder of frames and those of their bodies.
//!
//! The input is a script that makes a stream of frames, sound ones and broken ones. Rules:
//!
//! * The stream is read as `docs/protocol.md` has it, by code of its own here: same frames, same end.
//! * Any split gives the same as the whole.
//! * A frame ends where it ends: not one byte behind it is taken before it is handed out.
//! * What was decoded is encoded to the same bytes, headers and bodies.
//! * An error stays.

use fuzzing::{Cuts, Script};
use kvs_proto::auth::PROOF_SIZE_BYTES;
use kvs_proto::body::{
    AckEntry, Attached, Baseline, Challenge, Counter, Create, Hello, OpEntry, QueueEntry,
    QueueName, decode_counters, decode_proof, encode_counter,
};
use kvs_proto::{
    DecodeError, Decoder, HEADER_SIZE_BYTES, Header, HeaderError, Op, PART_SIZE_BYTES_MAX, Piece,
    Version, checksum, flags,
};

/// Decodes the stream that `input` describes, in several splits, and its frames' bodies.
pub fn run(input: &[u8]) {
    check_bodies(&input[..input.len().min(1024)]);
    let stream = stream(input);
    let expected = read(&stream);
    for cuts in Cuts::all(input) {
        let decoded = decode(cuts.pieces(&stream));
        assert_eq!(decoded, expected, "{cuts:?}");
    }
    for frame in &expected.frames {
        let header = &stream[frame.start..frame.start + HEADER_SIZE_BYTES];
        assert_eq!(frame.header.encode(), header, "a header is encoded to what it was");
        check_bodies(&frame.body);
    }
}

/// What a stream holds.
#[derive(PartialEq, Eq, Debug)]
struct Decoded {
    frames: Vec<Frame>,
    /// Why it cannot be followed any further.
    error: Option<DecodeError>,
    /// Bytes of body that are missing at the end.
    body_left: usize,
}

#[derive(PartialEq, Eq, Debug)]
struct Frame {
    /// Where it begins and ends in the stream.
    start: usize,
    end: usize,
    header: Header,
    body: Vec<u8>,
}

/// Makes a stream of frames.
fn stream(input: &[u8]) -> Vec<u8> {
    let mut script = Script::new(input);
    let mut stream = Vec::new();
    while !script.is_over() && stream.len() < STREAM_SIZE_BYTES_MAX {
        let control = script.byte();
        if control & 7 == 7 {
            let length = usize::from(script.byte());
            stream.extend_from_slice(script.bytes(length));
            continue;
        }
        let mut header = Header::new(OPS[usize::from(script.byte()) % OPS.len()]);
        let fields = script.byte();
        let number = |script: &mut Script<'_>, bit: u8| {
            if fields & 1 << bit == 0 { 0 } else { script.number() }
        };
        header.version = if control & 8 == 0 { Version::V1 } else { Version::CURRENT };
        header.flags = u16::from(control >> 4) & flags::known_in(header.version);
        header.queue.0 = low_half(number(&mut script, 0));
        header.generation_or_status = low_half(number(&mut script, 1));
        header.epoch.0 = number(&mut script, 2);
        header.sequence.0 = number(&mut script, 3);
        header.aux = number(&mut script, 4);
        header.message.0 = number(&mut script, 5);
        header.floor = number(&mut script, 6);
        let body = body(&mut script, control & 8 != 0);
        header.body_length = u32::try_from(body.len()).expect("short");
        header.body_checksum = checksum(&body);
        let mut frame = header.encode().to_vec();
        if control & 7 == 6 {
            spoil(&mut frame, &mut script);
        }
        stream.extend_from_slice(&frame);
        stream.extend_from_slice(&body);
    }
    stream
}

/// A body from the script, or a long one that repeats a few bytes of it.
fn body(script: &mut Script<'_>, is_long: bool) -> Vec<u8> {
    let length = usize::from(script.byte());
    if !is_long {
        return script.bytes(length).to_vec();
    }
    let unit = script.u64().to_le_bytes();
    let length = (length + 1) * PART_SIZE_BYTES_MAX / 256;
    unit.iter().copied().cycle().take(length).collect()
}

/// Breaks a header in a way that its checksum may or may not show.
fn spoil(header: &mut [u8], script: &mut Script<'_>) {
    let how = script.byte();
    let at = usize::from(script.byte()) % HEADER_SIZE_BYTES;
    header[at] ^= script.byte();
    if how & 1 != 0 {
        let sum = checksum(&header[4..]);
        header[..4].copy_from_slice(&sum.to_le_bytes());
    }
}

fn low_half(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).expect("half")
}

/// Reads a stream by the tables of `docs/protocol.md`, with the whole of it at hand.
fn read(stream: &[u8]) -> Decoded {
    let mut decoded = Decoded { frames: Vec::new(), error: None, body_left: 0 };
    let mut start = 0;
    while let Some(bytes) = stream[start..].first_chunk::<HEADER_SIZE_BYTES>() {
        let number =
            |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("a whole header"));
        let (version, op) = (bytes[8], bytes[9]);
        let flags = u16::from_le_bytes([bytes[10], bytes[11]]);
        let length = number(12);
        let error = if number(0) != checksum(&bytes[4..]) {
            Some(HeaderError::Checksum)
        } else if !(1..=3).contains(&version) {
            Some(HeaderError::Version(version))
        } else if version < since(op) {
            Some(HeaderError::Op(op))
        } else if flags > if version == 1 { 3 } else { 7 } {
            Some(HeaderError::Flags(flags))
        } else {
            (length > 65_536).then_some(HeaderError::BodyLength(length))
        };
        if let Some(error) = error {
            decoded.error = Some(DecodeError::Header(error));
            return decoded;
        }
        let length = usize::try_from(length).expect("at most 65,536");
        let end = start + HEADER_SIZE_BYTES + length;
        let Some(body) = stream.get(end - length..end) else {
            decoded.body_left = end - stream.len();
            return decoded;
        };
        if number(4) != checksum(body) {
            decoded.error = Some(DecodeError::BodyChecksum);
            return decoded;
        }
        let header = Header::decode(bytes).expect("it was just found sound");
        decoded.frames.push(Frame { start, end, header, body: body.to_vec() });
        start = end;
    }
    decoded
}

/// The version from which on an op is known.
fn since(op: u8) -> u8 {
    match op {
        1..=14 | 129..=140 => 1,
        15 | 141 => 2,
        142 => 3,
        _ => u8::MAX,
    }
}

/// Lets the decoder have the stream in pieces.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = Decoder::new();
    let mut frames: Vec<Frame> = Vec::new();
    let mut open: Option<(Header, Vec<u8>)> = None;
    let mut at = 0;
    for piece in pieces {
        let mut rest = piece;
        loop {
            let (used, found) = match decoder.handle_bytes(rest) {
                Ok(result) => result,
                Err(error) => {
                    check_error_stays(&mut decoder, error);
                    return Decoded { frames, error: Some(error), body_left: 0 };
                }
            };
            rest = &rest[used..];
            at += used;
            match found {
                None => break,
                Some(Piece::Frame(header, body)) => {
                    assert!(open.is_none(), "frames do not nest");
                    push(&mut frames, at, header, body.to_vec());
                }
                Some(Piece::Start(header)) => {
                    assert!(open.is_none(), "frames do not nest");
                    open = Some((header, Vec::new()));
                }
                Some(Piece::Body(bytes)) => {
                    assert!(!bytes.is_empty(), "pieces of a body are not empty");
                    open.as_mut().expect("a start came before").1.extend_from_slice(bytes);
                }
                Some(Piece::End) => {
                    let (header, body) = open.take().expect("a start came before");
                    push(&mut frames, at, header, body);
                }
            }
            let missing = open.as_ref().map_or(0, |(header, body)| length(header) - body.len());
            assert_eq!(decoder.body_left(), missing, "what is left is what is missing");
        }
        assert!(rest.is_empty(), "without a piece, all input was used");
    }
    Decoded { frames, error: None, body_left: decoder.body_left() }
}

/// Notes a frame that was complete when `end` bytes of the stream were used.
fn push(frames: &mut Vec<Frame>, end: usize, header: Header, body: Vec<u8>) {
    assert_eq!(body.len(), length(&header), "a body is as long as its header says");
    let start = end - HEADER_SIZE_BYTES - body.len();
    assert_eq!(start, frames.last().map_or(0, |frame| frame.end), "frames leave no gap");
    frames.push(Frame { start, end, header, body });
}

fn length(header: &Header) -> usize {
    usize::try_from(header.body_length).expect("at most 65,536")
}

fn check_error_stays(decoder: &mut Decoder, error: DecodeError) {
    let sound = Header::new(Op::HeartBeat).encode();
    for input in [&sound[..], &[]] {
        assert_eq!(decoder.handle_bytes(input), Err(error), "an error stays");
    }
    assert_eq!(decoder.body_left(), 0);
}

/// Tries each decoder of bodies: what it takes, it encodes to the same bytes.
fn check_bodies(body: &[u8]) {
    if let Ok(hello) = Hello::decode(body) {
        assert_eq!(encoded(|out| hello.encode(out)), body);
    }
    if let Ok(challenge) = Challenge::decode(body) {
        assert_eq!(encoded(|out| challenge.encode(out)), body);
    }
    if let Ok(create) = Create::decode(body) {
        assert_eq!(encoded(|out| create.encode(out)), body);
    }
    for version in [Version::V1, Version::V2, Version::V3] {
        let Ok(attached) = Attached::decode(version, body) else { continue };
        assert_eq!(encoded(|out| attached.encode(version, out)), body);
    }
    if let Ok(baseline) = Baseline::decode(body) {
        assert_eq!(encoded(|out| baseline.encode(out)), body);
    }
    if let Ok(entries) = OpEntry::decode_all(body) {
        assert_eq!(encoded(|out| entries.iter().for_each(|entry| entry.encode(out))), body);
    }
    if let Ok(mut entries) = AckEntry::all(body) {
        assert_eq!(encoded(|out| entries.by_ref().for_each(|entry| entry.encode(out))), body);
    }
    if let Ok(entries) = QueueEntry::decode_all(body) {
        assert_eq!(encoded(|out| entries.iter().for_each(|entry| entry.encode(out))), body);
    }
    if let Some(name) = QueueName::parse(body) {
        assert_eq!(name.as_str().as_bytes(), body);
    }
    if let Ok(proof) = decode_proof(body) {
        assert_eq!((&proof[..], body.len()), (body, PROOF_SIZE_BYTES));
    }
    check_counters(body);
}

/// As [`check_bodies`]; the counters of a newer server are left out.
fn check_counters(body: &[u8]) {
    let Ok(counters) = decode_counters(body) else {
        assert!(!body.len().is_multiple_of(10), "counters have 10 bytes each");
        return;
    };
    let is_known =
        |entry: &&[u8]| Counter::from_u16(u16::from_le_bytes([entry[0], entry[1]])).is_some();
    let known: Vec<u8> = body.chunks(10).filter(is_known).flatten().copied().collect();
    let again = encoded(|out| {
        counters.iter().for_each(|&(key, value)| encode_counter(key, value, out));
    });
    assert_eq!(again, known);
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

/// A longer stream says nothing new and takes time.
const STREAM_SIZE_BYTES_MAX: usize = 200_000;

const OPS: [Op; 29] = [
    Op::Hello,
    Op::Authenticate,
    Op::Create,
    Op::Attach,
    Op::Drop,
    Op::Store,
    Op::Delete,
    Op::Replace,
    Op::Baseline,
    Op::BlockGet,
    Op::OpsGet,
    Op::HeartBeat,
    Op::QueueList,
    Op::Statistics,
    Op::OwnerGet,
    Op::Challenge,
    Op::Welcome,
    Op::Attached,
    Op::Ack,
    Op::Refused,
    Op::Item,
    Op::BlockEnd,
    Op::Ops,
    Op::HeartBeatReply,
    Op::Queues,
    Op::Counters,
    Op::Dropped,
    Op::Owner,
    Op::Acks,
];

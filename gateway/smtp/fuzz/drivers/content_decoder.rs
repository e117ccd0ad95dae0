//! The decoder of mail data.
//!
//! The input is two bytes for the limits, one for how content comes, and then mail data. Rules:
//!
//! * Any split gives the same as the whole.
//! * The end of data is CRLF.CRLF and nothing else; not one octet behind it is taken.
//! * What is found wrong is wrong, and nothing else is.
//! * Content without errors is what the wire stands for, and has no bare CR or LF.
//! * Content is never larger than allowed, and what is appended never more than was said.

use fuzzing::{Script, same_in_all_cuts};
use smtp::{BareNewlines, ContentErrors, ContentSummary, Decoder, Framing};

use super::rules;

/// Decodes `input` in several splits.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let limits = Limits::new(&mut script);
    let wire = script.bytes(usize::MAX);
    let whole = same_in_all_cuts(input, |cuts| decode(&limits, cuts.pieces(wire)));
    check(&whole, wire, &limits);
}

struct Limits {
    line_len_max: usize,
    size_max: u64,
    framing: Framing,
    bare_newlines: BareNewlines,
}

impl Limits {
    fn new(script: &mut Script<'_>) -> Limits {
        let line_len_max = usize::from(script.byte());
        let size_max = 8 * u64::from(script.byte());
        let how = script.byte();
        Limits {
            line_len_max,
            size_max,
            framing: if how & 1 == 0 { Framing::Dots } else { Framing::Chunks },
            bare_newlines: match how & 2 {
                0 => BareNewlines::Refuse,
                _ => BareNewlines::Normalise,
            },
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
struct Decoded {
    /// Nothing if there were errors: then it depends on the split how much came before.
    content: Option<Vec<u8>>,
    used: usize,
    ended: bool,
    errors: ContentErrors,
    summary: ContentSummary,
}

fn decode<'a>(limits: &Limits, pieces: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = Decoder::new(limits.line_len_max, limits.size_max)
        .with_framing(limits.framing)
        .with_bare_newlines(limits.bare_newlines);
    let mut content = Vec::new();
    let (mut used, mut ended) = (0, false);
    let mut room = decoder.appended_max(0);
    for piece in pieces {
        room = content.len() + decoder.appended_max(piece.len());
        let (taken, end) = decoder.decode(piece, &mut content);
        assert!(octets(&content) <= limits.size_max && content.len() <= room);
        used += taken;
        ended = end;
        if ended {
            break;
        }
        assert_eq!(taken, piece.len(), "before the end all is taken");
    }
    if limits.framing == Framing::Chunks {
        assert!(!ended, "chunks are counted by whoever has them");
        decoder.finish(&mut content);
        assert!(octets(&content) <= limits.size_max && content.len() <= room);
    }
    let errors = decoder.errors();
    let content = (!errors.any()).then_some(content);
    Decoded { content, used, ended, errors, summary: decoder.summary() }
}

/// Holds the result against the rules, read with the whole at hand.
fn check(decoded: &Decoded, wire: &[u8], limits: &Limits) {
    let (errors, summary) = (decoded.errors, decoded.summary);
    let data = match limits.framing {
        Framing::Chunks => wire,
        Framing::Dots => {
            let end = rules::end_of_data(wire);
            assert_eq!(decoded.ended, end.is_some());
            assert_eq!(decoded.used, end.unwrap_or(wire.len()));
            let Some(end) = end else { return };
            &wire[..end]
        }
    };
    let is_refused = limits.bare_newlines == BareNewlines::Refuse && rules::has_bare_newline(data);
    assert_eq!(errors.bare_newline, is_refused);
    if is_refused {
        return;
    }
    let expected = match limits.framing {
        Framing::Dots => rules::normalised(&rules::unstuffed(data)),
        Framing::Chunks => rules::with_last_newline(rules::normalised(data)),
    };
    assert_eq!(summary.size, octets(&expected));
    assert_eq!(summary.leading_dot, rules::has_leading_dot(&expected));
    assert_eq!(errors.too_large, summary.size > limits.size_max);
    assert_eq!(errors.long_line, rules::longest_line(&expected) > limits.line_len_max);
    if let Some(content) = &decoded.content {
        assert_eq!(*content, expected);
        assert!(!rules::has_bare_newline(content));
    }
}

fn octets(content: &[u8]) -> u64 {
    u64::try_from(content.len()).expect("64 bits hold every length")
}

//! The decoder of mail data.
//!
//! The input is two bytes for the limits and then mail data. Rules:
//!
//! * Any split gives the same as the whole.
//! * The end of data is CRLF.CRLF and nothing else; not one octet behind it is taken.
//! * What is found wrong is wrong, and nothing else is.
//! * Content without errors is what the wire stands for, and has no bare CR or LF.
//! * Content is never larger than allowed.

use fuzzing::{Cuts, Script};
use smtp::{ContentErrors, ContentSummary, Decoder};

use super::rules;

/// Decodes `input` in several splits.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let line_len_max = usize::from(script.byte());
    let size_max = 8 * u64::from(script.byte());
    let wire = script.bytes(usize::MAX);
    let decode = |cuts: Cuts| decode(line_len_max, size_max, cuts.pieces(wire));
    let [whole, bytes, seeded] = Cuts::all(input).map(decode);
    assert_eq!(bytes, whole);
    assert_eq!(seeded, whole);
    check(&whole, wire, line_len_max, size_max);
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

fn decode<'a>(
    line_len_max: usize,
    size_max: u64,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Decoded {
    let mut decoder = Decoder::new(line_len_max, size_max);
    let mut content = Vec::new();
    let (mut used, mut ended) = (0, false);
    for piece in pieces {
        let (taken, end) = decoder.decode(piece, &mut content);
        assert!(octets(&content) <= size_max, "content is never larger than allowed");
        used += taken;
        ended = end;
        if ended {
            break;
        }
        assert_eq!(taken, piece.len(), "before the end all is taken");
    }
    let errors = decoder.errors();
    let content = (!errors.any()).then_some(content);
    Decoded { content, used, ended, errors, summary: decoder.summary() }
}

/// Holds the result against the rules, read with the whole at hand.
fn check(decoded: &Decoded, wire: &[u8], line_len_max: usize, size_max: u64) {
    let end = rules::end_of_data(wire);
    assert_eq!((decoded.ended, decoded.used), (end.is_some(), end.unwrap_or(wire.len())));
    let Some(end) = end else { return };
    let (errors, summary) = (decoded.errors, decoded.summary);
    assert_eq!(errors.bare_newline, rules::has_bare_newline(&wire[..end]));
    if errors.bare_newline {
        return;
    }
    let expected = rules::unstuffed(&wire[..end]);
    assert_eq!(summary.size, octets(&expected));
    assert_eq!(summary.leading_dot, rules::has_leading_dot(&expected));
    assert_eq!(errors.too_large, summary.size > size_max);
    assert_eq!(errors.long_line, rules::longest_line(&expected) > line_len_max);
    if let Some(content) = &decoded.content {
        assert_eq!(*content, expected);
        assert!(!rules::has_bare_newline(content));
    }
}

fn octets(content: &[u8]) -> u64 {
    u64::try_from(content.len()).expect("64 bits hold every length")
}

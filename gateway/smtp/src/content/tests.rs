use super::*;
use alloc::vec;
use proptest::prelude::*;

struct Decoded {
    content: Vec<u8>,
    used: usize,
    ended: bool,
    decoder: Decoder,
}

fn decode(pieces: &[&[u8]]) -> Decoded {
    let mut decoder = Decoder::new(20, 100);
    let mut content = Vec::new();
    let (mut used, mut ended) = (0, false);
    for piece in pieces {
        if !ended {
            let (taken, end) = decoder.decode(piece, &mut content);
            assert!(end || taken == piece.len());
            used += taken;
            ended = end;
        }
    }
    Decoded { content, used, ended, decoder }
}

#[test]
fn dots_are_removed_and_noted() {
    // RFC 5321 §4.5.2: a dot alone ends; a dot before other characters is deleted.
    let table: [(&[u8], &[u8], bool); 5] = [
        (b".\r\n", b"", false),
        (b"a\r\n.\r\n", b"a\r\n", false),
        (b"..\r\n.\r\n", b".\r\n", true),
        (b"..a\r\nb\r\n...\r\n.\r\n", b".a\r\nb\r\n..\r\n", true),
        (b".a\r\n.\r\n", b"a\r\n", false),
    ];
    for (wire, content, leading_dot) in table {
        let decoded = decode(&[wire]);
        assert!(decoded.ended && !decoded.decoder.errors().any(), "{wire:?}");
        assert_eq!(decoded.content, content, "{wire:?}");
        let size = u64::try_from(content.len()).unwrap();
        assert_eq!(decoded.decoder.summary(), ContentSummary { size, leading_dot });
    }
}

#[test]
fn only_crlf_dot_crlf_is_the_end() {
    let table: [&[u8]; 9] = [
        b"a\n.\n",
        b"a\n.\r\n",
        b"a\r.\r",
        b"a\r\n.\n",
        b"a\r\n.\r",
        b"a\r.\r\n",
        b"a\r\n.\rx\n",
        b"a\r\n\n.\r\n",
        b"a\r\n.\r\r\n",
    ];
    for wire in table {
        assert!(!decode(&[wire]).ended, "{wire:?}");
    }
}

#[test]
fn bare_newlines_are_errors_and_the_real_end_is_still_found() {
    let table: [&[u8]; 5] = [b"a\nb", b"a\rb", b"\n", b"a\r\r\nb", b".\rx"];
    for start in table {
        let mut wire = start.to_vec();
        wire.extend(b"\r\n.\r\nNOOP\r\n");
        let decoded = decode(&[&wire]);
        assert!(decoded.ended, "{wire:?}");
        assert_eq!(decoded.used, start.len() + 5);
        assert!(decoded.decoder.errors().bare_newline);
    }
}

#[test]
fn long_lines_and_large_content_are_errors() {
    let line = [&[b'x'; 20][..], b"\r\n"].concat();
    let fits = [&b"."[..], &[b'.'; 20], b"\r\n.\r\n"].concat();
    assert!(!decode(&[&fits]).decoder.errors().any());
    let long = [&b"x"[..], &line, b".\r\n"].concat();
    assert!(decode(&[&long]).decoder.errors().long_line);
    let large = [line.repeat(5), b".\r\n".to_vec()].concat();
    let decoded = decode(&[&large]);
    assert!(decoded.decoder.errors().too_large && !decoded.decoder.errors().long_line);
}

/// The same by the book, one octet at a time, for content without errors.
fn naive(wire: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut framed = b"\r\n".to_vec();
    framed.extend(wire);
    let end = framed.windows(5).position(|window| window == b"\r\n.\r\n")?;
    let mut content = Vec::new();
    for at in 2..end + 2 {
        let is_start = framed[at - 2..at] == *b"\r\n";
        if !(is_start && framed[at] == b'.') {
            content.push(framed[at]);
        }
    }
    Some((content, end + 3))
}

fn wire() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        &b"\r\n"[..],
        b"\r\n",
        b".",
        b".\r\n",
        b"x",
        b"text of it",
        b"\r",
        b"\n",
        b"\x80",
    ]);
    prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat())
}

#[test]
fn content_that_nobody_wants_is_passed_over() {
    let mut decoder = Decoder::new(20, 100);
    let mut content = Vec::new();
    decoder.decode(b"a\r\n", &mut content);
    decoder.discard();
    assert_eq!(decoder.decode(b"b\r\n.\r\nNOOP", &mut content), (6, true));
    assert_eq!(content, b"a\r\n");
}

/// What a message becomes, or that it is refused for a bare newline.
type Canonical = Result<Vec<u8>, ()>;

/// Lines by CRLF, and whether the last one has its CRLF.
fn split_lines(text: &[u8]) -> (Vec<&[u8]>, bool) {
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    if rest.is_empty() {
        return (lines, true);
    }
    lines.push(rest);
    (lines, false)
}

/// One line by CRLF, without it: the policy for what is bare inside.
fn treat_line(line: &[u8], policy: BareNewlines) -> Canonical {
    let mut treated = Vec::new();
    for byte in line {
        match (byte, policy) {
            (b'\r' | b'\n', BareNewlines::Refuse) => return Err(()),
            (b'\r' | b'\n', BareNewlines::Normalise) => treated.extend(b"\r\n"),
            _ => treated.push(*byte),
        }
    }
    Ok(treated)
}

/// DATA by the book, with the whole at hand: the content, and the octets up to and with the end.
fn naive_data(wire: &[u8], policy: BareNewlines) -> Option<(Canonical, usize)> {
    let framed = [b"\r\n", wire].concat();
    let end = framed.windows(5).position(|window| window == b"\r\n.\r\n")?;
    let (lines, is_whole) = split_lines(&wire[..end]);
    assert!(is_whole);
    let mut content = Vec::new();
    for line in lines {
        match treat_line(line.strip_prefix(b".").unwrap_or(line), policy) {
            Ok(treated) => content.extend([&treated[..], b"\r\n"].concat()),
            Err(()) => return Some((Err(()), end + 3)),
        }
    }
    Some((Ok(content), end + 3))
}

/// BDAT by the book, with the whole at hand.
fn naive_chunks(text: &[u8], policy: BareNewlines) -> Canonical {
    let (lines, is_whole) = split_lines(text);
    let mut content = Vec::new();
    for (place, line) in lines.iter().enumerate() {
        content.extend(treat_line(line, policy)?);
        if place + 1 < lines.len() || is_whole {
            content.extend(b"\r\n");
        }
    }
    if !content.is_empty() && !content.ends_with(b"\r\n") {
        content.extend(b"\r\n");
    }
    Ok(content)
}

/// What makes and breaks lines, in every combination up to `len_max`.
fn all_strings(len_max: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..=len_max).flat_map(|len| {
        let letters = move |mut number: usize| {
            let mut text = Vec::with_capacity(len);
            for _ in 0..len {
                text.push(b"\r\n.x"[number % 4]);
                number /= 4;
            }
            text
        };
        (0..4usize.pow(u32::try_from(len).unwrap())).map(letters)
    })
}

const POLICIES: [BareNewlines; 2] = [BareNewlines::Refuse, BareNewlines::Normalise];

fn decoder(framing: Framing, policy: BareNewlines) -> Decoder {
    Decoder::new(998, 1000).with_framing(framing).with_bare_newlines(policy)
}

/// Holds what a decoder has made of a message against what it should.
fn check_content(decoder: &Decoder, content: &[u8], expected: &Canonical, wire: &[u8]) {
    let is_refused = ContentErrors { bare_newline: true, ..ContentErrors::default() };
    let Ok(expected) = expected else {
        return assert_eq!(decoder.errors(), is_refused, "{wire:?}");
    };
    assert!(!decoder.errors().any(), "{wire:?}");
    assert_eq!(content, expected, "{wire:?}");
    let (lines, is_whole) = split_lines(content);
    assert!(is_whole, "{wire:?}");
    assert!(lines.iter().all(|line| !line.contains(&b'\r') && !line.contains(&b'\n')), "{wire:?}");
    let leading_dot = lines.iter().any(|line| line.starts_with(b"."));
    let size = u64::try_from(content.len()).unwrap();
    assert_eq!(decoder.summary(), ContentSummary { size, leading_dot }, "{wire:?}");
    // Sent on, it ends where we say and nowhere before.
    let mut outgoing = crate::output::Outgoing::default();
    outgoing.push_content(&bytes::Bytes::copy_from_slice(content), leading_dot);
    let sent = [&b"\r\n"[..], &outgoing.slices().collect::<Vec<_>>().concat()].concat();
    let end = sent.windows(5).position(|window| window == b"\r\n.\r\n");
    assert_eq!(end, Some(sent.len() - 5), "{wire:?}");
}

#[test]
fn every_mixture_of_newlines_and_dots_in_data_is_what_the_rules_say() {
    for policy in POLICIES {
        for wire in all_strings(8) {
            let expected = naive_data(&wire, policy);
            for step in [usize::MAX, 1] {
                let mut decoder = decoder(Framing::Dots, policy);
                let mut content = Vec::new();
                let (mut used, mut ended) = (0, false);
                while !ended && used < wire.len() {
                    let piece = &wire[used..used.saturating_add(step).min(wire.len())];
                    let (taken, end) = decoder.decode(piece, &mut content);
                    assert!(end || taken == piece.len());
                    (used, ended) = (used + taken, end);
                }
                assert_eq!(ended, expected.is_some(), "{wire:?}");
                if let Some((canonical, end)) = &expected {
                    assert_eq!(used, *end, "{wire:?}");
                    check_content(&decoder, &content, canonical, &wire);
                }
            }
        }
    }
}

#[test]
fn every_mixture_of_newlines_and_dots_in_chunks_is_what_the_rules_say() {
    for policy in POLICIES {
        for text in all_strings(8) {
            let expected = naive_chunks(&text, policy);
            for step in [8, 1] {
                let mut decoder = decoder(Framing::Chunks, policy);
                let mut content = Vec::new();
                for piece in text.chunks(step) {
                    let room = content.len() + decoder.appended_max(piece.len());
                    assert_eq!(decoder.decode(piece, &mut content), (piece.len(), false));
                    assert!(content.len() + 2 <= room);
                }
                let room = content.len() + 2;
                decoder.finish(&mut content);
                assert!(content.len() <= room);
                check_content(&decoder, &content, &expected, &text);
            }
        }
    }
}

#[test]
fn line_and_size_limits_hold_for_what_is_normalised() {
    let normalise =
        |size_max| Decoder::new(3, size_max).with_bare_newlines(BareNewlines::Normalise);
    let mut content = Vec::new();
    let mut decoder = normalise(15);
    decoder.decode(b"abc\nabc\rabc\r\n.\r\n", &mut content);
    assert_eq!((decoder.errors().any(), &content[..]), (false, &b"abc\r\nabc\r\nabc\r\n"[..]));
    let mut decoder = normalise(14);
    decoder.decode(b"abc\nabc\rabc\r\n.\r\n", &mut content);
    assert!(decoder.errors().too_large && !decoder.errors().long_line);
    let mut decoder = normalise(100);
    decoder.decode(b"abcd\n.\r\n", &mut content);
    assert!(decoder.errors().long_line);
}

proptest! {
    #[test]
    fn any_split_gives_the_same_result(wire in wire(), cuts in [0usize..120, 0usize..120]) {
        let low = cuts[0].min(cuts[1]).min(wire.len());
        let high = cuts[0].max(cuts[1]).min(wire.len());
        let whole = decode(&[&wire]);
        let split = decode(&[&wire[..low], &wire[low..high], &wire[high..]]);
        prop_assert_eq!(whole.ended, split.ended);
        prop_assert_eq!(whole.used, split.used);
        prop_assert_eq!(whole.decoder.errors(), split.decoder.errors());
        prop_assert_eq!(whole.decoder.summary(), split.decoder.summary());
        if !whole.decoder.errors().any() {
            prop_assert_eq!(whole.content, split.content);
        }
    }

    #[test]
    fn it_agrees_with_the_rules_read_literally(wire in wire()) {
        let decoded = decode(&[&wire]);
        let expected = naive(&wire);
        prop_assert_eq!(decoded.ended, expected.is_some());
        if let Some((content, used)) = expected {
            prop_assert_eq!(decoded.used, used);
            if !decoded.decoder.errors().any() {
                prop_assert_eq!(decoded.content, content);
            }
        }
    }
}

//! Runs the drivers of the fuzz targets on their corpora, and on inputs drawn at random.

use std::panic::catch_unwind;

use drivers::client_session::{Mail, Options};
use drivers::observer::Observer;
use drivers::rules::{self, Unit};
use proptest::prelude::*;

#[expect(unreachable_pub, reason = "the crate of the fuzz targets has them as its library")]
#[path = "../fuzz/drivers/lib.rs"]
mod drivers;

const CORPORA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");

#[test]
fn client_session() {
    fuzzing::replay(format!("{CORPORA}/client_session.txt"), drivers::client_session::run);
}

#[test]
fn content_decoder() {
    fuzzing::replay(format!("{CORPORA}/content_decoder.txt"), drivers::content_decoder::run);
}

#[test]
fn server_session() {
    fuzzing::replay(format!("{CORPORA}/server_session.txt"), drivers::server_session::run);
}

proptest! {
    #[test]
    fn any_input_keeps_the_rules(input in proptest::collection::vec(any::<u8>(), 0..600)) {
        drivers::client_session::run(&input);
        drivers::content_decoder::run(&input);
        drivers::server_session::run(&input);
    }
}

/// Lets an observer see a dialogue: lines of the client begin with `C`, those of the server with
/// `S`. Mails wait from the beginning.
fn observe(options: u8, dialogue: &[&str]) {
    let mut observer = Observer::new(Options::new(options));
    for key in 1..=4 {
        observer.note_mail(key, Mail::new(0));
    }
    for line in dialogue {
        let (who, text) = line.split_at(1);
        match who {
            "C" => observer.send(text.as_bytes()),
            _ => observer.receive(text.as_bytes()),
        }
    }
    assert!(!observer.must_be_over(), "the server is in order");
}

const HELLO: [&str; 3] = ["S220 mx\r\n", "CEHLO gw.example\r\n", "S250-mx\r\n250 PIPELINING\r\n"];
const BARE_HELLO: [&str; 3] = ["S220 mx\r\n", "CEHLO gw.example\r\n", "S250 mx\r\n"];
const GROUP: &str = "CMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";
const TAKEN: &str = "S250 ok\r\n250 ok\r\n354 go\r\n";

#[test]
fn the_observer_passes_what_is_right() {
    observe(0, &[&HELLO[..], &[GROUP, TAKEN, "Cx\r\n.\r\n", "S250 ok\r\n"]].concat());
    observe(1, &[&HELLO[..], &[GROUP, TAKEN, "Cx\r\n.\r\n", GROUP]].concat());
    observe(0, &[&BARE_HELLO[..], &["CMAIL FROM:<a@b>\r\n", "S250 ok\r\n"]].concat());
}

#[test]
fn the_observer_finds_what_is_wrong() {
    let refused = "S250 ok\r\n550 no\r\n354 go\r\n";
    let table: [(&[&str; 3], &[&str]); 13] = [
        (&["CEHLO gw.example\r\n", "S220 mx\r\n", "S250 mx\r\n"], &[]),
        (&HELLO, &["CNOOP\r\n"]),
        (&HELLO, &["CQUIT\r\n"]),
        (&HELLO, &["CRSET\r\n"]),
        (&HELLO, &["CMAIL FROM:<x@b>\r\n"]),
        (&HELLO, &["CMAIL FROM:<a@b> SIZE=3\r\n"]),
        (&HELLO, &["CMAIL FROM:<a@b>\r\nRCPT TO:<e@f>\r\n"]),
        (&HELLO, &["CMAIL FROM:<a@b>\r\nDATA\r\n"]),
        (&HELLO, &[GROUP, "Cx\r\n.\r\n"]),
        (&HELLO, &[GROUP, TAKEN, "Cy\r\n.\r\n"]),
        (&HELLO, &[GROUP, TAKEN, "Cx\r\n.\r\n", GROUP]),
        (&HELLO, &[GROUP, refused, "Cx\r\n.\r\n"]),
        (&BARE_HELLO, &[GROUP]),
    ];
    for (hello, rest) in table {
        let dialogue = [hello, rest].concat();
        assert!(catch_unwind(|| observe(0, &dialogue)).is_err(), "{dialogue:?} passed");
    }
}

#[test]
fn the_rules_of_replies_find_what_is_wrong() {
    let replies = rules::replies(b"250-mx\r\n250 2.0.0 SIZE\r\n550 5.1.1 no\r\n");
    assert_eq!((replies.len(), replies[1].code), (2, 550));
    rules::check_enhanced_code(&replies[1]);
    let long = [b"250 ".to_vec(), vec![b'x'; 510]].concat();
    let table: [&[u8]; 9] = [
        b"250 ok\n",
        b"250 ok",
        b"250-a\r\n251 b\r\n",
        b"250-a\r\n",
        b"250ok\r\n",
        b"150 ok\r\n",
        b"250 \x80\r\n",
        b"\r\n",
        &long,
    ];
    for wrong in table {
        assert!(catch_unwind(|| rules::replies(wrong)).is_err(), "{wrong:?} passed");
    }
    for wrong in ["250 ok\r\n", "250 5.0.0 ok\r\n", "250 2.0 ok\r\n", "250 2.0.0.0 ok\r\n"] {
        let check = || rules::check_enhanced_code(&rules::replies(wrong.as_bytes())[0]);
        assert!(catch_unwind(check).is_err(), "{wrong:?} passed");
    }
}

#[test]
fn the_rules_of_content_read_it_as_the_rfc_does() {
    assert_eq!(rules::end_of_data(b"a\n.\r\n\r\n.\r\nx"), Some(10));
    assert_eq!(rules::end_of_data(b"a\r\n.\n"), None);
    assert_eq!(rules::unstuffed(b"..a\r\n.b\r\n.\r\n"), b".a\r\nb\r\n");
    for text in [&b"\r"[..], b"\n", b"a\r\n\r", b"\n\r\n", b"\r\r\n"] {
        assert!(rules::has_bare_newline(text), "{text:?}");
    }
    assert!(!rules::has_bare_newline(b"a\r\n\r\n"));
    assert_eq!(rules::normalised(b"\ra\n\r\nb\r\r\n"), b"\r\na\r\n\r\nb\r\n\r\n");
    assert_eq!(rules::with_last_newline(b"a\r".to_vec()), b"a\r\r\n");
    assert_eq!(rules::longest_line(b"ab\r\nabc\r\n"), 3);
    assert!(rules::has_leading_dot(b"a\r\n.") && !rules::has_leading_dot(b"a."));
}

#[test]
fn the_rules_of_units_know_commands_content_and_chunks() {
    let wire = b"DATA\r\nNOOP\r\n.\r\nBDAT 6\r\nRSET\r\nbdat 0 last\r\nQUIT\nBDAT 9\r\nx";
    let chunk = |is_last, octets| Unit::Chunk { is_last, octets };
    let (data, other) = (Unit::Command { is_data: true }, Unit::Command { is_data: false });
    let expected = [data, Unit::Content, chunk(false, 23..29), chunk(true, 42..42), other];
    assert_eq!(rules::units(wire, &[6]), (expected.to_vec(), wire.len() - 9));
    for bad in [&b"BDAT\r\n"[..], b"BDAT 1\n", b"BDAT 1 x\r\n", b"BDATA 1\r\n", &[b'B'; 4]] {
        let expected: &[Unit] = if bad.ends_with(b"\n") { &[Unit::BadChunk] } else { &[] };
        assert_eq!(rules::units(bad, &[]).0, expected, "{bad:?}");
    }
}

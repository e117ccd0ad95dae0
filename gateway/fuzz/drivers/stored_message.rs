//! Messages and states of delivery as a backup returns them.
//!
//! The input is two bytes for the length of a state record, the record, then a message. Rules:
//!
//! * What is decoded, encoded and decoded again is the same.
//! * A message keeps its content, and all of its bytes.
//! * A state, whatever is noted in it, fits a state record.

use bytes::Bytes;
use fuzzing::Script;
use gateway::message::{DeliveryState, RECIPIENTS_MAX, RecipientStatus, StoredMessage};
use kvs_proto::STATE_SIZE_BYTES_MAX;
use smtp::Reply;

/// Decodes what `input` holds, changes the state, and goes the way back.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let length = usize::from(script.u16()) % (STATE_SIZE_BYTES_MAX + 1);
    let record = script.bytes(length);
    let body = script.bytes(usize::MAX);
    check_message(body);
    if let Ok(state) = DeliveryState::decode(record) {
        check_state(state, body);
    }
}

fn check_message(body: &[u8]) {
    let Ok(stored) = StoredMessage::decode(Bytes::copy_from_slice(body)) else { return };
    let message = &stored.message;
    assert!((1..=RECIPIENTS_MAX).contains(&message.envelope.recipients.len()));
    assert!(body.ends_with(&message.content));
    assert_eq!(whole(&stored), body, "the copies go on with the same bytes");
    let encoded = StoredMessage::new(message.clone());
    let again = StoredMessage::decode(whole(&encoded).into()).expect("what was encoded");
    assert_eq!(again.message.envelope, message.envelope);
    assert_eq!(again.message.content, message.content);
    assert_eq!(again.body.digest(), encoded.body.digest());
}

fn whole(stored: &StoredMessage) -> Vec<u8> {
    let (head, content) = stored.body.whole();
    [&head[..], content].concat()
}

/// Notes in a state what `choices` say.
fn check_state(mut state: DeliveryState, choices: &[u8]) {
    check_record(&state);
    let mut script = Script::new(choices);
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        let place = usize::from(script.u16()) % RECIPIENTS_MAX;
        let what = script.byte();
        let reply = Reply::local(450 + u16::from(what >> 5), (4, 2, 0), &TEXT[..usize::from(what)]);
        // As if the next hop had said it.
        let reply = Reply { is_ours: false, ..reply };
        match what % 4 {
            0 => state.set_status(place, RecipientStatus::Settled),
            1 => state.set_status(place, RecipientStatus::Failed),
            2 => state.explain(place, &reply, "192.0.2.1:25"),
            _ => state.set_status(place, RecipientStatus::Open),
        }
        if what % 4 == 2 {
            let noted = state.explanation(place).expect("just noted");
            assert_eq!((&noted.reply, &*noted.next_hop), (&reply, "192.0.2.1:25"));
        }
    }
    check_record(&state);
}

/// What does not fit is cut, so only statuses and numbers are sure to come back.
fn check_record(state: &DeliveryState) {
    let record = state.encode();
    assert!(record.len() <= STATE_SIZE_BYTES_MAX, "a state fits a state record");
    let again = DeliveryState::decode(&record).expect("what was encoded");
    assert_eq!((again.attempts, again.due_unix_ms), (state.attempts, state.due_unix_ms));
    assert_eq!(again.warned, state.warned);
    for place in 0..RECIPIENTS_MAX {
        assert_eq!(again.status(place), state.status(place));
    }
    assert_eq!(again.encode(), record, "what was cut is not cut again");
}

const STEPS_MAX: usize = 50;
const TEXT: &str = match str::from_utf8(&[b'x'; 255]) {
    Ok(text) => text,
    Err(_) => panic!("ASCII"),
};

//! What a register keeps beside a record to tell a repeated swap from somebody else's.
//!
//! A swap whose answer is lost may have been carried out, and is asked for again. By its version
//! alone it would conflict with itself; by its content alone it might be taken for an equal one
//! that another gateway has made. So each value names the life that wrote it.

use serde::{Deserialize, Serialize};

use crate::replication::record::Record;

/// One life of a gateway's process, drawn at random when it starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriterId(pub u64);

/// A record as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Who wrote it.
    pub writer: WriterId,
    /// What.
    pub record: Record,
}

/// What becomes of a swap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// It replaces what is there.
    Replaces,
    /// It has been carried out before: the answer to that was lost.
    IsMade,
    /// Somebody else has changed the record.
    Conflicts,
}

impl Stored {
    /// What becomes of this if that is present.
    pub fn judge(&self, present: Option<&Stored>) -> Judgement {
        let version = present.map_or(0, |it| it.record.version);
        if present == Some(self) {
            Judgement::IsMade
        } else if version.checked_add(1) == Some(self.record.version) {
            Judgement::Replaces
        } else {
            Judgement::Conflicts
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::replication::record::RecordedMember;
    use kvs_proto::{Epoch, Incarnation};

    pub(crate) fn record(version: u64, epoch: u64) -> Record {
        let member = RecordedMember { server: "a".into(), incarnation: Incarnation(u64::MAX) };
        Record {
            version,
            epoch: Epoch(epoch),
            members: vec![member],
            joining: vec![],
            queues: vec!["q".into()],
            lease_ms: 700,
        }
    }

    fn stored(writer: u64, version: u64, epoch: u64) -> Stored {
        Stored { writer: WriterId(writer), record: record(version, epoch) }
    }

    #[test]
    fn a_swap_replaces_the_version_before_it_and_no_other() {
        let present = stored(1, 6, 2);
        assert_eq!(stored(2, 7, 3).judge(Some(&present)), Judgement::Replaces);
        assert_eq!(stored(2, 1, 1).judge(None), Judgement::Replaces);
        for version in [0, 5, 6, 8] {
            assert_eq!(stored(2, version, 3).judge(Some(&present)), Judgement::Conflicts);
        }
        assert_eq!(stored(2, 2, 1).judge(None), Judgement::Conflicts);
        assert_eq!(stored(2, 0, 1).judge(Some(&stored(1, u64::MAX, 1))), Judgement::Conflicts);
    }

    #[test]
    fn a_repeated_swap_is_made_and_an_equal_one_of_another_life_conflicts() {
        let present = stored(1, 6, 2);
        assert_eq!(stored(1, 6, 2).judge(Some(&present)), Judgement::IsMade);
        assert_eq!(stored(2, 6, 2).judge(Some(&present)), Judgement::Conflicts);
        assert_eq!(stored(1, 6, 3).judge(Some(&present)), Judgement::Conflicts);
    }

    #[test]
    fn a_value_is_read_as_it_was_written() {
        let text = serde_json::to_string(&stored(u64::MAX, 6, 2)).unwrap();
        assert!(text.starts_with("{\"writer\":18446744073709551615,\"record\":{"), "{text}");
        assert_eq!(serde_json::from_str::<Stored>(&text).unwrap(), stored(u64::MAX, 6, 2));
    }
}

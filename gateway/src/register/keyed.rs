//! A register in a store of keys and values with revisions.

use super::stored::{Judgement, Stored, WriterId};
use super::{Document, Documents, Engine};
use crate::replication::record::{Record, RegisterAnswer, RegisterCall};

/// Begins every key.
const PREFIX: &str = "/hikyaku/";

/// What is asked of the store. Any error means that nothing is known: what was asked for may have
/// been carried out all the same.
pub(super) trait Store: Send {
    /// The value of a key, as the last change that was made by anybody left it.
    fn get(&mut self, key: &str) -> Result<Option<Kept>, String>;

    /// Gives the key that value, if it still has that revision (0: if there is no such key).
    /// Returns `None` if that was done, and otherwise what is there instead.
    fn replace(
        &mut self,
        key: &str,
        revision: i64,
        value: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, String>;
}

/// A value, and the revision of the store that gave it to its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    pub(super) revision: i64,
    pub(super) value: Vec<u8>,
}

/// The records in such a store, one value each.
pub(super) struct KeyedRegister<S> {
    store: S,
    /// Our life, in what we write.
    writer: WriterId,
}

impl<S: Store> KeyedRegister<S> {
    pub(super) fn new(store: S, writer: WriterId) -> KeyedRegister<S> {
        KeyedRegister { store, writer }
    }

    fn read_record(&mut self, key: &str) -> Result<RegisterAnswer, String> {
        let kept = self.store.get(key)?;
        let stored = kept.map(|kept| parse(key, &kept.value)).transpose()?;
        Ok(RegisterAnswer::Read(stored.map(|stored| stored.record)))
    }

    fn swap_record(&mut self, key: &str, record: &Record) -> Result<RegisterAnswer, String> {
        let wanted = Stored { writer: self.writer, record: record.clone() };
        let present = self.store.get(key)?;
        let stored = present.as_ref().map(|kept| parse(key, &kept.value)).transpose()?;
        match wanted.judge(stored.as_ref()) {
            Judgement::IsMade => return Ok(RegisterAnswer::Swapped),
            Judgement::Conflicts => return Ok(RegisterAnswer::Conflict),
            Judgement::Replaces => {}
        }
        let value = serde_json::to_vec(&wanted).map_err(|error| error.to_string())?;
        let revision = present.map_or(0, |kept| kept.revision);
        match self.store.replace(key, revision, value)? {
            None => Ok(RegisterAnswer::Swapped),
            // An earlier try of ours may have come in between, or the store may have been asked
            // more than once on the way.
            Some(value) if parse(key, &value).as_ref() == Ok(&wanted) => {
                Ok(RegisterAnswer::Swapped)
            }
            Some(_) => Ok(RegisterAnswer::Conflict),
        }
    }
}

impl<S: Store> Engine for KeyedRegister<S> {
    fn call(&mut self, key: &str, call: &RegisterCall) -> RegisterAnswer {
        let key = format!("{PREFIX}{key}");
        let answer = match call {
            RegisterCall::Read => self.read_record(&key),
            RegisterCall::Swap(record) => self.swap_record(&key, record),
        };
        answer.unwrap_or_else(RegisterAnswer::Failed)
    }
}

impl<S: Store> Documents for KeyedRegister<S> {
    fn read(&mut self, key: &str) -> Result<Option<Document>, String> {
        let key = format!("{PREFIX}{key}");
        let kept = self.store.get(&key)?;
        kept.map(|kept| parse_document(&key, &kept.value)).transpose()
    }

    fn swap(&mut self, key: &str, document: &Document) -> Result<bool, String> {
        let key = format!("{PREFIX}{key}");
        let present = self.store.get(&key)?;
        let before = present.as_ref().map(|kept| parse_document(&key, &kept.value)).transpose()?;
        if before.map_or(0, |it| it.version).checked_add(1) != Some(document.version) {
            return Ok(false);
        }
        let value = serde_json::to_vec(document).map_err(|error| error.to_string())?;
        let revision = present.map_or(0, |kept| kept.revision);
        let instead = self.store.replace(&key, revision, value)?;
        // The store may have been asked more than once on the way.
        Ok(instead.is_none_or(|value| parse_document(&key, &value).as_ref() == Ok(document)))
    }
}

fn parse_document(key: &str, value: &[u8]) -> Result<Document, String> {
    serde_json::from_slice(value).map_err(|error| format!("the value of {key}: {error}"))
}

/// What is no record of ours is an error, and never an empty place.
fn parse(key: &str, value: &[u8]) -> Result<Stored, String> {
    serde_json::from_slice(value).map_err(|error| format!("the value of {key}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};
    use std::sync::{Arc, Mutex};

    use super::super::document::keep;
    use super::super::stored::tests::record;
    use super::*;

    /// What becomes of one request to the store.
    #[derive(Clone, Copy)]
    enum Fate {
        Answered,
        /// It does not get there.
        Unreached,
        /// It is carried out, and the answer lost.
        AnswerLost,
        /// It is carried out, sent again on the way, and that is answered.
        SentTwice,
    }

    #[derive(Default)]
    struct Values {
        kept: BTreeMap<String, Kept>,
        revision: i64,
    }

    /// A store that several registers share.
    #[derive(Clone, Default)]
    struct FakeStore {
        values: Arc<Mutex<Values>>,
        /// Of the next requests of this register; the others are answered.
        fates: VecDeque<Fate>,
    }

    impl FakeStore {
        fn fate(&mut self) -> Result<Fate, String> {
            match self.fates.pop_front().unwrap_or(Fate::Answered) {
                Fate::Unreached => Err("unreached".into()),
                fate => Ok(fate),
            }
        }
    }

    impl Values {
        fn replace(&mut self, key: &str, revision: i64, value: &[u8]) -> Option<Vec<u8>> {
            let present = self.kept.get(key);
            if present.map_or(0, |kept| kept.revision) != revision {
                return Some(present.map_or(Vec::new(), |kept| kept.value.clone()));
            }
            self.revision += 1;
            let kept = Kept { revision: self.revision, value: value.to_vec() };
            self.kept.insert(key.into(), kept);
            None
        }
    }

    impl Store for FakeStore {
        fn get(&mut self, key: &str) -> Result<Option<Kept>, String> {
            self.fate()?;
            Ok(self.values.lock().unwrap().kept.get(key).cloned())
        }

        fn replace(
            &mut self,
            key: &str,
            revision: i64,
            value: Vec<u8>,
        ) -> Result<Option<Vec<u8>>, String> {
            let fate = self.fate()?;
            let mut values = self.values.lock().unwrap();
            let answer = values.replace(key, revision, &value);
            match fate {
                Fate::AnswerLost => Err("lost".into()),
                Fate::SentTwice => Ok(values.replace(key, revision, &value)),
                _ => Ok(answer),
            }
        }
    }

    fn register(store: &FakeStore, writer: u64) -> KeyedRegister<FakeStore> {
        KeyedRegister::new(store.clone(), WriterId(writer))
    }

    fn swap(version: u64) -> RegisterCall {
        RegisterCall::Swap(record(version, 1))
    }

    #[test]
    fn records_are_kept_by_key_one_value_each() {
        let store = FakeStore::default();
        let mut ours = register(&store, 1);
        assert_eq!(ours.call("gw/main/3", &RegisterCall::Read), RegisterAnswer::Read(None));
        assert_eq!(ours.call("gw/main/3", &swap(1)), RegisterAnswer::Swapped);
        assert_eq!(ours.call("gw/main/3", &swap(2)), RegisterAnswer::Swapped);
        assert_eq!(ours.call("gw/main/4", &RegisterCall::Read), RegisterAnswer::Read(None));
        let read = register(&store, 2).call("gw/main/3", &RegisterCall::Read);
        assert_eq!(read, RegisterAnswer::Read(Some(record(2, 1))));
        assert!(store.values.lock().unwrap().kept.keys().eq(["/hikyaku/gw/main/3"]));
    }

    #[test]
    fn of_two_that_replace_one_version_one_wins() {
        let store = FakeStore::default();
        assert_eq!(register(&store, 1).call("g", &swap(1)), RegisterAnswer::Swapped);
        assert_eq!(register(&store, 2).call("g", &swap(1)), RegisterAnswer::Conflict);
        assert_eq!(register(&store, 2).call("g", &swap(3)), RegisterAnswer::Conflict);
    }

    #[test]
    fn what_failed_before_it_was_carried_out_is_done_when_it_is_repeated() {
        let store = FakeStore::default();
        let mut ours = register(&store, 1);
        ours.store.fates = [Fate::Unreached, Fate::Answered, Fate::Unreached].into();
        for _ in 0..2 {
            let answer = ours.call("g", &swap(1));
            assert!(matches!(answer, RegisterAnswer::Failed(_)), "{answer:?}");
            assert!(store.values.lock().unwrap().kept.is_empty());
        }
        assert_eq!(ours.call("g", &swap(1)), RegisterAnswer::Swapped);
    }

    #[test]
    fn a_swap_whose_answer_was_lost_does_not_conflict_with_itself() {
        let store = FakeStore::default();
        let mut ours = register(&store, 1);
        ours.store.fates = [Fate::Answered, Fate::AnswerLost].into();
        let answer = ours.call("g", &swap(1));
        assert!(matches!(answer, RegisterAnswer::Failed(_)), "{answer:?}");
        assert_eq!(ours.call("g", &swap(1)), RegisterAnswer::Swapped);
        assert_eq!(store.values.lock().unwrap().revision, 1, "it was made once");
        assert_eq!(ours.call("g", &swap(2)), RegisterAnswer::Swapped);
        assert_eq!(ours.call("g", &swap(1)), RegisterAnswer::Conflict, "it is long past");
    }

    #[test]
    fn an_equal_swap_of_another_life_conflicts_although_ours_may_have_been_made() {
        let store = FakeStore::default();
        let mut ours = register(&store, 1);
        ours.store.fates = [Fate::Answered, Fate::Unreached].into();
        let answer = ours.call("g", &swap(1));
        assert!(matches!(answer, RegisterAnswer::Failed(_)), "{answer:?}");
        assert_eq!(register(&store, 2).call("g", &swap(1)), RegisterAnswer::Swapped);
        assert_eq!(ours.call("g", &swap(1)), RegisterAnswer::Conflict);
    }

    #[test]
    fn a_swap_that_reaches_the_store_twice_is_made_once() {
        let store = FakeStore::default();
        let mut ours = register(&store, 1);
        ours.store.fates = [Fate::Answered, Fate::SentTwice].into();
        assert_eq!(ours.call("g", &swap(1)), RegisterAnswer::Swapped);
        assert_eq!(store.values.lock().unwrap().revision, 1);
    }

    #[test]
    fn texts_are_kept_beside_the_records_and_of_two_that_replace_one_version_one_wins() {
        let store = FakeStore::default();
        let mut ours = register(&store, 1);
        assert_eq!(ours.read("gw/settings"), Ok(None));
        let text = |version, text: &str| Document { version, text: text.into() };
        assert_eq!(ours.swap("gw/settings", &text(1, "a = 1\n")), Ok(true));
        assert_eq!(register(&store, 2).swap("gw/settings", &text(1, "b")), Ok(false));
        assert_eq!(register(&store, 2).swap("gw/settings", &text(3, "b")), Ok(false));
        ours.store.fates = [Fate::Answered, Fate::SentTwice].into();
        assert_eq!(ours.swap("gw/settings", &text(2, "c")), Ok(true));
        assert_eq!(keep(&mut ours, "gw/settings", "c"), Ok(Some(2)), "it is there already");
        assert_eq!(keep(&mut ours, "gw/settings", "d"), Ok(Some(3)));
        assert_eq!(ours.read("gw/settings"), Ok(Some(text(3, "d"))));
        assert!(store.values.lock().unwrap().kept.keys().eq(["/hikyaku/gw/settings"]));
        ours.store.fates = [Fate::Answered, Fate::Answered, Fate::AnswerLost].into();
        assert!(keep(&mut ours, "gw/settings", "e").is_err());
        assert_eq!(keep(&mut ours, "gw/settings", "e"), Ok(Some(4)), "it was done");
        store.values.lock().unwrap().replace("/hikyaku/gw/owner", 0, b"{}");
        assert!(ours.read("gw/owner").unwrap_err().contains("/hikyaku/gw/owner"));
    }

    #[test]
    fn a_value_that_is_not_ours_is_an_error_and_never_an_empty_place() {
        let store = FakeStore::default();
        store.values.lock().unwrap().replace("/hikyaku/g", 0, b"{\"record\": 7}");
        let mut ours = register(&store, 1);
        for call in [RegisterCall::Read, swap(1)] {
            match ours.call("g", &call) {
                RegisterAnswer::Failed(why) => assert!(why.contains("/hikyaku/g"), "{why}"),
                answer => panic!("{answer:?}"),
            }
        }
    }
}

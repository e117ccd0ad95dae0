//! The few of etcd's messages that a register needs, and how they are sent.
//!
//! Written from `rpc.proto` and `kv.proto` of etcd's API, of which version 3 only ever gets new
//! fields. Fields that are not here are not sent, and skipped when they come. By hand, because code
//! that is generated from those files needs their compiler on every machine that builds this one.

use http::uri::PathAndQuery;
use prost::{Message, Oneof};
use tonic::client::Grpc;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::super::keyed::Kept;

/// `KV.Range`, from [`Range`] to [`RangeAnswer`].
pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";

/// `KV.Txn`, from [`Change`] to [`TransactionAnswer`].
pub(super) const TRANSACTION: &str = "/etcdserverpb.KV/Txn";

/// `Auth.Authenticate`, from [`Sign`] to [`Authenticated`].
pub(super) const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// Sends a request over a connection and waits for its answer.
pub(super) async fn unary<A: Message + Default + 'static>(
    channel: Channel,
    method: &'static str,
    message: impl Message + 'static,
    token: Option<AsciiMetadataValue>,
) -> Result<A, Status> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    let path = PathAndQuery::from_static(method);
    Ok(client.unary(request, path, ProstCodec::default()).await?.into_inner())
}

/// A transaction: if the key has that revision (0: does not exist), it gets the value; otherwise it
/// is read.
pub(super) fn compare_and_put(key: &str, revision: i64, value: Vec<u8>) -> Change {
    let condition = Compare {
        target: MOD_REVISION,
        key: key.into(),
        value: Some(Compared::ModRevision(revision)),
        ..Compare::default()
    };
    let put = Put { key: key.into(), value };
    Change {
        conditions: vec![condition],
        then: vec![Operation { request: Some(Requested::Put(put)) }],
        otherwise: vec![Operation { request: Some(Requested::Range(Range::of(key))) }],
    }
}

/// `RangeRequest`: one key, linearizable.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Range {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

/// `RangeResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeAnswer {
    #[prost(message, repeated, tag = "2")]
    found: Vec<KeyValue>,
}

/// `TxnRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Change {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    then: Vec<Operation>,
    #[prost(message, repeated, tag = "3")]
    otherwise: Vec<Operation>,
}

/// `TxnResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TransactionAnswer {
    #[prost(bool, tag = "2")]
    succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    answers: Vec<OperationAnswer>,
}

/// `AuthenticateRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Sign {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) password: String,
}

/// `AuthenticateResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Authenticated {
    #[prost(string, tag = "2")]
    pub(super) token: String,
}

impl Range {
    pub(super) fn of(key: &str) -> Range {
        Range { key: key.into() }
    }
}

impl RangeAnswer {
    /// The value, if there is one.
    pub(super) fn first(self) -> Option<Kept> {
        let found = self.found.into_iter().next()?;
        Some(Kept { revision: found.mod_revision, value: found.value })
    }
}

impl TransactionAnswer {
    /// `None` if the condition held; otherwise what is there, which is nothing if the key is gone.
    pub(super) fn refused_for(self) -> Option<Vec<u8>> {
        if self.succeeded {
            return None;
        }
        let found = self.answers.into_iter().find_map(|answer| answer.range?.first());
        Some(found.map_or(Vec::new(), |kept| kept.value))
    }
}

/// `KeyValue`.
#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(int64, tag = "3")]
    mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

/// `Compare`. The default of its `result` is EQUAL.
#[derive(Clone, PartialEq, Message)]
struct Compare {
    #[prost(int32, tag = "1")]
    result: i32,
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(oneof = "Compared", tags = "6")]
    value: Option<Compared>,
}

/// `Compare.target_union`.
#[derive(Clone, PartialEq, Oneof)]
enum Compared {
    #[prost(int64, tag = "6")]
    ModRevision(i64),
}

/// `Compare.CompareTarget.MOD`.
const MOD_REVISION: i32 = 2;

/// `RequestOp`.
#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(oneof = "Requested", tags = "1, 2")]
    request: Option<Requested>,
}

/// `RequestOp.request`.
#[derive(Clone, PartialEq, Oneof)]
enum Requested {
    #[prost(message, tag = "1")]
    Range(Range),
    #[prost(message, tag = "2")]
    Put(Put),
}

/// `PutRequest`.
#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `ResponseOp`, of which only the answer to a range matters.
#[derive(Clone, PartialEq, Message)]
struct OperationAnswer {
    #[prost(message, optional, tag = "1")]
    range: Option<RangeAnswer>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_looks_as_etcd_s_documents_say() {
        let bytes = compare_and_put("k", 0, b"v".to_vec()).encode_to_vec();
        // compare { target: MOD, key, mod_revision: 0 }, a condition although the revision is 0.
        let compare = [0x0a, 7, 0x10, 2, 0x1a, 1, b'k', 0x30, 0];
        // success { request_put { key, value } }
        let put = [0x12, 8, 0x12, 6, 0x0a, 1, b'k', 0x12, 1, b'v'];
        // failure { request_range { key } }
        let range = [0x1a, 5, 0x0a, 3, 0x0a, 1, b'k'];
        assert_eq!(bytes, [&compare[..], &put, &range].concat());
    }

    #[test]
    fn what_stands_in_the_way_of_a_change_is_read_from_its_answer() {
        // A header that is skipped, and a range { kvs { key, mod_revision: 5, value } }.
        let refused = [
            0x0a, 2, 0x18, 9, 0x1a, 14, 0x0a, 12, 0x0a, 0, 0x12, 8, 0x0a, 1, b'k', 0x18, 5, 0x2a,
            1, b'v',
        ];
        let answer = TransactionAnswer::decode(&refused[..]).unwrap();
        assert_eq!(answer.refused_for(), Some(b"v".to_vec()));
        // succeeded: true, with the answer to a put.
        let done = TransactionAnswer::decode(&[0x10, 1, 0x1a, 2, 0x12, 0][..]).unwrap();
        assert_eq!(done.refused_for(), None);
        let gone = TransactionAnswer::decode(&[0x1a, 2, 0x0a, 0][..]).unwrap();
        assert_eq!(gone.refused_for(), Some(Vec::new()));
    }
}

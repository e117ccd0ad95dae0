//! Mutual proof of a shared secret; the secret itself never travels.
//!
//! Each end proves by HMAC-SHA256 (RFC 2104, FIPS 180-4) over everything that the two have said: its
//! own role, the version, the server's incarnation, both nonces and the account. The role keeps one
//! end's proof from being played back as the other's, the nonces keep an old connection's proof from
//! being played back on a new one.

use alloc::boxed::Box;
use core::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{Incarnation, Version};

/// Bytes of each end's nonce.
pub const NONCE_SIZE_BYTES: usize = 16;
/// Bytes of a proof.
pub const PROOF_SIZE_BYTES: usize = 32;

/// An account's secret. Its debug form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// A secret of any length. Below 16 random bytes it can be guessed from a recorded handshake.
    pub fn new(bytes: &[u8]) -> Secret {
        Secret(bytes.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// The nonce number `number` of one who drew `key` at random once. As good as random to everybody
/// who does not know the key, as long as no number is used twice.
pub fn nonce(key: &Secret, number: u64) -> [u8; NONCE_SIZE_BYTES] {
    let mut mac = keyed(key);
    mac.update(b"hikyaku link nonce");
    mac.update(&number.to_le_bytes());
    let bytes: [u8; PROOF_SIZE_BYTES] = mac.finalize().into_bytes().into();
    *bytes.first_chunk().expect("a proof is longer than a nonce")
}

/// Whose proof it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The end that connected.
    Client,
    /// The end that listens.
    Server,
}

/// What both ends know after `Hello` and `Challenge`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handshake<'a> {
    /// The version that the server chose.
    pub version: Version,
    /// The server's life.
    pub incarnation: Incarnation,
    /// Drawn at random by the client for this connection.
    pub client_nonce: [u8; NONCE_SIZE_BYTES],
    /// Drawn at random by the server for this connection.
    pub server_nonce: [u8; NONCE_SIZE_BYTES],
    /// Which account.
    pub account: &'a [u8],
}

impl Handshake<'_> {
    /// The proof of `role` that it knows `secret`.
    pub fn proof(&self, role: Role, secret: &Secret) -> [u8; PROOF_SIZE_BYTES] {
        self.mac(role, secret).finalize().into_bytes().into()
    }

    /// Whether `proof` is the one of `role`. Takes the same time wherever they differ.
    pub fn verify(&self, role: Role, secret: &Secret, proof: &[u8; PROOF_SIZE_BYTES]) -> bool {
        self.mac(role, secret).verify_slice(proof).is_ok()
    }

    fn mac(&self, role: Role, secret: &Secret) -> Hmac<Sha256> {
        let mut mac = keyed(secret);
        mac.update(match role {
            Role::Client => b"hikyaku link client",
            Role::Server => b"hikyaku link server",
        });
        mac.update(&[self.version as u8]);
        mac.update(&self.incarnation.0.to_le_bytes());
        mac.update(&self.client_nonce);
        mac.update(&self.server_nonce);
        // The account comes last, so that its length needs no prefix to be unambiguous.
        mac.update(self.account);
        mac
    }
}

fn keyed(key: &Secret) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(&key.0).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    fn handshake() -> Handshake<'static> {
        Handshake {
            version: Version::V1,
            incarnation: Incarnation(7),
            client_nonce: [1; NONCE_SIZE_BYTES],
            server_nonce: [2; NONCE_SIZE_BYTES],
            account: b"gateway",
        }
    }

    #[test]
    fn the_right_secret_proves_itself_and_another_does_not() {
        let secret = Secret::new(b"a long shared secret");
        let proof = handshake().proof(Role::Client, &secret);
        assert!(handshake().verify(Role::Client, &secret, &proof));
        assert!(!handshake().verify(Role::Client, &Secret::new(b"another"), &proof));
    }

    #[test]
    fn a_proof_serves_one_role_and_one_connection() {
        let secret = Secret::new(b"a long shared secret");
        let proof = handshake().proof(Role::Client, &secret);
        assert!(!handshake().verify(Role::Server, &secret, &proof));
        for other in [
            Handshake { client_nonce: [3; 16], ..handshake() },
            Handshake { server_nonce: [3; 16], ..handshake() },
            Handshake { incarnation: Incarnation(8), ..handshake() },
            Handshake { account: b"gatewaz", ..handshake() },
        ] {
            assert!(!other.verify(Role::Client, &secret, &proof));
        }
    }

    #[test]
    fn nonces_differ_by_number_and_key() {
        let key = Secret::new(b"drawn at random");
        assert_ne!(nonce(&key, 1), nonce(&key, 2));
        assert_ne!(nonce(&key, 1), nonce(&Secret::new(b"drawn again"), 1));
    }

    #[test]
    fn a_secret_does_not_show_in_logs() {
        assert!(!format!("{:?}", Secret::new(b"hunter2")).contains("hunter2"));
    }
}

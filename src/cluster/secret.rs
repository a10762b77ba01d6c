//! What all processes of a run know and nobody else.

use std::fmt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

/// Shorter ones could be guessed.
const SHORTEST: usize = 16;
/// How many bytes a proof has.
pub const PROOF: usize = 32;

/// The secret; it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// This text, without white space around it.
    ///
    /// # Errors
    /// When it is too short to be one.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() < SHORTEST {
            return Err(format!(
                "a secret has at least {SHORTEST} characters; `openssl rand -hex 32` draws one"
            ));
        }
        Ok(Self(text.as_bytes().to_vec()))
    }

    /// What stands in this file.
    ///
    /// # Errors
    /// When it cannot be read, or is too short.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        Self::new(&text)
    }

    /// A random one.
    pub fn draw() -> Self {
        Self(draw_text().into_bytes())
    }

    /// Proves, to whoever knows the secret, that this process does. No part may be moved into
    /// another one: each is counted.
    pub fn prove(&self, parts: &[&[u8]]) -> [u8; PROOF] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Whether `proof` is one of these parts, in a time that tells nothing.
    pub fn is_proof(&self, parts: &[&[u8]], proof: &[u8; PROOF]) -> bool {
        self.mac(parts).verify_slice(proof).is_ok()
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        // Invariant: HMAC takes keys of any length.
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0).expect("a key");
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

/// A random secret as text: 244 random bits.
pub fn draw_text() -> String {
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    format!("{}{}", one.as_simple(), other.as_simple())
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_parts_and_its_secret_alone() {
        let secret = Secret::new("0123456789abcdef\n").expect("long enough");
        let proof = secret.prove(&[b"ab", b"c"]);
        assert!(secret.is_proof(&[b"ab", b"c"], &proof));
        assert!(!secret.is_proof(&[b"a", b"bc"], &proof));
        assert!(!Secret::draw().is_proof(&[b"ab", b"c"], &proof));
    }

    #[test]
    fn short_secrets_are_refused_and_none_is_shown() {
        assert!(Secret::new(" too short \n").is_err());
        let secret = Secret::new("0123456789abcdef").expect("long enough");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_ne!(draw_text(), draw_text());
    }
}

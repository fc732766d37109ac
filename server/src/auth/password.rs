//! Passwords become bcrypt hashes before they are proposed, and are compared with hashes. Both take long, on purpose.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::sync::Semaphore;

/// bcrypt looks at no more bytes than this.
const MAX_BYTES: usize = 72;

/// bcrypt's costs, and what is taken instead of others.
const COSTS: std::ops::RangeInclusive<u32> = 4..=31;
const DEFAULT_COST: u32 = 10;

/// Why a password has no hash. The text is that of Go's bcrypt; clients get it without a code of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// The rest would not count.
    #[error("bcrypt: password length exceeds 72 bytes")]
    TooLong,
    /// The work was aborted, or there is no randomness.
    #[error("bcrypt: {0}")]
    Failed(String),
}

/// The work on passwords: on threads of their own, no more at once than there are processors.
pub struct Passwords {
    cost: u32,
    turns: Semaphore,
}

impl Passwords {
    /// Hashes of this cost; the default one if it is out of bounds.
    pub fn new(cost: u32) -> Self {
        let known = COSTS.contains(&cost);
        if !known {
            tracing::warn!(cost, default = DEFAULT_COST, "--bcrypt-cost is not within {COSTS:?}, taking the default");
        }
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Passwords { cost: if known { cost } else { DEFAULT_COST }, turns: Semaphore::new(processors) }
    }

    /// The hash of a password in Base64, as commands carry it.
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        if password.len() > MAX_BYTES {
            return Err(PasswordError::TooLong);
        }
        let cost = self.cost;
        let hash = self.work(move || bcrypt::hash(password, cost)).await?;
        let hash = hash.map_err(|error| PasswordError::Failed(error.to_string()))?;
        Ok(STANDARD.encode(hash))
    }

    /// Whether it is the password of that hash. A hash that is none fits no password.
    pub async fn verify(&self, password: String, hash: Bytes) -> Result<bool, PasswordError> {
        let verify = move || str::from_utf8(&hash).is_ok_and(|hash| bcrypt::verify(password, hash).unwrap_or(false));
        self.work(verify).await
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PasswordError> {
        let _turn = self.turns.acquire().await.expect("it is never closed");
        tokio::task::spawn_blocking(work).await.map_err(|error| PasswordError::Failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_fits_its_password_alone() {
        let passwords = Passwords::new(4);
        let hash = passwords.hash("secret".to_owned()).await.unwrap();
        let stored = Bytes::from(STANDARD.decode(hash).unwrap());
        assert!(stored.starts_with(b"$2b$04$"));
        for (password, fits) in [("secret", true), ("Secret", false), ("", false)] {
            assert_eq!(passwords.verify(password.to_owned(), stored.clone()).await, Ok(fits), "{password}");
        }
        // As etcd makes them.
        let of_etcd = Bytes::from_static(b"$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy");
        assert_eq!(passwords.verify("secret".to_owned(), of_etcd).await, Ok(false));
        assert_eq!(passwords.verify(String::new(), Bytes::new()).await, Ok(false));
    }

    #[tokio::test]
    async fn what_bcrypt_would_ignore_is_refused() {
        let passwords = Passwords::new(4);
        assert_eq!(passwords.hash("x".repeat(73)).await, Err(PasswordError::TooLong));
        assert!(passwords.hash("x".repeat(72)).await.is_ok());
        assert_eq!((Passwords::new(3).cost, Passwords::new(32).cost), (10, 10));
    }
}

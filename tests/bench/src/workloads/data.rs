//! Keys and values that workloads share.

use std::sync::{Arc, OnceLock};

/// All keys that a cluster is filled with.
pub const PREFIX: &str = "/registry/pods/";
/// Keys of one namespace.
pub const NAMESPACE: u64 = 1000;

/// The key of that number; 32 bytes.
pub fn key(number: u64) -> Vec<u8> {
    format!("{PREFIX}{:05}/{number:011}", number / NAMESPACE).into_bytes()
}

/// The end of the range of all keys that begin with `prefix`.
pub fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Random numbers (splitmix64), the same in each run.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xd134_2543_de82_ef95))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// Values that do not compress: a store must not look good by what it makes of zeros.
#[derive(Clone)]
pub struct Values {
    pool: Arc<[u8]>,
    random: Random,
    bytes: usize,
}

impl Values {
    pub fn new(bytes: usize, seed: u64) -> Self {
        const POOL: usize = 4 << 20;
        static SHARED: OnceLock<Arc<[u8]>> = OnceLock::new();
        let pool = SHARED.get_or_init(|| {
            let mut random = Random::new(1);
            (0..POOL / 8).flat_map(|_| random.next().to_le_bytes()).collect()
        });
        assert!(bytes < POOL, "values are smaller than {POOL} bytes");
        Self { pool: Arc::clone(pool), random: Random::new(seed), bytes }
    }

    /// Puts another value into `value`.
    pub fn write(&mut self, value: &mut Vec<u8>) {
        let at = self.random.below((self.pool.len() - self.bytes) as u64) as usize;
        value.clear();
        value.extend_from_slice(&self.pool[at..at + self.bytes]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_order_and_a_namespace_is_a_prefix() {
        let (first, last, next) = (key(5000), key(5999), key(6000));
        assert!(first < last && last < next);
        assert_eq!(first.len(), 32);
        let namespace = b"/registry/pods/00005/";
        assert!(first.starts_with(namespace) && last.starts_with(namespace) && !next.starts_with(namespace));
        assert!(last < end_of(namespace) && end_of(namespace) < next);
    }

    #[test]
    fn values_differ_and_have_the_size_asked_for() {
        let mut values = Values::new(256, 3);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        values.write(&mut one);
        values.write(&mut other);
        assert_eq!((one.len(), other.len()), (256, 256));
        assert_ne!(one, other);
    }
}

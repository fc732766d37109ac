//! Tokens that every member remembers as it applies the logins. They live a while, longer with each use, and only as
//! long as the member runs: clients log in again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rand::Rng;
use sha2::{Digest, Sha256};

use crate::node::config::TokenListener;
use crate::state::auth::TokenChange;

/// Letters in a token's first part: what nobody guesses.
const PREFIX_LETTERS: usize = 16;

/// Tokens that are over are removed when others come, at most this often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The first part of a new token.
pub fn prefix() -> String {
    let mut random = rand::rng();
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    (0..PREFIX_LETTERS).map(|_| char::from(letters[random.random_range(0..letters.len())])).collect()
}

/// The index of the entry that made the token, if it can be one.
pub fn index(token: &str) -> Option<u64> {
    let (_, index) = token.split_once('.')?;
    index.parse().ok()
}

/// The tokens that are valid.
pub struct SimpleTokens {
    ttl: Duration,
    table: Mutex<Table>,
}

struct Table {
    /// By the sums of tokens. How long a look-up takes tells of the sum of a guess, not of how much of a token was guessed.
    logins: HashMap<Sum, Login>,
    swept: Instant,
}

type Sum = [u8; 32];

fn sum(token: &str) -> Sum {
    Sha256::digest(token).into()
}

struct Login {
    username: String,
    over: Instant,
}

impl SimpleTokens {
    /// None yet; each will live for `ttl` after its last use.
    pub fn new(ttl: Duration) -> Self {
        SimpleTokens { ttl, table: Mutex::new(Table { logins: HashMap::new(), swept: Instant::now() }) }
    }

    /// Whose token it is. Using it makes it live on.
    pub fn user(&self, token: &str) -> Option<String> {
        self.user_at(token, Instant::now())
    }

    fn user_at(&self, token: &str, now: Instant) -> Option<String> {
        let mut table = self.table();
        let login = table.logins.get_mut(&sum(token)).filter(|login| login.over >= now)?;
        login.over = now + self.ttl;
        Some(login.username.clone())
    }

    fn change_at(&self, change: TokenChange, now: Instant) {
        let mut table = self.table();
        if now.duration_since(table.swept) >= SWEEP_INTERVAL {
            table.swept = now;
            table.logins.retain(|_, login| login.over >= now);
        }
        match change {
            TokenChange::Given { username, token } => {
                table.logins.insert(sum(&token), Login { username, over: now + self.ttl });
            }
            TokenChange::Ended { username } => table.logins.retain(|_, login| login.username != username),
            TokenChange::AllEnded => table.logins.clear(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder of this lock panics")
    }
}

impl TokenListener for SimpleTokens {
    fn changed(&self, change: TokenChange) {
        self.change_at(change, Instant::now());
    }

    fn replaced(&self) {
        // Which of them ended meanwhile, nobody tells.
        self.table().logins.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::{Damage, cases};

    fn given(username: &str, token: &str) -> TokenChange {
        TokenChange::Given { username: username.to_owned(), token: token.to_owned() }
    }

    #[test]
    fn tokens_live_as_long_as_they_are_used() {
        let tokens = SimpleTokens::new(Duration::from_secs(10));
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        tokens.change_at(given("u", "t.1"), at(0));
        tokens.change_at(given("v", "t.2"), at(0));
        assert_eq!(tokens.user_at("t.1", at(9)), Some("u".to_owned()));
        assert_eq!(tokens.user_at("t.1", at(18)), Some("u".to_owned()));
        assert_eq!(tokens.user_at("t.2", at(18)), None);
        assert_eq!(tokens.user_at("t.1", at(29)), None);
        tokens.change_at(given("v", "t.3"), at(60));
        assert_eq!(tokens.table().logins.len(), 1);
    }

    #[test]
    fn tokens_end_with_what_they_stand_for() {
        let tokens = SimpleTokens::new(Duration::from_secs(10));
        let all = || ["a", "b", "c"].map(|token| tokens.user(token).is_some());
        let give = || {
            for (user, token) in [("u", "a"), ("u", "b"), ("v", "c")] {
                tokens.changed(given(user, token));
            }
        };
        give();
        assert_eq!(all(), [true; 3]);
        tokens.changed(TokenChange::Ended { username: "u".to_owned() });
        assert_eq!(all(), [false, false, true]);
        give();
        tokens.changed(TokenChange::AllEnded);
        assert_eq!(all(), [false; 3]);
        give();
        tokens.replaced();
        assert_eq!(all(), [false; 3]);
    }

    #[test]
    fn tokens_tell_the_index_of_their_entry() {
        for (token, expected) in [("abc.12", Some(12)), ("abc", None), ("a.b.1", None), ("a.-1", None), ("", None)] {
            assert_eq!(index(token), expected, "{token}");
        }
        let (one, other) = (prefix(), prefix());
        assert!(one != other && one.len() == PREFIX_LETTERS && !one.contains('.'));
    }

    proptest! {
        #![proptest_config(cases(400))]

        #[test]
        fn only_a_token_that_was_given_is_valid(bytes in Damage::to(Just(b"abcdefgh.77".to_vec()))) {
            let tokens = SimpleTokens::new(Duration::from_secs(10));
            tokens.changed(given("u", "abcdefgh.77"));
            let token = String::from_utf8_lossy(&bytes);
            index(&token);
            prop_assert_eq!(tokens.user(&token).is_some(), token == "abcdefgh.77");
        }
    }
}

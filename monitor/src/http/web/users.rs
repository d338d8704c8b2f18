//! Users and their passwords.
//!
//! A password is checked against a bcrypt hash, which is slow on purpose: tens of milliseconds. So what was
//! right once is known again by a salted hash, few are checked at a time, and a name that nobody has takes as
//! long as one that somebody has.

use std::collections::HashMap;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

use bcrypt::HashParts;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

use crate::http::group::Group;

/// The highest cost of a hash that is taken; each step doubles the time, 14 takes over a second.
const MAX_COST: u32 = 14;

/// How many passwords one address may have waiting to be checked, the one at work included.
const WAITING: usize = 4;

/// A user of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct User {
    name: String,
    hash: String,
}

impl User {
    /// Checks the hash's form.
    pub(super) fn new(name: String, hash: &str) -> Result<Self, String> {
        let parts = HashParts::from_str(hash).map_err(|_| {
            "this is no bcrypt hash; `htpasswd -nBC 10 \"\"` makes one, which begins with $2y$"
                .to_owned()
        })?;
        let cost = parts.get_cost();
        if !(4..=MAX_COST).contains(&cost) {
            return Err(format!(
                "this hash has cost {cost}, which is not from 4 to {MAX_COST}; make one with `htpasswd \
                 -nBC 10 \"\"`"
            ));
        }
        Ok(Self {
            name,
            hash: hash.to_owned(),
        })
    }
}

/// What came of a password.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::http) enum Verdict {
    Right,
    Wrong,
    /// Not checked: too many of this address wait already.
    Busy,
}

/// All users of a file.
#[derive(Debug)]
pub(in crate::http) struct Users {
    list: Vec<User>,
    /// Made anew for each file and process.
    salt: hmac::Key,
    /// By name, the salted hash of the password that was right.
    known: Mutex<HashMap<String, Vec<u8>>>,
}

impl Users {
    pub(super) fn new(users: Vec<User>) -> Result<Self, ring::error::Unspecified> {
        Ok(Self {
            list: users,
            salt: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
            known: Mutex::default(),
        })
    }

    pub(in crate::http) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether these are the same users with the same passwords.
    pub(super) fn are(&self, others: &Self) -> bool {
        self.list == others.list
    }

    /// Checks a password; it may wait for others, and is then checked on a blocking thread.
    pub(in crate::http) async fn check(
        self: &Arc<Self>,
        gate: &Arc<Gate>,
        from: Group,
        name: &str,
        password: &str,
    ) -> Verdict {
        if self.is_known(name, password) {
            return Verdict::Right;
        }
        let Some(place) = gate.place(from) else {
            return Verdict::Busy;
        };
        let Ok(turn) = Arc::clone(&gate.turn).acquire_owned().await else {
            return Verdict::Busy;
        };
        // Somebody before us may have had the same one.
        if self.is_known(name, password) {
            return Verdict::Right;
        }
        let users = Arc::clone(self);
        let (name, password) = (name.to_owned(), password.to_owned());
        // Turn and place go along: a client that hangs up leaves the work running, and others wait for it
        // all the same.
        let work = tokio::task::spawn_blocking(move || {
            let right = users.compare(&name, &password);
            drop((turn, place));
            right
        });
        match work.await {
            Ok(true) => Verdict::Right,
            Ok(false) => Verdict::Wrong,
            Err(_) => Verdict::Busy,
        }
    }

    /// Compares with the hash; slow.
    fn compare(&self, name: &str, password: &str) -> bool {
        let user = self.list.iter().find(|user| user.name == name);
        // Where nobody has the name, somebody's hash takes the same time.
        let Some(hashed) = user.or_else(|| self.list.first()) else {
            return false;
        };
        let equal = bcrypt::verify(password, &hashed.hash).unwrap_or(false);
        let right = user.is_some() && equal;
        if right {
            let tag = self.tag(name, password).as_ref().to_vec();
            self.lock().insert(name.to_owned(), tag);
        }
        right
    }

    fn is_known(&self, name: &str, password: &str) -> bool {
        let known = self.lock().get(name).cloned();
        known.is_some_and(|tag| hmac::verify(&self.salt, &message(name, password), &tag).is_ok())
    }

    fn tag(&self, name: &str, password: &str) -> hmac::Tag {
        hmac::sign(&self.salt, &message(name, password))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<u8>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Name and password as one, such that no two pairs are the same: a name has no zero byte in a length's place.
fn message(name: &str, password: &str) -> Vec<u8> {
    let length = name.len().to_be_bytes();
    [&length, name.as_bytes(), password.as_bytes()].concat()
}

/// Who waits for a password to be checked. One for all files that come after each other.
#[derive(Debug)]
pub(in crate::http) struct Gate {
    /// One at a time: half of a small host at most, whatever comes.
    turn: Arc<Semaphore>,
    waiting: Mutex<HashMap<Group, usize>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            waiting: Mutex::default(),
        }
    }
}

impl Gate {
    fn place(self: &Arc<Self>, from: Group) -> Option<Place> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(from).or_default();
        if *count >= WAITING {
            return None;
        }
        *count += 1;
        Some(Place {
            gate: Arc::clone(self),
            from,
        })
    }
}

/// A place among those who wait; given back on drop.
struct Place {
    gate: Arc<Gate>,
    from: Group,
}

impl Drop for Place {
    fn drop(&mut self) {
        let waiting = &self.gate.waiting;
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// The cheapest hash that there is.
    fn hash(password: &str) -> String {
        let parts = bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap();
        parts.format_for_version(bcrypt::Version::TwoY)
    }

    fn users(list: &[(&str, &str)]) -> Arc<Users> {
        let user = |(name, password): &(&str, &str)| {
            User::new((*name).to_owned(), &hash(password)).unwrap()
        };
        Arc::new(Users::new(list.iter().map(user).collect()).unwrap())
    }

    fn from(last: u8) -> Group {
        Group::of([10, 0, 0, last].into())
    }

    #[tokio::test]
    async fn only_the_right_password_of_the_right_user_is_right() {
        let users = users(&[("ann", "secret"), ("bob", "other")]);
        let gate = Arc::new(Gate::default());
        // Twice: from the hash, and from what is known by then.
        for _ in 0..2 {
            for (name, password, wanted) in [
                ("ann", "secret", Verdict::Right),
                ("bob", "other", Verdict::Right),
                ("ann", "other", Verdict::Wrong),
                ("ann", "", Verdict::Wrong),
                ("ANN", "secret", Verdict::Wrong),
                // The hash that stands in for nobody's is Ann's.
                ("eve", "secret", Verdict::Wrong),
                ("", "secret", Verdict::Wrong),
                ("annsecret", "", Verdict::Wrong),
            ] {
                let verdict = users.check(&gate, from(1), name, password).await;
                assert_eq!(verdict, wanted, "{name} {password}");
            }
        }
        assert_eq!(users.lock().len(), 2, "only what was right is kept");
        assert!(gate.waiting.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_was_right_once_takes_no_turn() {
        let users = users(&[("ann", "secret")]);
        let gate = Arc::new(Gate::default());
        let right = users.check(&gate, from(1), "ann", "secret").await;
        assert_eq!(right, Verdict::Right);
        let _turn = Arc::clone(&gate.turn).acquire_owned().await.unwrap();
        let again = users.check(&gate, from(1), "ann", "secret").await;
        assert_eq!(again, Verdict::Right);
    }

    #[tokio::test]
    async fn an_address_may_have_few_passwords_waiting() {
        let users = users(&[("ann", "secret")]);
        let gate = Arc::new(Gate::default());
        let turn = Arc::clone(&gate.turn).acquire_owned().await.unwrap();
        let mut tasks = Vec::new();
        for _ in 0..WAITING {
            let (users, gate) = (Arc::clone(&users), Arc::clone(&gate));
            tasks.push(tokio::spawn(async move {
                users.check(&gate, from(1), "ann", "wrong").await
            }));
        }
        let end = Instant::now() + Duration::from_secs(20);
        while gate.waiting.lock().unwrap().get(&from(1)) != Some(&WAITING) {
            assert!(Instant::now() < end, "they do not wait");
            tokio::task::yield_now().await;
        }
        let verdict = users.check(&gate, from(1), "ann", "wrong").await;
        assert_eq!(verdict, Verdict::Busy);
        // Another address has places of its own; one that hangs up gives its place back.
        let other = tokio::time::timeout(
            Duration::from_millis(20),
            users.check(&gate, from(2), "ann", "secret"),
        );
        assert!(other.await.is_err(), "it waits for its turn");
        assert_eq!(gate.waiting.lock().unwrap().get(&from(2)), None);
        drop(turn);
        for task in tasks {
            assert_eq!(task.await.unwrap(), Verdict::Wrong);
        }
        let verdict = users.check(&gate, from(2), "ann", "secret").await;
        assert_eq!(verdict, Verdict::Right);
    }

    #[test]
    fn a_hash_is_checked_before_it_is_needed() {
        let of = |hash: &str| User::new("ann".to_owned(), hash).unwrap_err();
        assert!(of("secret").contains("this is no bcrypt hash; `htpasswd"));
        assert!(of("$apr1$x$y").contains("no bcrypt hash"));
        let slow = hash("secret").replace("$04$", "$15$");
        assert!(of(&slow).contains("has cost 15, which is not from 4 to 14"));
    }
}

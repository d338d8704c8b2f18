//! Users and their passwords.
//!
//! A password is checked against a bcrypt hash, which is slow on purpose: tens of milliseconds to over a second. So
//! what was right once is known again by a salted hash, one is checked at a time, and a name that nobody has
//! takes as long as the first one of the file.

use std::collections::HashMap;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

use super::gate::Gate;
use crate::http::group::Group;
use bcrypt::HashParts;
use ring::hmac;
use ring::rand::SystemRandom;

/// The highest cost of a hash that is taken; each step doubles the time, 14 takes over a second.
const MAX_COST: u32 = 14;

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
    /// Not checked: too many of this client wait already.
    Busy,
}

/// All users of a file.
#[derive(Debug)]
pub(in crate::http) struct Users {
    list: Vec<User>,
    /// Made anew for each process.
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

    /// These, after others: who has the same hash as before is known further, as a file may change for what has
    /// nothing to do with them.
    pub(super) fn after(&self, before: &Self) -> Self {
        let known = before.lock().clone();
        let stays = |name: &String| {
            let of = |users: &Self| users.list.iter().find(|user| user.name == *name).cloned();
            of(self).is_some() && of(self) == of(before)
        };
        Self {
            list: self.list.clone(),
            salt: before.salt.clone(),
            known: Mutex::new(known.into_iter().filter(|(name, _)| stays(name)).collect()),
        }
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
        let Some(turn) = gate.turn(from).await else {
            return Verdict::Busy;
        };
        // Somebody before us may have had the same one.
        if self.is_known(name, password) {
            return Verdict::Right;
        }
        let users = Arc::clone(self);
        let (name, password) = (name.to_owned(), password.to_owned());
        // The turn goes along: a client that hangs up leaves the work running, and others wait for it all the
        // same.
        let work = tokio::task::spawn_blocking(move || {
            let right = users.compare(&name, &password);
            drop(turn);
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
        // Where nobody has the name, somebody's hash takes the same time, if all are of one cost. The toolkit takes
        // files where they are not, so they are no error here.
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

#[cfg(test)]
mod tests {
    use super::super::gate::WAITING;
    use super::super::gate::tests::from;
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
        assert_eq!(gate.places(from(1)), 0);
    }

    #[tokio::test]
    async fn what_was_right_once_takes_no_turn() {
        let users = users(&[("ann", "secret")]);
        let gate = Arc::new(Gate::default());
        let right = users.check(&gate, from(1), "ann", "secret").await;
        assert_eq!(right, Verdict::Right);
        let _turn = gate.turn(from(1)).await.unwrap();
        let again = users.check(&gate, from(1), "ann", "secret").await;
        assert_eq!(again, Verdict::Right);
    }

    #[tokio::test]
    async fn who_stays_the_same_in_a_new_file_is_known_further() {
        let before = users(&[("ann", "secret"), ("bob", "other"), ("eve", "third")]);
        let gate = Arc::new(Gate::default());
        for (name, password) in [("ann", "secret"), ("bob", "other"), ("eve", "third")] {
            let verdict = before.check(&gate, from(1), name, password).await;
            assert_eq!(verdict, Verdict::Right);
        }
        let new = users(&[("zoe", "x"), ("ann", "secret"), ("bob", "changed")]);
        let now = Arc::new(new.after(&before));
        assert!(now.is_known("ann", "secret"), "it costs a check again");
        assert!(!now.is_known("ann", "other"));
        assert!(!now.is_known("bob", "other") && !now.is_known("eve", "third"));
        for (name, password, wanted) in [
            ("bob", "other", Verdict::Wrong),
            ("bob", "changed", Verdict::Right),
            ("eve", "third", Verdict::Wrong),
        ] {
            let verdict = now.check(&gate, from(1), name, password).await;
            assert_eq!(verdict, wanted, "{name} {password}");
        }
    }

    #[tokio::test]
    async fn one_client_s_guesses_keep_no_other_out() {
        let users = users(&[("ann", "secret")]);
        let gate = Arc::new(Gate::default());
        let turn = gate.turn(from(1)).await.unwrap();
        let check = |last, password| {
            let (users, gate) = (Arc::clone(&users), Arc::clone(&gate));
            tokio::spawn(async move {
                let verdict = users.check(&gate, from(last), "ann", password).await;
                (verdict, gate.places(from(1)))
            })
        };
        let mut guesses: Vec<_> = (1..WAITING).map(|_| check(1, "wrong")).collect();
        while gate.places(from(1)) < WAITING {
            tokio::task::yield_now().await;
        }
        guesses.push(check(1, "wrong"));
        let scrape = check(2, "secret");
        while gate.places(from(2)) == 0 {
            tokio::task::yield_now().await;
        }
        drop(turn);
        // Before any of those that came first.
        let (verdict, left) = scrape.await.unwrap();
        assert_eq!(verdict, Verdict::Right);
        assert!(left >= WAITING - 2, "only {left} guesses left");
        let mut verdicts = Vec::new();
        for guess in guesses {
            verdicts.push(guess.await.unwrap().0);
        }
        assert_eq!(verdicts.pop(), Some(Verdict::Busy), "one too many");
        assert_eq!(verdicts, [Verdict::Wrong; WAITING - 1]);
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

//! People: passwords, roles, tokens. What may be done is decided here, who asks by [`super::auth`].
//!
//! A password is hashed with Argon2id (19 MiB, 2 passes) and a salt of its own. So many guesses a minute are computed
//! and no more; an unknown name costs as much time as a wrong password.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Params, Version};
use axum::http::StatusCode;
use subtle::ConstantTimeEq;

use super::error::{Error, FieldProblem, Result};
use super::state::AppState;
use crate::db::team::{self, Role, User};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// As the audit has it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Its number; `None` for the machine's own user and for the server's token.
    pub user: Option<i64>,
}

impl Who {
    /// Somebody at this machine, who is not asked.
    #[must_use]
    pub fn local() -> Self {
        Self { name: "local".to_owned(), role: Role::Admin, user: None }
    }

    /// Somebody with the server's token.
    #[must_use]
    pub fn token() -> Self {
        Self { name: "token".to_owned(), role: Role::Admin, user: None }
    }

    /// Nobody known: looks, where even that.
    #[must_use]
    pub fn nobody() -> Self {
        Self { name: String::new(), role: Role::Viewer, user: None }
    }

    /// Whether what `owner` started is theirs to stop: their own, or anybody's for an admin.
    #[must_use]
    pub fn owns(&self, owner: &str) -> bool {
        let own = self.user.is_some() && self.name.eq_ignore_ascii_case(owner);
        self.role == Role::Admin || (self.role == Role::Editor && own)
    }
}

impl From<User> for Who {
    fn from(user: User) -> Self {
        Self { name: user.name, role: user.role, user: Some(user.id) }
    }
}

/// Guesses of passwords within a minute.
const GUESSES: usize = 20;
const MINUTE: Duration = Duration::from_secs(60);

/// Counts guesses; no `Debug` of who guessed what.
#[derive(Default)]
pub struct Limit(Mutex<VecDeque<(Instant, String)>>);

impl Limit {
    /// False where this name, or all together, were tried too often of late.
    fn admits(&self, name: &str) -> bool {
        let mut tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tries.front().is_some_and(|one| one.0.elapsed() > MINUTE) {
            tries.pop_front();
        }
        let of_name = tries.iter().filter(|one| one.1 == name).count();
        if of_name >= GUESSES / 2 || tries.len() >= GUESSES {
            return false;
        }
        tries.push_back((Instant::now(), name.to_owned()));
        true
    }
}

/// The person whose name and password these are.
///
/// # Errors
/// 429 after too many guesses, or where the database fails.
pub async fn login(state: &AppState, name: &str, password: &str) -> Result<Option<User>> {
    let name = name.trim().to_lowercase();
    if !state.auth.limit.admits(&name) {
        let detail = "Too many guesses; wait a minute.";
        return Err(Error::new(StatusCode::TOO_MANY_REQUESTS, detail));
    }
    let found = team::by_name(&state.db, &name).await?;
    let (user, stored) = match found {
        Some((user, stored)) => (Some(user), stored),
        None => (None, format!("{}$00$00", SCHEME)),
    };
    let password = password.to_owned();
    let right = tokio::task::spawn_blocking(move || verify(&password, &stored));
    let right = right.await.map_err(Error::internal)?;
    Ok(user.filter(|_| right))
}

/// What is stored before salt and hash.
const SCHEME: &str = "argon2id$v=19$m=19456,t=2,p=1";

/// The text that is stored for a password.
///
/// # Errors
/// Where the system gives no random bytes.
pub fn hash(password: &str) -> io::Result<String> {
    let salt = random()?;
    let salt = salt.get(..16).unwrap_or_default();
    let out = derive(password, salt).ok_or_else(|| io::Error::other("Argon2 failed"))?;
    Ok(format!("{SCHEME}${}${}", hex(salt), hex(&out)))
}

fn verify(password: &str, stored: &str) -> bool {
    let mut parts = stored.strip_prefix(SCHEME).unwrap_or_default().split('$').skip(1);
    let salt = parts.next().and_then(unhex).unwrap_or_default();
    let wanted = parts.next().and_then(unhex).unwrap_or_default();
    // a salt that is too short is computed with one that is not, so that it takes as long
    let known = salt.len() == 16;
    let salt = if known { salt } else { vec![0; 16] };
    let right = derive(password, &salt).is_some_and(|out| out.ct_eq(&wanted).into());
    right && known
}

fn derive(password: &str, salt: &[u8]) -> Option<[u8; 32]> {
    let params = Params::new(19 * 1024, 2, 1, Some(32)).ok()?;
    let mut out = [0; 32];
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(password.as_bytes(), salt, &mut out).ok()?;
    Some(out)
}

/// 256 random bits.
///
/// # Errors
/// Where the system gives none.
pub fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A secret for a browser or a script, and what is stored of it.
///
/// # Errors
/// Where the system gives no random bytes.
pub fn secret(prefix: &str) -> io::Result<(String, String)> {
    let secret = format!("{prefix}{}", hex(&random()?));
    let stored = fingerprint(&secret);
    Ok((secret, stored))
}

/// What is stored of a secret.
#[must_use]
pub fn fingerprint(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    digits
        .chunks(2)
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok())
        .collect()
}

fn wrong(field: &str, message: &str) -> Error {
    Error::invalid(vec![FieldProblem { field: field.to_owned(), message: message.to_owned() }])
}

/// The role of a word.
///
/// # Errors
/// 422 for another one.
pub fn role(word: &str) -> Result<Role> {
    Role::named(word).ok_or_else(|| wrong("role", "is viewer, editor or admin"))
}

async fn hashed(password: &str) -> Result<String> {
    if !(10..=200).contains(&password.chars().count()) {
        return Err(wrong("password", "must have 10 to 200 characters"));
    }
    let password = password.to_owned();
    let hashed = tokio::task::spawn_blocking(move || hash(&password));
    hashed.await.map_err(Error::internal)?.map_err(Error::internal)
}

/// Adds a person.
///
/// # Errors
/// 422 where name, role or password will not do.
pub async fn add(state: &AppState, name: &str, word: &str, password: &str) -> Result<User> {
    let name = name.trim();
    let plain = |c: char| c.is_alphanumeric() || "._-@".contains(c);
    if !(1..=40).contains(&name.chars().count()) || !name.chars().all(plain) {
        let rule = "must have 1 to 40 letters, digits and . _ - @";
        return Err(wrong("name", rule));
    }
    if ["local", "token"].iter().any(|own| name.eq_ignore_ascii_case(own)) {
        return Err(wrong("name", "is a name that the server has for itself"));
    }
    let role = role(word)?;
    let stored = hashed(password).await?;
    let user = team::add(&state.db, name, role, &stored, state.clock.now_ms()).await?;
    user.ok_or_else(|| wrong("name", "is taken"))
}

/// Changes role or password; empty texts leave them.
///
/// # Errors
/// 404 where there is no such person, 422 where role or password will not do.
pub async fn change(state: &AppState, id: i64, word: &str, password: &str) -> Result<()> {
    let role = if word.is_empty() { None } else { Some(role(word)?) };
    let stored = if password.is_empty() { None } else { Some(hashed(password).await?) };
    if team::change(&state.db, id, role, stored.as_deref()).await? {
        Ok(())
    } else {
        Err(Error::not_found("user", &id.to_string()))
    }
}

/// Removes a person.
///
/// # Errors
/// 404 where there is no such person.
pub async fn remove(state: &AppState, id: i64) -> Result<()> {
    if team::remove(&state.db, id).await? {
        Ok(())
    } else {
        Err(Error::not_found("user", &id.to_string()))
    }
}

/// The number of whoever asks.
///
/// # Errors
/// 409 for the machine's own user and the server's token: they are nobody's.
pub fn person(who: &Who) -> Result<i64> {
    let detail = "Only people have that: log in with a name.";
    who.user.ok_or_else(|| Error::new(StatusCode::CONFLICT, detail))
}

/// Makes a token for whoever asks; it is shown this once.
///
/// # Errors
/// 422 where the name will not do, 409 where nobody in particular asks.
pub async fn add_token(state: &AppState, who: &Who, name: &str) -> Result<(i64, String)> {
    let user = person(who)?;
    let name = name.trim();
    if !(1..=60).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(wrong("name", "must have 1 to 60 characters"));
    }
    let (secret, stored) = secret("tlw_").map_err(Error::internal)?;
    let id = team::add_token(&state.db, user, name, &stored, state.clock.now_ms()).await?;
    Ok((id, secret))
}

/// Removes a token of whoever asks.
///
/// # Errors
/// 404 where there is none.
pub async fn remove_token(state: &AppState, who: &Who, id: i64) -> Result<()> {
    if team::remove_token(&state.db, person(who)?, id).await? {
        Ok(())
    } else {
        Err(Error::not_found("token", &id.to_string()))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn passwords() {
        let stored = hash("correct horse").unwrap();
        assert!(stored.starts_with(SCHEME) && !stored.contains("horse"));
        assert_ne!(stored, hash("correct horse").unwrap(), "each has a salt of its own");
        for (password, stored, expected) in [
            ("correct horse", stored.as_str(), true),
            ("correct hors", &stored, false),
            ("", &stored, false),
            ("x", "", false),
            ("x", "argon2id$v=19$m=19456,t=2,p=1$00$00", false),
            ("x", "md5$zz", false),
        ] {
            assert_eq!(verify(password, stored), expected, "{password} {stored}");
        }
    }

    #[test]
    fn whose_runs() {
        let who = |name: &str, role, user| Who { name: name.to_owned(), role, user };
        for (who, owner, expected) in [
            (who("ed", Role::Editor, Some(1)), "ed", true),
            (who("Ed", Role::Editor, Some(1)), "ed", true),
            (who("ed", Role::Editor, Some(1)), "eve", false),
            (who("ed", Role::Editor, Some(1)), "", false),
            (who("ed", Role::Viewer, Some(1)), "ed", false),
            (who("ada", Role::Admin, Some(2)), "ed", true),
            (Who::local(), "ed", true),
            (Who::token(), "", true),
            (Who::nobody(), "", false),
        ] {
            assert_eq!(who.owns(owner), expected, "{who:?} {owner}");
        }
    }

    #[test]
    fn guesses_are_counted() {
        let limit = Limit::default();
        let tried = |name: &str| (0..15).filter(|_| limit.admits(name)).count();
        assert_eq!((tried("a"), tried("b"), tried("c")), (10, 10, 0));
    }

    #[test]
    fn secrets() {
        let (one, stored) = secret("tlw_").unwrap();
        assert_eq!(one.len(), 68);
        assert_eq!(stored, fingerprint(&one));
        assert_ne!(one, secret("tlw_").unwrap().0);
        assert_eq!(unhex("0aff"), Some(vec![10, 255]));
        assert_eq!(unhex("0g"), None);
    }
}

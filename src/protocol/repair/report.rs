//! What an operator is shown of repairs.

use serde::{Deserialize, Serialize};

use super::{Cause, Done, Wish};

/// Of one VM, since its process began at this site.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Repairs {
    /// How many there were.
    pub count: u64,
    /// The one that is under way.
    pub under_way: Option<Shown>,
    /// The last one.
    pub last: Option<Shown>,
    /// The last that came to nothing.
    pub given_up: Option<Shown>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The guest's exit at which the copy was first seen to differ.
    pub differed_at: u64,
    /// Why.
    pub cause: Cause,
    /// What differed, in words.
    pub what: String,
    /// The exit at which both were the same again.
    pub repaired_at: Option<u64>,
    /// What was carried of RAM and disk, before compression.
    pub bytes: u64,
    /// Where the first output was made of which it is not known that the copy would have made it too.
    pub first_unverified: Option<u64>,
    /// How long the copy was another one, in milliseconds, as this site saw it.
    pub took_ms: u64,
    /// When it began, in seconds since 1970.
    pub began: i64,
}

impl Repairs {
    /// A copy differs, as it says, `now` in seconds since 1970.
    pub fn begin(&mut self, wish: &Wish, now: i64) {
        self.under_way = Some(Shown {
            differed_at: wish.at,
            cause: wish.cause,
            what: wish.what.clone(),
            repaired_at: None,
            bytes: 0,
            first_unverified: None,
            took_ms: 0,
            began: now,
        });
    }

    /// It is the same again, after so long.
    pub fn end(&mut self, done: &Done, took_ms: u64) {
        if let Some(shown) = self.under_way.take() {
            self.count += 1;
            self.last = Some(Shown {
                repaired_at: Some(done.position),
                cause: done.cause,
                bytes: done.byte_count,
                took_ms,
                ..shown
            });
        }
    }

    /// It is not, and never will be.
    pub fn give_up(&mut self) {
        self.given_up = self.under_way.take().or(self.given_up.take());
    }

    /// The first output that was not made by the copy which was given up.
    pub fn first_unverified(&mut self, exit: Option<u64>) {
        if let Some(shown) = &mut self.given_up {
            shown.first_unverified = exit;
        }
    }
}

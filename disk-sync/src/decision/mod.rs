//! What to do with two replicas of one VM (D4).
//!
//! ```text
//!   lineages ──relation──▶ ┐
//!   states, marks ────────▶├─ first row that fits ──▶ nothing │ partial │ full │ refuse
//!   consent ──────────────▶┘   (`table.txt`)
//! ```
//!
//! Which replica is the source is decided elsewhere: by the tiebreaker's record, or by an operator who names it. The
//! lineages say whether that can be right, and what it costs. The policy is the table; a reviewer reads that.
//!
//! Marks are dirty(A) ∪ dirty(B) ∪ AL(A) ∪ AL(B): whoever opens a replica that was not closed folds its activity log
//! into its marks, so that here the two are one. A partial resync compares what is marked by its hashes and sends
//! what differs: a mark that was set for nothing costs 32 bytes.

use std::sync::LazyLock;

use crate::replica::{Lineage, Loaded, Replica, ReplicaId, State, Store, VmId};

#[cfg(test)]
mod tests;

const TABLE: &str = include_str!("table.txt");

/// What a site knows of its replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Of which VM.
    pub vm: VmId,
    /// Its own name.
    pub replica: ReplicaId,
    /// What may be done with it.
    pub state: State,
    /// Where its content comes from.
    pub lineage: Option<Lineage>,
    /// Whether anything is marked.
    pub has_marks: bool,
    /// Whether it was written to behind our back.
    pub was_changed_behind: bool,
}

impl Summary {
    /// That of metadata which was read.
    #[must_use]
    pub fn of_loaded(loaded: &Loaded, was_changed_behind: bool) -> Self {
        Self {
            vm: loaded.vm().clone(),
            replica: loaded.replica(),
            state: loaded.state(),
            lineage: loaded.lineage().cloned(),
            has_marks: !loaded.marks().is_empty(),
            was_changed_behind,
        }
    }

    /// That of a replica in use.
    pub fn of<S: Store>(replica: &Replica<S>, was_changed_behind: bool) -> Self {
        Self {
            vm: replica.vm().clone(),
            replica: replica.id(),
            state: replica.state(),
            lineage: replica.lineage().cloned(),
            has_marks: !replica.dirty().is_empty(),
            was_changed_behind,
        }
    }
}

macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $variant_doc:literal])+ $variant:ident = $word:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[doc = $variant_doc])+ $variant,)+
        }

        impl $name {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word for it in the table.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

words! {
    /// How the target's content relates to the source's.
    Relation {
        /// They are replicas of two VMs.
        OtherVm = "other-vm",
        /// They are one and the same replica.
        Itself = "itself",
        /// The target never held anything.
        Blank = "blank",
        /// The source never held anything.
        SourceBlank = "source-blank",
        /// The target was being made equal to this very source, of this generation.
        Resuming = "resuming",
        /// The target was being made equal to something else: it is a mixture.
        Mixture = "mixture",
        /// Both are of one generation.
        Same = "same",
        /// The source has gone on alone from what the target is.
        Ahead = "ahead",
        /// Both have gone on alone, from the same point.
        Fork = "fork",
        /// The target has gone on alone from what the source is.
        Behind = "behind",
        /// The target is what the source was once; since when marks are there, nobody knows.
        Ancestor = "ancestor",
        /// The source is what the target was once, or both come from something older.
        Cousin = "cousin",
        /// They have nothing in common.
        Unrelated = "unrelated",
    }
}

words! {
    /// What shall be done.
    Outcome {
        /// They are equal.
        Nothing = "nothing",
        /// What is marked is compared.
        Partial = "partial",
        /// Everything is compared.
        Full = "full",
        /// Nothing may be overwritten: see the reason.
        Refuse = "refuse",
    }
}

/// How `target` relates to `source`.
#[must_use]
pub fn relation(source: &Summary, target: &Summary) -> Relation {
    if source.vm != target.vm {
        return Relation::OtherVm;
    }
    if source.replica == target.replica {
        return Relation::Itself;
    }
    let Some(ours) = &source.lineage else {
        return Relation::SourceBlank;
    };
    if let State::Syncing(key) = target.state {
        let same = key.source == source.replica && key.generation == ours.current;
        return if same {
            Relation::Resuming
        } else {
            Relation::Mixture
        };
    }
    match &target.lineage {
        None => Relation::Blank,
        Some(theirs) => of_lineages(ours, theirs),
    }
}

fn of_lineages(source: &Lineage, target: &Lineage) -> Relation {
    if source.current == target.current {
        Relation::Same
    } else if source.base == Some(target.current) {
        Relation::Ahead
    } else if target.base == Some(source.current) {
        Relation::Behind
    } else if source.base.is_some() && source.base == target.base {
        Relation::Fork
    } else if source.holds(target.current) {
        Relation::Ancestor
    } else if target.history.iter().any(|generation| source.holds(*generation))
        || target.holds(source.current)
    {
        Relation::Cousin
    } else {
        Relation::Unrelated
    }
}

/// What is asked of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// How the two relate.
    pub relation: Relation,
    /// Whether the source may be copied from: it is clean.
    pub source_is_clean: bool,
    /// Whether the target is clean.
    pub target_is_clean: bool,
    /// Whether anything is marked at either.
    pub has_marks: bool,
    /// Whether either was written to behind our back, or a full comparison is asked for.
    pub marks_lie: bool,
    /// Whether it is agreed that what the target alone holds is lost.
    pub discard: bool,
}

/// What to do, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub outcome: Outcome,
    /// How the two relate.
    pub relation: Relation,
    /// Why, in words for people.
    pub reason: &'static str,
}

/// What an operator, or the tiebreaker's record, says beside the replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Consent {
    /// What the target alone holds may be lost.
    pub discard: bool,
    /// Everything is compared, whatever the marks say.
    pub compare_all: bool,
}

/// What to do to make `target` equal to `source`.
#[must_use]
pub fn decide(source: &Summary, target: &Summary, consent: Consent) -> Decision {
    answer(Question {
        relation: relation(source, target),
        source_is_clean: source.state == State::Clean,
        target_is_clean: target.state == State::Clean,
        has_marks: source.has_marks || target.has_marks,
        marks_lie: source.was_changed_behind || target.was_changed_behind || consent.compare_all,
        discard: consent.discard,
    })
}

/// The first row that fits.
///
/// # Panics
/// If no row fits. A test asks every question there is.
#[must_use]
pub fn answer(question: Question) -> Decision {
    let row = TABLE_ROWS.iter().find(|row| row.fits(&question));
    let row = row.expect("a row fits every question");
    Decision {
        outcome: row.outcome,
        relation: question.relation,
        reason: row.reason,
    }
}

static TABLE_ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    TABLE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(Row::parse)
        .collect()
});

#[derive(Debug)]
struct Row {
    relation: Option<Relation>,
    source_is_clean: Option<bool>,
    target_is_clean: Option<bool>,
    has_marks: Option<bool>,
    marks_lie: Option<bool>,
    discard: Option<bool>,
    outcome: Outcome,
    reason: &'static str,
}

impl Row {
    fn parse(line: &'static str) -> Self {
        let mut cells = line.split('|').map(str::trim);
        let mut cell = || cells.next().expect("a row of the table has eight cells");
        let relation = one_of(cell(), Relation::ALL, Relation::word);
        let mut yes_or_no = || one_of(cell(), &[true, false], |yes| if yes { "yes" } else { "no" });
        Self {
            relation,
            source_is_clean: yes_or_no(),
            target_is_clean: yes_or_no(),
            has_marks: yes_or_no(),
            marks_lie: yes_or_no(),
            discard: yes_or_no(),
            outcome: one_of(cell(), Outcome::ALL, Outcome::word).expect("a row has an outcome"),
            reason: cell(),
        }
    }

    fn fits(&self, question: &Question) -> bool {
        fn fits<T: PartialEq>(cell: Option<T>, asked: T) -> bool {
            cell.is_none_or(|cell| cell == asked)
        }
        fits(self.relation, question.relation)
            && fits(self.source_is_clean, question.source_is_clean)
            && fits(self.target_is_clean, question.target_is_clean)
            && fits(self.has_marks, question.has_marks)
            && fits(self.marks_lie, question.marks_lie)
            && fits(self.discard, question.discard)
    }
}

/// What `word` stands for; none if it is the dash that stands for all.
fn one_of<T: Copy>(word: &str, all: &[T], name: impl Fn(T) -> &'static str) -> Option<T> {
    if word == "-" {
        return None;
    }
    let found = all.iter().copied().find(|one| name(*one) == word);
    Some(found.unwrap_or_else(|| panic!("the table has a word that it may not have: {word}")))
}

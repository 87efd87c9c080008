//! A VM process: one copy of one VM.

mod asker;
mod begin;
mod checks;
mod driver;
pub mod happening;
mod inbound;
mod kept_differences;
mod kept_frames;
mod line;
mod log_ends;
mod orders;
mod outbound;
mod pair;
pub mod process;
pub(crate) mod refusals;
mod vcpu;

#[cfg(test)]
mod tests;

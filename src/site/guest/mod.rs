//! A VM process: one copy of one VM.

mod log_ends;
mod orders;
mod vcpu;

#[cfg(test)]
mod tests;

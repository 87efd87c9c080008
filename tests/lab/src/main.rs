//! Entry of the lab's command line.

fn main() {}

//! The `kami` command.

fn main() {}

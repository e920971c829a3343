//! The `kami` command line.

pub mod value;

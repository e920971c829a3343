//! A running instance, and what can be said of one from outside.

pub mod attend;
pub mod guest;

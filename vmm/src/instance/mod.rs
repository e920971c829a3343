//! A running instance, and what can be done to one from outside.

pub mod attend;
pub mod guest;
pub mod live;
mod stop;

pub use stop::{Asked, Error, kill, press, reboot};

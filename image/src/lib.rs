//! Machine images: what they are, where their bytes live, what a launch makes of them.
//!
//! This crate knows files and the catalogue; it never sees guest memory or KVM.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod account;
mod catalogue;
pub mod chunk;
pub mod export;
pub mod fault;
pub mod filter;
pub mod format;
pub mod id;
pub mod instance;
pub mod instance_type;
pub mod manifest;
pub mod mapping;
pub mod snapshot;
pub mod store;
pub mod time;
pub mod volume;

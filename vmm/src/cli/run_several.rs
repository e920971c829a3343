//! `kami run -d`, of one instance or of several: each is a process of its own, all are one launch.
//!
//! As with EC2's MinCount and MaxCount: fewer than the least are none, and those that were launched are
//! taken back.

use std::ffi::OsString;
use std::ops::RangeInclusive;

use kami_image::id::InstanceId;
use kami_image::store;

use super::output::print;
use super::{Error, open_store};
use crate::exit::Exit;
use crate::instance;
use crate::launch::background::{self, Started};

/// Launches as many of `count` as can be, each with the arguments of this process.
pub fn launch(count: RangeInclusive<u32>) -> Result<Exit, Error> {
    // Of the form of EC2's ids, and as random.
    let id = InstanceId::generate().to_string();
    let reservation = id.replacen(InstanceId::PREFIX, "r-", 1);
    let mut launched: Vec<String> = Vec::new();
    for index in 0..*count.end() {
        match background::start(args(&reservation, index))? {
            Started::Running(ids) => {
                // With a client token each may say what all of an earlier launch are.
                launched.extend(
                    ids.into_iter()
                        .filter(|id| !launched.contains(id))
                        .collect::<Vec<_>>(),
                );
            }
            // It has said why.
            Started::Ended(code) if index < *count.start() => {
                take_back(&launched, &reservation)?;
                return Ok(Exit::from_code(code));
            }
            Started::Ended(_) => break,
        }
    }
    for id in launched {
        print(&format!("{id}\n"))?;
    }
    Ok(Exit::Done)
}

fn args(reservation: &str, index: u32) -> impl Iterator<Item = OsString> {
    let own = [
        "--reservation",
        reservation,
        "--launch-index",
        &index.to_string(),
    ]
    .map(OsString::from);
    std::env::args_os().skip(1).chain(own)
}

/// Removes the instances of `launched` that are of this launch, and everything that it made.
fn take_back(launched: &[String], reservation: &str) -> Result<(), Error> {
    let store = open_store()?;
    for id in launched {
        let instance = match store.instance(id) {
            Err(store::Error::InstanceNotFound { .. }) => continue,
            found => found?,
        };
        if instance.reservation != reservation {
            continue;
        }
        instance::kill(&store, &instance)?;
        match store.undo_launch(&instance.id) {
            Err(store::Error::InstanceNotFound { .. }) => {}
            removed => removed?,
        }
    }
    Ok(())
}

//! Fault points: places where a test has the process killed, to see what the next one finds.
//!
//! They stand between two effects that outlive the process, a file that is named and the row that
//! names it, say. A release build has none.

/// Every fault point, in the order in which each command reaches its own.
pub const POINTS: &[&str] = &[
    "migrate.filled",
    "register.written",
    "register.committed",
    "create-volume.written",
    "delete-volume.committed",
    "snapshot.frozen",
    "snapshot.written",
    "snapshot.committed",
    "snapshot.rebased",
    "delete-snapshot.hidden",
    "delete-snapshot.removed",
    "delete-snapshot.unshared",
    "delete-snapshot.freed",
    "repair.copied",
    "repair.marked",
    "deregister.removed",
    "deregister.committed",
    "prune.removed",
    "prune.committed",
    "create-image.added",
    "create-image.committed",
    "copy.added",
    "copy.committed",
    "terminate.begun",
    "terminate.changed",
    "terminate.committed",
];

/// Kills this process, as `kill -9` would, if the variable `KAMI_FAULT` names this point.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name} is missing in the list");
    if std::env::var_os("KAMI_FAULT").is_some_and(|wanted| wanted == name) {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(not(debug_assertions))]
pub(crate) fn point(_: &'static str) {}

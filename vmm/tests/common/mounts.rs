//! File systems of a test's own, in a mount namespace of its own.

use std::process::{Command, Stdio};

use super::Lab;

/// Runs the ignored test of that name where mounting is allowed, and ends with it.
pub fn where_mounting_is_allowed(test: &str) {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("-r");
    }
    command.arg("-m").arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{output:?}"
    );
}

/// Puts the lab's store into a file system in memory, or changes the one there.
pub fn mount(options: &str, lab: &Lab) {
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", options, "none"]);
    let status = command.arg(lab.path("home")).stdin(Stdio::null()).status();
    assert!(status.unwrap().success());
}

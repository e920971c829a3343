//! A process that a test may kill: this test binary once more, running one test that does nothing
//! where it is not asked to.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;

const HOME: &str = "KAMI_TEST_CHILD_HOME";

/// Starts `test` with the store of `place` and returns when it has reported.
pub fn start(place: &Place, test: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(HOME, place.store.home())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap() == "reached"),
        "{test} did not get there"
    );
    child
}

/// In the child: the store it works on. None where the test runs by itself.
pub fn store() -> Option<Store> {
    let home = std::env::var_os(HOME)?;
    Some(Store::open(Path::new(&home)).unwrap())
}

/// In the child: says that it got this far, and waits to be killed, or for the test that started it
/// to be gone.
pub fn report_and_wait() {
    println!("\nreached");
    let _ = std::io::stdin().read_line(&mut String::new());
}

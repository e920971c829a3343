//! Fifty processes at once on one store, each with a part of the life of an image: all of them come to their end, the store is
//! sound then, and as empty as it was.

mod common;

use std::sync::Barrier;

use common::Lab;
use common::store::content;

const PROCESSES: usize = 50;

/// The whole life of one image. Its content is half everybody's and half its own; all begin at once.
fn life(lab: &Lab, number: usize, start: &Barrier) {
    start.wait();
    let (image, name) = (format!("image {number}"), format!("guest-{number}"));
    let disk = lab.file(
        &format!("{number}.raw"),
        [content(0, 1), content(number as u64 + 1, 1)].concat(),
    );
    lab.done(&["image", "import", &disk, "--name", &image]);
    let snapshot = lab.root_snapshot(&image);
    lab.run_guest_of(&image, &["--name", &name]);
    let volume = &lab.volumes_of(&name)[0];
    let second = lab.done(&["snapshot", "create", volume]);
    assert!(lab.exported(&second, content(0, 1).len()) == content(0, 1));
    // Half of them delete while the others still make something of theirs.
    match number % 2 {
        0 => {
            lab.done(&["image", "deregister", &image]);
            lab.done(&["snapshot", "delete", &snapshot]);
            lab.done(&["rm", &name]);
            lab.done(&["snapshot", "delete", &second]);
        }
        _ => {
            let copy = format!("copy of {number}");
            lab.done(&["image", "create", &name, "--name", &copy]);
            lab.done(&["start", "--attach", &name]);
            lab.done(&["terminate", &name]);
            lab.done(&["rm", &name]);
            lab.done(&["image", "deregister", &image, &copy, "--delete-snapshots"]);
            lab.done(&["snapshot", "delete", &second]);
        }
    }
}

#[test]
fn fifty_processes_at_once_leave_a_sound_and_empty_store() {
    let lab = Lab::with_guest();
    let empty = (lab.census(), lab.listed());
    let start = Barrier::new(PROCESSES);
    std::thread::scope(|scope| {
        let lives: Vec<_> = (0..PROCESSES)
            .map(|number| {
                let (lab, start) = (&lab, &start);
                scope.spawn(move || life(lab, number, start))
            })
            .collect();
        // Looks on meanwhile, and sweeps.
        while lives.iter().any(|life| !life.is_finished()) {
            lab.done(&["ps", "-a"]);
            lab.done(&["image", "ls"]);
            lab.done(&["store", "gc"]);
        }
    });
    lab.done(&["store", "check"]);
    lab.done(&["store", "gc"]);
    assert_eq!((lab.census(), lab.listed()), empty);
    lab.done(&["store", "check"]);
}

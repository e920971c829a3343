//! What is written about `kami snapshot`.

use kami_vmm::exit::Exit::{BadInput, Done, Failed, Interrupted, NotFound, Usage};

use super::Text;

pub const TEXTS: &[Text] = &[
    Text {
        name: "kami-snapshot",
        description: &[
            "A snapshot is the content of a volume at one moment. It never changes. Images are made of snapshots, and volumes \
             begin with them.",
            "Content that snapshots share is stored once, and zeroes not at all; so a snapshot costs what has changed since \
             the volume's last one.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound, Interrupted],
        has_store: true,
        examples: &[("List the snapshots of the store:", "kami snapshot ls")],
    },
    Text {
        name: "kami-snapshot-create",
        description: &[
            "Makes a snapshot of a volume and prints its id. A running instance is paused for some milliseconds, whatever the \
             size of the volume; what its guest had written by then is in the snapshot, as after a power cut.",
        ],
        exits: &[Done, Failed, Usage, NotFound, Interrupted],
        has_store: true,
        examples: &[(
            "Make a snapshot:",
            "kami snapshot create vol-0123456789abcdef0 --description nightly",
        )],
    },
    Text {
        name: "kami-snapshot-ls",
        description: &["Lists the snapshots of the store, oldest first."],
        exits: &[Done, Failed, Usage],
        has_store: true,
        examples: &[(
            "Print the snapshots as describe-snapshots does:",
            "kami snapshot ls --output json",
        )],
    },
    Text {
        name: "kami-snapshot-show",
        description: &["Prints all that is known of a snapshot, as describe-snapshots does."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Show a snapshot:",
            "kami snapshot show snap-0123456789abcdef0",
        )],
    },
    Text {
        name: "kami-snapshot-export",
        description: &[
            "Writes the disk of a snapshot to a file. Zeroes are holes in a raw file and take no space in a qcow2 one. The \
             file appears when it is complete; one that exists is replaced only with --force.",
        ],
        exits: &[Done, Failed, Usage, NotFound, Interrupted],
        has_store: true,
        examples: &[(
            "Write a qcow2 file:",
            "kami snapshot export snap-0123456789abcdef0 web.qcow2 --format qcow2",
        )],
    },
    Text {
        name: "kami-snapshot-delete",
        description: &[
            "Deletes snapshots that no image uses, in any order: content that others share stays. Volumes that were made of \
             them are untouched, and keep what they need until they are deleted.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Delete a snapshot:",
            "kami snapshot delete snap-0123456789abcdef0",
        )],
    },
    Text {
        name: "kami-snapshot-changes",
        description: &[
            "Lists the blocks of 512 KiB that two snapshots differ in, as list-changed-blocks does. No content is read.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "List what has changed from one snapshot to the next:",
            "kami snapshot changes snap-0123456789abcdef0 snap-0123456789abcdef1",
        )],
    },
    Text {
        name: "kami-snapshot-tag",
        description: &["Gives a snapshot tags. A key that it has already gets the new value."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Tag a snapshot:",
            "kami snapshot tag snap-0123456789abcdef0 keep=yes",
        )],
    },
    Text {
        name: "kami-snapshot-untag",
        description: &["Takes tags from a snapshot. One that it does not have is no error."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Take a tag away:",
            "kami snapshot untag snap-0123456789abcdef0 keep",
        )],
    },
];

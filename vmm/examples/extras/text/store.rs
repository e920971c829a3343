//! What is written about `kami store`.

use kami_vmm::exit::Exit::{Done, Failed, Usage};

use super::Text;

pub const TEXTS: &[Text] = &[
    Text {
        name: "kami-store",
        description: &[
            "The store is the folder with everything that Kami keeps: the catalogue, and the content of snapshots, volumes and \
             kernels. Many processes may work in it at once, and any of them may be killed at any moment.",
        ],
        exits: &[Done, Failed, Usage],
        has_store: true,
        examples: &[("Check the store:", "kami store check")],
    },
    Text {
        name: "kami-store-check",
        description: &[
            "Reads all content and compares it with its digests, and all that the catalogue and the files name with what there is. \
             Prints what is wrong, and fails if anything is.",
            "With --repair what is damaged is moved to quarantine/ in the store's folder, and the snapshots and images that used \
             it are marked, so that nothing is launched from them.",
        ],
        exits: &[Done, Failed, Usage],
        has_store: true,
        examples: &[
            ("Check the store:", "kami store check"),
            (
                "Put what is damaged out of the way:",
                "kami store check --repair",
            ),
        ],
    },
    Text {
        name: "kami-store-gc",
        description: &[
            "Deletes files that crashes have left, and frees the space of deleted snapshots that nothing stands on any more. Both \
             happen by and by without it.",
        ],
        exits: &[Done, Failed, Usage],
        has_store: true,
        examples: &[
            ("Collect garbage:", "kami store gc"),
            (
                "See which files would be deleted:",
                "kami store gc --dry-run",
            ),
        ],
    },
];

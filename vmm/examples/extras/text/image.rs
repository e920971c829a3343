//! What is written about `kami image`.

use kami_vmm::exit::Exit::{BadInput, Done, Failed, Interrupted, NotFound, Usage};

use super::Text;

pub const TEXTS: &[Text] = &[
    Text {
        name: "kami-image",
        description: &[
            "A machine image is a manifest in the shape that EC2's describe-images prints, and snapshots with the content of \
             its volumes. Neither ever changes.",
            "The store keeps content that snapshots share once, and zeroes not at all.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound, Interrupted],
        has_store: true,
        examples: &[("List the images of the store:", "kami image ls")],
    },
    Text {
        name: "kami-image-register",
        description: &[
            "Registers the image that the manifest describes and prints its id. Each snapshot that its block device mapping \
             names is read from the file given for it, unless the store has a snapshot of that id already.",
            "The kernel and the ramdisk that it names as KernelId and RamdiskId are imported first, with \
             kami-kernel-import(1).",
            "A registration that fails or that a signal interrupts is undone.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound, Interrupted],
        has_store: true,
        examples: &[(
            "Register an image of one snapshot:",
            "kami image register web.json --snapshot snap-0123456789abcdef0=disk.qcow2",
        )],
    },
    Text {
        name: "kami-image-import",
        description: &[
            "Makes a snapshot of the disk and an image with that as its only volume, and prints the image's id. The format of \
             the file is told from its content. Holes and zeroes take no space.",
            "An import that fails or that a signal interrupts is undone.",
        ],
        exits: &[Done, Failed, Usage, BadInput, Interrupted],
        has_store: true,
        examples: &[
            (
                "Make an image of a disk for this host's architecture:",
                "kami image import disk.qcow2 --name web",
            ),
            (
                "Make an image of a disk for 32-bit x86:",
                "kami image import old.vmdk --name old --arch i386",
            ),
        ],
    },
    Text {
        name: "kami-image-ls",
        description: &["Lists the images of the store, by name."],
        exits: &[Done, Failed, Usage],
        has_store: true,
        examples: &[(
            "Print the images as describe-images does:",
            "kami image ls --output json",
        )],
    },
    Text {
        name: "kami-image-show",
        description: &["Prints all members of an image, as describe-images does."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Show an image by its name:", "kami image show web")],
    },
];

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
    Text {
        name: "kami-image-modify",
        description: &[
            "Changes who may launch an image, its description, or the versions of the metadata service that its instances \
             have. Nothing else of a registered image ever changes.",
            "An image is private at first: its owner alone may launch it. A permission is for an account, or for all.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound],
        has_store: true,
        examples: &[(
            "Let an account launch an image:",
            "kami image modify web --add-permission 123456789012",
        )],
    },
    Text {
        name: "kami-image-permissions",
        description: &[
            "Prints who may launch an image besides its owner, as describe-image-attribute does.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Show who may launch an image:",
            "kami image permissions web",
        )],
    },
    Text {
        name: "kami-image-tag",
        description: &["Gives an image tags. A key that it has already gets the new value."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Tag an image:", "kami image tag web stage=live")],
    },
    Text {
        name: "kami-image-untag",
        description: &["Takes tags from an image. One that it does not have is no error."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Take a tag away:", "kami image untag web stage")],
    },
    Text {
        name: "kami-image-deprecate",
        description: &[
            "From then on the image is no longer listed to accounts other than its owner's. Whoever knows its id may launch \
             it as before.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Deprecate an image in 30 days:",
            "kami image deprecate web --at 30d",
        )],
    },
    Text {
        name: "kami-image-undeprecate",
        description: &["Takes back that an image is, or will be, deprecated."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("List it to others again:", "kami image undeprecate web")],
    },
    Text {
        name: "kami-image-disable",
        description: &[
            "Nobody can launch a disabled image, and its launch permissions are gone. Instances of it are untouched.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Disable an image:", "kami image disable web")],
    },
    Text {
        name: "kami-image-enable",
        description: &[
            "Lets its owner launch a disabled image again. Launch permissions do not come back.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Enable it again:", "kami image enable web")],
    },
    Text {
        name: "kami-image-protect",
        description: &["A protected image cannot be deregistered or pruned."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Protect an image:", "kami image protect web")],
    },
    Text {
        name: "kami-image-unprotect",
        description: &[
            "Takes the protection away, after 24 hours if it was given with a cooldown.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Take the protection away:", "kami image unprotect web")],
    },
    Text {
        name: "kami-image-copy",
        description: &[
            "Makes another image with the same snapshots, of the caller's account, and prints its id. No content is copied. \
             Launch permissions are not copied either, and tags only when asked for.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound],
        has_store: true,
        examples: &[(
            "Copy an image with its tags:",
            "kami image copy web --name web-2 --copy-tags",
        )],
    },
    Text {
        name: "kami-image-deregister",
        description: &[
            "Removes images. Instances of them are untouched, and their snapshots stay, unless --delete-snapshots is given: \
             then those go that no other image uses.",
            "One bad id fails the command before anything is removed.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Remove an image with its snapshots:",
            "kami image deregister web --delete-snapshots",
        )],
    },
    Text {
        name: "kami-image-prune",
        description: &[
            "Of the images whose names fit a pattern it keeps the newest, and those that are young enough; the others are \
             deregistered, with the snapshots that only they used. Protected images stay, and so do those of others.",
            "Without --yes it only tells which images would go. --policies applies the rules of config.toml.",
        ],
        exits: &[Done, Failed, Usage, BadInput],
        has_store: true,
        examples: &[
            (
                "Tell which old images would go:",
                "kami image prune --name web-* --keep 3 --older-than 30d",
            ),
            (
                "Apply the policies of config.toml:",
                "kami image prune --policies --yes",
            ),
        ],
    },
    Text {
        name: "kami-image-create",
        description: &[
            "Makes an image of an instance and prints its id. Every volume that is attached to the instance is snapshotted, all of \
             one moment; ephemeral disks stay in the mapping, without what is on them.",
            "A running guest is told to power off first, and started again: its file systems are then whole. With --no-reboot it \
             runs on, and the image has what it had written by then, as after a power cut.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound, Interrupted],
        has_store: true,
        examples: &[
            (
                "Make an image of an instance:",
                "kami image create web --name web-2",
            ),
            (
                "Make one while the guest runs, without its third volume:",
                "kami image create web --name web-3 --no-reboot -b /dev/sdc=none",
            ),
        ],
    },
];

//! What is written about `kami volume`.

use kami_vmm::exit::Exit::{BadInput, Done, Failed, NotFound, Usage};

use super::Text;

pub const TEXTS: &[Text] = &[
    Text {
        name: "kami-volume",
        description: &[
            "A volume is a disk that outlives instances. A launch makes those that the image's block device mapping names; these \
             commands make others, and change which instance has which.",
            "Volumes are named by their ids or by unique beginnings of these. Ephemeral disks are no volumes: they go with the \
             instance.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound],
        has_store: true,
        examples: &[("List the volumes of the store:", "kami volume ls")],
    },
    Text {
        name: "kami-volume-create",
        description: &[
            "Makes a volume and prints its id. It is empty, or has the content of a snapshot and zeroes beyond that; what a \
             snapshot has is shared with it until the volume is written to.",
            "The size must be one that EC2 gives the type, and so must Iops and Throughput, which limit the disk in the guest. \
             A volume that states none is not limited.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound],
        has_store: true,
        examples: &[
            (
                "Make an empty volume of 20 GiB:",
                "kami volume create --size 20",
            ),
            (
                "Make one of a snapshot, limited to 3000 operations and 125 MiB a second:",
                "kami volume create --snapshot snap-0123456789abcdef0 --iops 3000 --throughput 125",
            ),
        ],
    },
    Text {
        name: "kami-volume-ls",
        description: &["Lists the volumes of the store, oldest first."],
        exits: &[Done, Failed, Usage],
        has_store: true,
        examples: &[
            (
                "List those that no instance has:",
                "kami volume ls --filter Name=status,Values=available",
            ),
            (
                "Print the volumes as describe-volumes does:",
                "kami volume ls --output json",
            ),
        ],
    },
    Text {
        name: "kami-volume-show",
        description: &["Prints all that is known of a volume, as describe-volumes does."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Show a volume:", "kami volume show vol-0123456789abcdef0")],
    },
    Text {
        name: "kami-volume-attach",
        description: &[
            "Attaches a volume to an instance that has stopped; it has it from its next start on. The guest sees it behind the \
             disks that it has already. Attached as the instance's root device it is what the instance boots from.",
            "The volume is not deleted when the instance is terminated.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound],
        has_store: true,
        examples: &[(
            "Attach a volume:",
            "kami volume attach vol-0123456789abcdef0 web /dev/sdf",
        )],
    },
    Text {
        name: "kami-volume-detach",
        description: &[
            "Takes volumes from the instances that have them, all of which must have stopped. One bad id fails the command \
             before anything is detached. An instance without its root cannot start until another volume is attached as it.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Detach a volume, if it is that instance's:",
            "kami volume detach vol-0123456789abcdef0 --instance web",
        )],
    },
    Text {
        name: "kami-volume-modify",
        description: &[
            "Changes the size, the type or the limits of a volume that no running instance has. A volume only grows; the guest \
             sees the new size at the instance's next start, and what it does about the file system is its own affair. With \
             another type the limits go that were the old one's.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound],
        has_store: true,
        examples: &[(
            "Grow a volume to 100 GiB:",
            "kami volume modify vol-0123456789abcdef0 --size 100",
        )],
    },
    Text {
        name: "kami-volume-delete",
        description: &[
            "Deletes volumes that no instance has, and prints their ids. Snapshots that were made of them stay. One bad id fails \
             the command before anything is deleted.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[
            (
                "Delete a volume:",
                "kami volume delete vol-0123456789abcdef0",
            ),
            (
                "See what would be deleted:",
                "kami volume delete --dry-run vol-0123456789abcdef0",
            ),
        ],
    },
    Text {
        name: "kami-volume-tag",
        description: &["Gives a volume tags. A key that it has already gets the new value."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Give a volume a name:",
            "kami volume tag vol-0123456789abcdef0 Name=data",
        )],
    },
    Text {
        name: "kami-volume-untag",
        description: &["Takes tags from a volume. One that it does not have is no error."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Take its name from a volume:",
            "kami volume untag vol-0123456789abcdef0 Name",
        )],
    },
];

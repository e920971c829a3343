//! What a command's definition does not say: a description in prose, which exit statuses it has, examples.

use kami_vmm::exit::Exit::{self, BadInput, Done, Failed, Interrupted, NotFound, Usage};

/// What is written about one command.
#[derive(Debug)]
pub struct Text {
    /// The page's name.
    pub name: &'static str,
    pub description: &'static [&'static str],
    pub exits: &'static [Exit],
    /// The command reads or changes the store.
    pub has_store: bool,
    /// What for, and the command line.
    pub examples: &'static [(&'static str, &'static str)],
}

/// What is written about the command whose page has that name.
pub fn of(name: &str) -> Option<&'static Text> {
    TEXTS.iter().find(|text| text.name == name)
}

/// What every command that has to do with the store reads.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("KAMI_HOME", "The folder of the store."),
    (
        "XDG_DATA_HOME",
        "Where KAMI_HOME is not set, the store is the folder kami in this one. Where neither is, it is ~/.local/share/kami.",
    ),
    (
        "XDG_RUNTIME_DIR",
        "The control sockets of the instances lie in the folder kami in this one. Where it is not set, they lie in /tmp/kami-UID.",
    ),
    (
        "KAMI_LOG",
        "How much is logged on standard error: off, error, warn (the default), info, debug or trace.",
    ),
];

pub const FILES: &[(&str, &str)] = &[
    (
        "~/.local/share/kami",
        "The store, unless the environment says otherwise: images, snapshots, volumes, kernels, and the instances with \
         their console logs.",
    ),
    (
        "/dev/kvm",
        "The KVM device. Whoever may read and write it may run guests.",
    ),
];

pub const TEXTS: &[Text] = &[
    Text {
        name: "kami",
        description: &[
            "Kami launches virtual machines from machine images: an image manifest in Amazon EC2's shape, a root disk made \
             copy-on-write from a snapshot, ephemeral scratch disks by the image's block device mapping, and a guest kernel \
             under KVM.",
            "One process is one instance; there is no daemon, and root is not needed. An image never changes: what a guest \
             writes goes to the instance's own volumes.",
            "Images and instances are named by their ids, by unique beginnings of these, or by name. Listings are tables, or \
             with --output json what EC2 prints for the same thing.",
        ],
        exits: &Exit::ALL,
        has_store: true,
        examples: &[
            ("Tell whether this host can run guests:", "kami doctor"),
            (
                "Make an image of a disk, and launch it on this terminal:",
                "kami image import disk.qcow2 --name web; kami run web --kernel vmlinuz --initrd initrd.img",
            ),
            ("List what runs:", "kami ps"),
        ],
    },
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
        name: "kami-kernel",
        description: &[
            "Images name the kernel and the ramdisk that they boot with by KernelId and RamdiskId. These commands give \
             kernels (aki-ID) and ramdisks (ari-ID) such ids.",
        ],
        exits: &[Done, Failed, Usage, BadInput],
        has_store: true,
        examples: &[("List the kernels of the store:", "kami kernel ls")],
    },
    Text {
        name: "kami-kernel-import",
        description: &[
            "Copies the file into the store and prints the id to name it by. The file's content tells whether it is a kernel \
             or a ramdisk, and which architecture a kernel is for; it need not be this host's. The same file has the same id.",
            "A kernel that is compressed is unpacked once, here or at its first launch.",
        ],
        exits: &[Done, Failed, Usage, BadInput],
        has_store: true,
        examples: &[
            (
                "Import a kernel:",
                "kami kernel import /boot/vmlinuz --name linux",
            ),
            ("Import its ramdisk:", "kami kernel import /boot/initrd.img"),
        ],
    },
    Text {
        name: "kami-kernel-ls",
        description: &["Lists the kernels and ramdisks of the store."],
        exits: &[Done, Failed, Usage],
        has_store: true,
        examples: &[(
            "Print kernels and ramdisks as describe-images does:",
            "kami kernel ls --output json",
        )],
    },
    Text {
        name: "kami-run",
        description: &[
            "Launches an instance: makes its volumes from the image's snapshots, copy-on-write, and its ephemeral disks, and \
             boots the kernel given, else the image's own. The guest sees the disks as virtio-blk in mapping order, root \
             first, each with the volume's id as its serial.",
            "The terminal is the guest's serial console until the guest ends. Ctrl-] opens a menu: power button, reset, quit. \
             A reset by the guest boots it again; a power off ends the instance, and its exit status tells how.",
            "An image runs on a host of its architecture; one for i386 runs on x86_64 as well, under a kernel for either.",
            "An instance that has ended stays listed by kami ps -a until kami rm removes it, with its ephemeral disks and the \
             volumes that the mapping marks DeleteOnTermination.",
            "The kernel's command line names the console and the root device; --help prints it.",
        ],
        exits: &Exit::ALL,
        has_store: true,
        examples: &[
            (
                "Launch an image with a kernel of your own on this terminal:",
                "kami run web --kernel vmlinuz --initrd initrd.img",
            ),
            (
                "Launch an image in the background, with two processors and 2 GiB of memory:",
                "kami run web -d --cpus 2 --memory 2G",
            ),
            (
                "Give the guest a scratch disk and an empty volume of 20 GiB:",
                "kami run web -b /dev/sdb=ephemeral0 --ephemeral-size 20G -b /dev/sdc=:20",
            ),
            (
                "Test that an image boots and powers off within a minute:",
                "kami run web --rm --timeout 1m --console file=boot.log",
            ),
        ],
    },
    Text {
        name: "kami-ps",
        description: &["Lists the instances that run, or with --all those that have ended too."],
        exits: &[Done, Failed, Usage],
        has_store: true,
        examples: &[
            ("List all instances, with what ended them:", "kami ps --all"),
            (
                "Print what runs as describe-instances does:",
                "kami ps --output json",
            ),
        ],
    },
    Text {
        name: "kami-logs",
        description: &[
            "Prints what an instance wrote to its serial console, whether or not it still runs.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Follow the console until the instance ends:",
            "kami logs -f web",
        )],
    },
    Text {
        name: "kami-stop",
        description: &[
            "Presses the power button of each instance and waits until the guest has powered off. One that still runs after \
             the grace time is ended by force. Prints the id of each that has stopped.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[
            ("Stop an instance:", "kami stop web"),
            ("End one by force now:", "kami stop --time 0 web"),
        ],
    },
    Text {
        name: "kami-rm",
        description: &[
            "Removes each instance, with its console log, its ephemeral disks, and the volumes that the mapping marks \
             DeleteOnTermination; prints its id. One bad id fails the command before anything is removed.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Remove an instance, whether or not it runs:",
            "kami rm -f web",
        )],
    },
    Text {
        name: "kami-doctor",
        description: &[
            "Looks at what launching needs of this host and says for each thing whether it is there, and how to mend what is \
             missing. Then boots a small test guest, from a store of its own that is deleted afterwards, and prints its report.",
        ],
        exits: &[Done, Failed, Usage],
        has_store: true,
        examples: &[("Check this host:", "kami doctor")],
    },
    Text {
        name: "kami-completion",
        description: &[
            "Prints a script that makes the shell complete kami's commands, options and files. Ids and names are not completed.",
            "Where shells look for it, for one user: bash in ~/.local/share/bash-completion/completions/kami, fish in \
             ~/.config/fish/completions/kami.fish, zsh in a file named _kami in a folder of $fpath.",
        ],
        exits: &[Done, Failed, Usage],
        has_store: false,
        examples: &[(
            "Complete kami in this bash:",
            "eval \"$(kami completion bash)\"",
        )],
    },
];

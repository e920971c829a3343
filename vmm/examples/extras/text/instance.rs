//! What is written about instances: `kami run` and its like.

use kami_vmm::exit::Exit::{self, BadInput, Done, Failed, Interrupted, NotFound, Usage};

use super::Text;

pub const TEXTS: &[Text] = &[
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
        name: "kami-instance",
        description: &[
            "An instance is a machine that was launched from an image: its volumes, its settings and its state. The commands \
             here do all that can be done with one; kami run, ps, logs, start, stop, reboot, terminate and rm are short for \
             those of the same name.",
            "An instance whose root is an EBS volume keeps its volumes when it stops, and can start again. Its ephemeral \
             disks are fresh at each start. One whose root is an instance store cannot stop.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound, Interrupted],
        has_store: true,
        examples: &[("List the instances that run:", "kami instance ls")],
    },
    Text {
        name: "kami-instance-ls",
        description: &["Lists instances, as kami-ps(1) does."],
        exits: &[Done, Failed, Usage],
        has_store: true,
        examples: &[("List all instances:", "kami instance ls --all")],
    },
    Text {
        name: "kami-instance-show",
        description: &["Shows all that is known of instances."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Print an instance as describe-instances does:",
            "kami instance show web --output json",
        )],
    },
    Text {
        name: "kami-instance-modify",
        description: &[
            "Changes an instance. Type, processors, memory, kernel, ramdisk, command line and user data change while it is \
             stopped, and take effect with its next start.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound],
        has_store: true,
        examples: &[
            (
                "Give an instance another type:",
                "kami instance modify web --type t3.large",
            ),
            (
                "Protect it from being terminated:",
                "kami instance modify web --disable-api-termination true",
            ),
        ],
    },
    Text {
        name: "kami-start",
        description: &[
            "Starts stopped instances again in the background, with the volumes that they have and fresh ephemeral disks, and \
             prints their ids. One that runs is left alone.",
        ],
        exits: &Exit::ALL,
        has_store: true,
        examples: &[
            ("Start an instance:", "kami start web"),
            ("Start it on this terminal:", "kami start --attach web"),
        ],
    },
    Text {
        name: "kami-reboot",
        description: &[
            "Presses the power button of each instance, and boots it again when its guest has powered off. A guest that does \
             not react within the grace time is reset by force. The instance stays what it is, and its ephemeral disks keep \
             their content.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Reboot an instance:", "kami reboot web")],
    },
    Text {
        name: "kami-terminate",
        description: &[
            "Ends instances for good: each is stopped if it runs, and deleted with its ephemeral disks and the volumes that \
             are marked DeleteOnTermination. It stays listed by kami ps --all for an hour. An instance with termination \
             protection is refused, and with it the whole command.",
        ],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Terminate an instance:", "kami terminate web")],
    },
    Text {
        name: "kami-instance-types",
        description: &[
            "Lists the instance types that --type takes: those of config.toml, and a table of EC2's common families with EC2's \
             numbers of processors, memory and ephemeral disks.",
        ],
        exits: &[Done, Failed, Usage, BadInput],
        has_store: false,
        examples: &[
            ("List all types:", "kami instance types"),
            (
                "Print one as describe-instance-types does:",
                "kami instance types m5d.large --output json",
            ),
        ],
    },
    Text {
        name: "kami-instance-tag",
        description: &["Gives an instance tags. A key that it has already gets the new value."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Tag an instance:", "kami instance tag web stage=live")],
    },
    Text {
        name: "kami-instance-untag",
        description: &["Takes tags from an instance. One that it does not have is no error."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Take a tag away:", "kami instance untag web stage")],
    },
];

//! What is written about `kami kernel`.

use kami_vmm::exit::Exit::{BadInput, Done, Failed, Usage};

use super::Text;

pub const TEXTS: &[Text] = &[
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
];

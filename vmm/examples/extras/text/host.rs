//! What is written about the commands that have nothing to do with the store.

use kami_vmm::exit::Exit::{Done, Failed, Usage};

use super::Text;

pub const TEXTS: &[Text] = &[
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

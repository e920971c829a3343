//! What is written about `kami parameter`.

use kami_vmm::exit::Exit::{BadInput, Done, Failed, NotFound, Usage};

use super::Text;

pub const TEXTS: &[Text] = &[
    Text {
        name: "kami-parameter",
        description: &[
            "A parameter is a name for an image, with versions: what launches by it gets the newest, and an older one is a \
             roll back away. As on EC2, it is used as resolve:ssm:NAME or resolve:ssm:NAME:VERSION.",
        ],
        exits: &[Done, Failed, Usage, BadInput, NotFound],
        has_store: true,
        examples: &[("List the parameters of the store:", "kami parameter ls")],
    },
    Text {
        name: "kami-parameter-put",
        description: &["Makes a new version of a parameter, and prints its number."],
        exits: &[Done, Failed, Usage, BadInput, NotFound],
        has_store: true,
        examples: &[
            (
                "Let a name stand for an image, which `kami run resolve:ssm:/golden/web` then launches:",
                "kami parameter put /golden/web web-7",
            ),
            (
                "Roll back:",
                "kami parameter put /golden/web resolve:ssm:/golden/web:6",
            ),
        ],
    },
    Text {
        name: "kami-parameter-get",
        description: &["Prints the id of the image that a parameter stands for."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[(
            "Ask for the newest version:",
            "kami parameter get /golden/web",
        )],
    },
    Text {
        name: "kami-parameter-history",
        description: &["Lists the versions of a parameter."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("List all versions:", "kami parameter history /golden/web")],
    },
    Text {
        name: "kami-parameter-ls",
        description: &["Lists parameters with what they stand for now."],
        exits: &[Done, Failed, Usage],
        has_store: true,
        examples: &[("List those of one level:", "kami parameter ls /golden/*")],
    },
    Text {
        name: "kami-parameter-delete",
        description: &["Deletes parameters with all their versions. The images are untouched."],
        exits: &[Done, Failed, Usage, NotFound],
        has_store: true,
        examples: &[("Delete a parameter:", "kami parameter delete /golden/web")],
    },
];

//! What a command's definition does not say: a description in prose, which exit statuses it has, examples.

mod host;
mod image;
mod instance;
mod kernel;
mod parameter;
mod snapshot;
mod store;
mod volume;

use kami_vmm::exit::Exit;

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

/// What is written about every command.
pub fn all() -> impl Iterator<Item = &'static Text> {
    let families = [
        TOP,
        image::TEXTS,
        volume::TEXTS,
        snapshot::TEXTS,
        parameter::TEXTS,
        store::TEXTS,
        kernel::TEXTS,
        instance::TEXTS,
        host::TEXTS,
    ];
    families.into_iter().flatten()
}

/// What is written about the command whose page has that name. `kami instance stop` and `kami stop` are one.
pub fn of(name: &str) -> Option<&'static Text> {
    let short = name.replacen("kami-instance-", "kami-", 1);
    all()
        .find(|text| text.name == name)
        .or_else(|| all().find(|text| text.name == short))
}

/// What every command that has to do with the store reads.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("KAMI_HOME", "The folder of the store."),
    (
        "KAMI_ACCOUNT",
        "The account, twelve digits, as which the command acts. Where it is not set it is that of config.toml; where neither \
         is, the command acts as the owner of everything.",
    ),
    (
        "KAMI_CONFIG",
        "The file of the settings. Where it is not set, it is kami/config.toml in XDG_CONFIG_HOME or in ~/.config.",
    ),
    ("NO_COLOR", "Errors have no colours, on a terminal either."),
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
        "~/.config/kami/config.toml",
        "The settings, unless the environment says otherwise: account, the user's own instance types, prune policies.",
    ),
    (
        "/dev/kvm",
        "The KVM device. Whoever may read and write it may run guests.",
    ),
];

const TOP: &[Text] = &[Text {
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
}];

//! Images and kernels of other architectures: what the store takes, what a host launches, and that a refusal
//! names both sides.

mod common;

use common::{Lab, Outcome};
use kami_kernels::{Architecture, guest};
use serde_json::Value;

/// A host that runs neither's code, for each.
const FOREIGN: Architecture = match Architecture::HOST {
    Architecture::Aarch64 => Architecture::X86_64,
    _ => Architecture::Aarch64,
};

/// An arm64 Image (arm64/booting.rst "4. Call the kernel image") of a header alone.
fn arm64_image() -> Vec<u8> {
    let mut image = vec![0; 4096];
    // image_size, and the magic.
    image[16..24].copy_from_slice(&4096_u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

/// An ELF kernel (System V gABI chapter 5) of one segment at 1 MiB, where it starts.
fn elf(machine: u16, class: u8) -> Vec<u8> {
    let word = |value: u64| match class {
        1 => u32::try_from(value).unwrap().to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    };
    let half = |value: u16| value.to_le_bytes();
    let (header, entry) = if class == 1 { (52, 32) } else { (64, 56) };
    let mut bytes = vec![
        0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    // e_type EXEC, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags.
    bytes.extend([half(2), half(machine)].concat());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend([word(1 << 20), word(u64::from(header)), word(0)].concat());
    bytes.extend(0_u32.to_le_bytes());
    // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
    bytes.extend(
        [
            half(header),
            half(entry),
            half(1),
            half(0),
            half(0),
            half(0),
        ]
        .concat(),
    );
    // p_type LOAD; p_flags stands here in 64 bits, after the sizes in 32.
    bytes.extend(1_u32.to_le_bytes());
    let flags = 5_u32.to_le_bytes();
    if class == 2 {
        bytes.extend(flags);
    }
    // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz.
    bytes.extend(
        [
            word(0),
            word(1 << 20),
            word(1 << 20),
            word(4096),
            word(4096),
        ]
        .concat(),
    );
    if class == 1 {
        bytes.extend(flags);
    }
    bytes.extend(word(4096));
    bytes.resize(4096, 0);
    bytes
}

fn kernel(architecture: Architecture) -> Vec<u8> {
    match architecture {
        Architecture::Aarch64 => arm64_image(),
        Architecture::X86_64 => elf(62, 2),
        Architecture::I386 => elf(3, 1),
    }
}

/// A lab with an image for each word of `--arch`, named `for WORD`, of a disk with the test pattern.
fn lab_of_images(words: &[&str]) -> Lab {
    let lab = Lab::new();
    let mut pattern = Vec::new();
    guest::write_test_disk(&mut pattern, 2048).unwrap();
    let disk = lab.file("root.raw", pattern);
    for word in words {
        let name = format!("for {word}");
        lab.done(&["image", "import", &disk, "--name", &name, "--arch", word]);
    }
    lab
}

fn run(lab: &Lab, image: &str, kernel: &[u8]) -> Outcome {
    let kernel = lab.file("vmlinuz", kernel);
    lab.kami(&["run", image, "--kernel", &kernel, "--memory", "128M"])
}

/// The `Architecture` of everything that a listing shows, with its name.
fn listed(lab: &Lab, command: &str) -> Vec<(String, String)> {
    let text = lab.done(&[command, "ls", "--output", "json"]);
    let listing: Value = serde_json::from_str(&text).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let images = listing["Images"].as_array().unwrap();
    let mut listed: Vec<_> = images
        .iter()
        .map(|image| (text(&image["Name"]), text(&image["Architecture"])))
        .collect();
    listed.sort();
    listed
}

#[test]
fn import_takes_the_words_of_others_and_this_hosts_by_default() {
    let lab = lab_of_images(&["amd64", "aarch64", "i686"]);
    let disk = lab.file("disk", vec![1; 4096]);
    lab.done(&["image", "import", &disk, "--name", "not said"]);
    let host = Architecture::HOST.to_string();
    let pairs = [
        ("for aarch64", "arm64"),
        ("for amd64", "x86_64"),
        ("for i686", "i386"),
        ("not said", &host),
    ];
    let pairs = pairs.map(|(name, word)| (name.to_owned(), word.to_owned()));
    assert_eq!(listed(&lab, "image"), pairs);
    let wrong = lab.kami(&["image", "import", &disk, "--name", "vax", "--arch", "vax"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.err.contains("x86_64, arm64, i386"), "{wrong:?}");
}

#[test]
fn kernels_of_every_architecture_are_kept_and_listed() {
    let lab = Lab::new();
    let all = [
        Architecture::Aarch64,
        Architecture::I386,
        Architecture::X86_64,
    ];
    for architecture in all {
        let file = lab.file("kernel", kernel(architecture));
        let name = architecture.to_string();
        lab.done(&["kernel", "import", &file, "--name", &name]);
    }
    let pairs = all.map(|architecture| (architecture.to_string(), architecture.to_string()));
    assert_eq!(listed(&lab, "kernel"), pairs);
    let other = lab.file("kernel", elf(243, 2));
    lab.kami(&["kernel", "import", &other])
        .refused(3, &["riscv"]);
}

#[test]
fn image_for_another_architecture_is_refused_and_both_are_named() {
    let (foreign, host) = (FOREIGN.to_string(), Architecture::HOST.to_string());
    let lab = lab_of_images(&[&foreign]);
    let outcome = run(&lab, &format!("for {foreign}"), &kernel(Architecture::HOST));
    outcome.refused(
        3,
        &[
            "ami-",
            &format!("for {foreign}"),
            &format!("host is {host}"),
        ],
    );
    outcome.helps(&format!("a host for {foreign}"));
    assert_eq!(lab.state(), None);
}

#[test]
fn kernel_for_another_architecture_is_refused_and_both_are_named() {
    let (foreign, host) = (FOREIGN.to_string(), Architecture::HOST.to_string());
    let lab = lab_of_images(&[&host]);
    let parts = [&*format!("for {foreign}"), &format!("host is {host}")];
    let given = run(&lab, &format!("for {host}"), &kernel(FOREIGN));
    given.refused(3, &["vmlinuz", parts[0], parts[1]]);
    given.helps(&format!("a kernel for {host}"));

    // The same by an image's KernelId.
    let file = lab.file("kernel", kernel(FOREIGN));
    let id = lab.done(&["kernel", "import", &file]);
    let manifest = common::manifest(|text| {
        let members = format!("\"KernelId\": \"{id}\", \"Architecture\": \"{host}\"");
        text.replacen("\"Architecture\": \"x86_64\"", &members, 1)
    });
    let manifest = lab.file("manifest.json", manifest);
    let snapshot = format!("{}={}", common::SNAPSHOT, lab.path("root.raw").display());
    lab.done(&["image", "register", &manifest, "--snapshot", &snapshot]);
    let named = lab.kami(&["run", "test image"]);
    named.refused(3, &[&id, parts[0], parts[1]]);
    assert_eq!(lab.state(), None);
}

#[test]
fn kernel_that_cannot_run_the_images_programs_is_refused() {
    let lab = lab_of_images(&["x86_64"]);
    let outcome = run(&lab, "for x86_64", &kernel(Architecture::I386));
    if Architecture::HOST == Architecture::X86_64 {
        outcome.refused(3, &["ami-", "for x86_64", "vmlinuz", "for i386"]);
        outcome.helps("a kernel for x86_64");
    } else {
        outcome.refused(3, &["ami-", "for x86_64", "host is arm64"]);
    }
    assert_eq!(lab.state(), None);
}

#[test]
fn image_for_i386_runs_under_a_kernel_for_x86_64() {
    let lab = lab_of_images(&["i386"]);
    let outcome = run(&lab, "for i386", guest::TEST_GUEST);
    if Architecture::HOST == Architecture::X86_64 {
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        // The instance is what its image says.
        let listing = lab.done(&["ps", "-a", "--output", "json"]);
        assert!(listing.contains("\"Architecture\": \"i386\""), "{listing}");
    } else {
        outcome.refused(3, &["for i386", "host is arm64"]);
    }
}

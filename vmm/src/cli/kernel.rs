//! `kami kernel`: kernels and ramdisks that images name by KernelId and RamdiskId.

use std::path::{Path, PathBuf};

use kami_image::store::{KernelKind, KernelRecord, NewKernel, Store, iso8601};
use kami_kernels::{Cache, FileKind};
use serde_json::{Value, json};

use super::output::{Format, OutputArgs, print, print_json, table};
use super::value::show_size;
use super::{Error, open_store};
use crate::architecture;
use crate::exit::Exit;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Keep a copy of a kernel, or of a ramdisk, and give it an id
    Import(ImportArgs),
    /// List kernels and ramdisks
    Ls(OutputArgs),
}

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The kernel, for whatever architecture, or the ramdisk: its content tells which
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Name it
    #[arg(long)]
    name: Option<String>,
}

impl Command {
    pub fn run(self) -> Result<Exit, Error> {
        match self {
            Self::Import(args) => import(args),
            Self::Ls(output) => list(output),
        }
    }
}

fn import(args: ImportArgs) -> Result<Exit, Error> {
    let store = open_store()?;
    let (kind, architecture) = kind_of(&store, &args.file)?;
    let kernel = NewKernel {
        kind,
        name: args.name,
        architecture,
    };
    let record = store.add_kernel(&kernel, &args.file)?;
    print(&format!("{}\n", record.id))?;
    Ok(Exit::Done)
}

/// What the file's content says it is. A kernel is opened as a launch would: a truncated one is
/// refused here, and the first launch finds a packed one unpacked. It need not be for this host.
fn kind_of(store: &Store, path: &Path) -> Result<(KernelKind, Option<architecture::Word>), Error> {
    match kami_kernels::identify(path)? {
        FileKind::Ramdisk { .. } => Ok((KernelKind::Ramdisk, None)),
        _ => {
            let kernel = Cache::new(store.home().join("cache")).open_any(path)?;
            Ok((
                KernelKind::Kernel,
                Some(architecture::word(kernel.architecture)),
            ))
        }
    }
}

fn list(output: OutputArgs) -> Result<Exit, Error> {
    let kernels = open_store()?.kernels()?;
    match output.format {
        Format::Json => {
            let images: Vec<_> = kernels.iter().map(as_image).collect();
            print_json(&json!({ "Images": images }))?;
        }
        Format::Table => {
            let rows: Vec<_> = kernels.iter().map(row).collect();
            print(&table(["ID", "NAME", "ARCH", "SIZE", "IMPORTED"], &rows))?;
        }
    }
    Ok(Exit::Done)
}

fn row(kernel: &KernelRecord) -> [String; 5] {
    [
        kernel.id.to_string(),
        kernel.name.clone().unwrap_or_default(),
        kernel
            .architecture
            .map_or_else(String::new, |arch| arch.to_string()),
        show_size(kernel.size_bytes),
        iso8601(kernel.created),
    ]
}

/// EC2 describes kernels and ramdisks as images.
fn as_image(kernel: &KernelRecord) -> Value {
    let mut image = json!({
        "ImageId": kernel.id.to_string(),
        "ImageType": kernel.kind.as_str(),
        "State": "available",
        "CreationDate": iso8601(kernel.created),
    });
    if let Some(name) = &kernel.name {
        image["Name"] = json!(name);
    }
    if let Some(architecture) = kernel.architecture {
        image["Architecture"] = json!(architecture);
    }
    image
}

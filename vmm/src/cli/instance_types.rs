//! `kami instance types`: the instance types that there are, the user's own first.

use kami_image::instance_type::InstanceType;
use serde_json::{Value, json};

use super::Error;
use super::output::{Format, OutputArgs, print, print_json, table};
use super::value::show_size;
use crate::config::Config;
use crate::exit::Exit;

/// As EC2 counts the disks of an instance store.
const GB: u64 = 1_000_000_000;

#[derive(Debug, clap::Args)]
pub struct TypesArgs {
    /// Only these
    #[arg(value_name = "TYPE")]
    types: Vec<String>,

    #[command(flatten)]
    output: OutputArgs,
}

impl TypesArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let config = Config::load()?;
        let types = match self.types.is_empty() {
            true => config.all_instance_types(),
            false => {
                let types = self.types.iter().map(|name| config.instance_type(name));
                types.collect::<Result<_, _>>()?
            }
        };
        match self.output.format {
            Format::Json => {
                let shown: Vec<_> = types.iter().map(describe).collect();
                print_json(&json!({ "InstanceTypes": shown }))?;
            }
            Format::Table => {
                let rows: Vec<_> = types.iter().map(row).collect();
                print(&table(["TYPE", "CPUS", "MEMORY", "EPHEMERAL DISKS"], &rows))?;
            }
        }
        Ok(Exit::Done)
    }
}

fn row(it: &InstanceType) -> [String; 4] {
    let disks = &it.ephemeral;
    [
        it.name.clone(),
        it.vcpus.to_string(),
        show_size(it.memory_bytes),
        match disks.count {
            0 => String::new(),
            count => format!("{count} x {}", show_size(disks.size_bytes)),
        },
    ]
}

/// A type as EC2's describe-instance-types shows one.
fn describe(it: &InstanceType) -> Value {
    let disks = &it.ephemeral;
    let mut shown = json!({
        "InstanceType": it.name,
        "VCpuInfo": { "DefaultVCpus": it.vcpus },
        "MemoryInfo": { "SizeInMiB": it.memory_bytes >> 20 },
        "InstanceStorageSupported": disks.count > 0,
    });
    if disks.count > 0 {
        let size_gb = disks.size_bytes / GB;
        shown["InstanceStorageInfo"] = json!({
            "TotalSizeInGB": size_gb * u64::from(disks.count),
            "Disks": [{ "SizeInGB": size_gb, "Count": disks.count, "Type": "ssd" }],
        });
    }
    shown
}

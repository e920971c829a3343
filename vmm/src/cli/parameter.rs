//! `kami parameter`: names for images, with their versions.
//!
//! In the shapes of AWS Systems Manager Parameter Store, whose parameters EC2 takes for images.

use kami_image::filter;
use kami_image::store::{Parameter, iso8601};
use serde_json::{Value, json};

use super::output::{Format, OutputArgs, print, print_json, table};
use super::{Error, open_store};
use crate::exit::Exit;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Let a parameter name an image from now on; what it named before stays as an older version
    Put(PutArgs),
    /// Print the id of the image that a parameter names
    Get(GetArgs),
    /// List parameters
    Ls(LsArgs),
    /// List the versions of a parameter
    History(HistoryArgs),
    /// Delete parameters with all their versions
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

#[derive(Debug, clap::Args)]
pub struct PutArgs {
    /// The parameter, such as /golden/web: `kami run resolve:ssm:/golden/web` launches the image
    name: String,

    /// The image: its id, a unique start of it, its name, or resolve:ssm:NAME:VERSION to roll back
    image: String,
}

#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// The parameter; without a version, the newest
    #[arg(value_name = "NAME[:VERSION]")]
    parameter: String,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// List those whose names fit, with * for any text
    #[arg(value_name = "PATTERN")]
    pattern: Option<String>,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// The parameter
    name: String,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// The parameters
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

impl Command {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        match self {
            Self::Put(args) => {
                let put = store.put_parameter(&args.name, &args.image)?;
                print(&format!("{}:{}\n", put.name, put.version))?;
            }
            Self::Get(args) => {
                let parameter = store.parameter(&args.parameter)?;
                match args.output.format {
                    Format::Json => print_json(&json!({ "Parameter": shown(&parameter) }))?,
                    Format::Table => print(&format!("{}\n", parameter.value))?,
                }
            }
            Self::Ls(args) => {
                let mut parameters = store.parameters()?;
                if let Some(pattern) = &args.pattern {
                    parameters.retain(|parameter| filter::matches(pattern, &parameter.name));
                }
                list(&parameters, args.output)?;
            }
            Self::History(args) => list(&store.parameter_history(&args.name)?, args.output)?,
            Self::Delete(args) => {
                for name in &args.names {
                    store.parameter(name)?;
                }
                for name in &args.names {
                    store.delete_parameter(name)?;
                }
            }
        }
        Ok(Exit::Done)
    }
}

fn list(parameters: &[Parameter], output: OutputArgs) -> Result<(), Error> {
    match output.format {
        Format::Json => {
            let parameters: Vec<_> = parameters.iter().map(shown).collect();
            print_json(&json!({ "Parameters": parameters }))?;
        }
        Format::Table => {
            let rows: Vec<_> = parameters.iter().map(row).collect();
            print(&table(["NAME", "VERSION", "IMAGE ID", "CHANGED"], &rows))?;
        }
    }
    Ok(())
}

fn row(parameter: &Parameter) -> [String; 4] {
    [
        parameter.name.clone(),
        parameter.version.to_string(),
        parameter.value.clone(),
        iso8601(parameter.changed),
    ]
}

fn shown(parameter: &Parameter) -> Value {
    json!({
        "Name": parameter.name,
        "Type": "String",
        "Value": parameter.value,
        "Version": parameter.version,
        "LastModifiedDate": iso8601(parameter.changed),
        "DataType": "aws:ec2:image",
    })
}

//! What every listing takes: filters and pages, in EC2's syntax.

use kami_image::filter::{Filter, Filters, Noun, Page, Token};

use super::Error;
use super::output::OutputArgs;

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// List only what one of the values fits, with * for any text and ? for one character or none;
    /// given several times, only what passes all. The names are those of EC2's listing, and tag:KEY
    #[arg(
        long = "filter",
        alias = "filters",
        num_args = 1..,
        value_name = "Name=NAME,Values=VALUE[,...]"
    )]
    filters: Vec<Filter>,

    /// List at most so many, and say where the rest begins
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_results: Option<u32>,

    /// List what follows the listing that ended with this token
    #[arg(long, value_name = "TOKEN")]
    next_token: Option<Token>,

    #[command(flatten)]
    pub output: OutputArgs,
}

impl ListArgs {
    /// The filters, for a listing of that noun.
    ///
    /// # Errors
    /// [`Error::Filter`] for a name that it does not know.
    pub fn filters(&self, noun: Noun) -> Result<Filters, Error> {
        Ok(Filters::new(noun, self.filters.clone())?)
    }

    pub fn page(&self) -> Page {
        Page {
            max_results: self.max_results.map(|most| most as usize),
            next_token: self.next_token.clone(),
        }
    }
}

/// Says after a table that there is more; a listing in JSON has a `NextToken`.
pub fn tell_token(token: Option<&Token>) {
    if let Some(token) = token {
        eprintln!("there is more: --next-token {token}");
    }
}

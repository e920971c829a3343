//! Launching: from a request to the guest's end.
//!
//! Resolve reads and checks everything and creates nothing; materialise creates the instance and
//! its volumes, which a later failure undoes; assemble builds the machine around them; run lasts
//! until the guest ends. Each step returns what the next one consumes.

pub mod background;
pub mod command_line;
mod error;
mod plan;
mod root;
mod run;

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kami_image::account::Account;
use kami_image::manifest::BlockDeviceMapping;
use kami_image::store::Store;

pub use error::Error;

use crate::exit::Exit;
use crate::machine::{self, Groundwork};
use crate::signals::{Signal, Signals};

/// What `kami run` was asked for.
#[derive(Debug)]
pub struct Request {
    /// As whom.
    pub account: Option<Account>,
    /// An image's id, a unique start of one, or a name.
    pub image: String,
    pub name: Option<String>,
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    /// What follows the default command line.
    pub append: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub block_devices: Vec<BlockDeviceMapping>,
    pub ephemeral_bytes: u64,
    pub console: Console,
    pub timeout: Option<Duration>,
    /// Remove the instance when it has ended.
    pub remove: bool,
    /// This is the background process of `kami run -d`.
    pub in_background: bool,
}

/// Where the guest's console goes, besides its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    Stdio,
    File(PathBuf),
    None,
}

/// Launches what `request` asks for in the store at `home`, and returns when the guest has ended.
///
/// # Errors
/// Everything that keeps the guest from running, with everything undone, and a KVM that cannot go
/// on with it.
pub fn launch(home: &Path, request: Request) -> Result<Exit, Error> {
    // From here on a signal waits until there is nothing to undo, or for the guest's event loop.
    let signals = Signals::block().map_err(Error::io("wait for signals"))?;
    let groundwork = Ahead::begin();
    let store = Store::open(home)?.with_account(request.account);
    let plan = plan::resolve(&store, request)?;
    if let Some(Signal::End) = signals.next() {
        return Err(Error::Interrupted);
    }
    let materialised = plan.materialise(&store)?;
    let assembled = materialised.assemble(signals, groundwork)?;
    assembled.run()
}

/// The machine's groundwork, which KVM lays on another thread while the store is opened and read:
/// on two processors the first byte of the guest comes half a millisecond earlier.
#[derive(Debug)]
struct Ahead(Option<JoinHandle<Result<Groundwork, machine::Error>>>);

impl Ahead {
    fn begin() -> Self {
        let named = thread::Builder::new().name("groundwork".to_owned());
        Self(named.spawn(Groundwork::lay).ok())
    }

    fn finish(self) -> Result<Groundwork, machine::Error> {
        // Without a thread it is laid now. A thread that panics takes the process with it.
        let laid = self.0.and_then(|thread| thread.join().ok());
        laid.unwrap_or_else(Groundwork::lay)
    }
}

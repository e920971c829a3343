//! Launching: from a request to the guest's end.
//!
//! Resolve reads and checks everything and creates nothing; materialise creates the instance and
//! its volumes, which a later failure undoes; assemble builds the machine around them; run lasts
//! until the guest ends. Each step returns what the next one consumes. A stopped instance starts in the
//! same steps, from what was kept of its launch.

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
use kami_image::id::InstanceId;
use kami_image::instance::InstanceSettings;
use kami_image::manifest::{BlockDeviceMapping, Tag};
use kami_image::mapping::Ephemeral;
use kami_image::store::{ClientToken, Reservation, Store};

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
    pub cpus: u32,
    pub memory_bytes: u64,
    pub block_devices: Vec<BlockDeviceMapping>,
    pub ephemeral: Ephemeral,
    /// With the kernel, the RAM disk and the command line that are given; else the image's.
    pub settings: InstanceSettings,
    /// The launch that it is a part of, if it is one.
    pub reservation: Option<Reservation>,
    pub tags: Vec<Tag>,
    pub client_token: Option<ClientToken>,
    pub attendance: Attendance,
    /// Remove the instance when it has ended.
    pub remove: bool,
}

/// How a guest is attended to.
#[derive(Clone, Debug)]
pub struct Attendance {
    pub console: Console,
    pub timeout: Option<Duration>,
    /// This is the background process of `kami run -d` or `kami start`.
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

/// Starts the stopped instance `id` again, and returns when the guest has ended. Of its ephemeral disks
/// come those that `ephemeral` allows; as at its launch, without.
///
/// # Errors
/// As [`launch`]; the instance is stopped then, as it was.
pub fn start(
    store: &Store,
    id: &InstanceId,
    ephemeral: Option<Ephemeral>,
    attendance: Attendance,
) -> Result<Exit, Error> {
    let signals = Signals::block().map_err(Error::io("wait for signals"))?;
    let groundwork = Ahead::begin();
    let plan = plan::again(store, id, ephemeral, attendance)?;
    if let Some(Signal::End) = signals.next() {
        return Err(Error::Interrupted);
    }
    let materialised = plan.materialise(store)?;
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

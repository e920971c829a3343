//! The disks of a running instance, asked by its control socket.

use std::io;
use std::time::Duration;

use kami_image::id::{InstanceId, SnapshotId, VolumeId};
use kami_image::store::{self, Live, Store, VolumeRecord};

use crate::control::{Client, Request, Response};

/// How long an instance may take to flush its disks: the host's memory may be full of what a guest
/// has written.
const PATIENCE: Duration = Duration::from_secs(600);

/// The instance's disks.
#[derive(Debug)]
pub struct LiveDisks {
    instance: String,
    pause: Option<Duration>,
}

impl LiveDisks {
    /// Those of the instance that runs with `volume`, if one does.
    ///
    /// # Errors
    /// [`store::Error::Catalogue`]
    pub fn with(store: &Store, volume: &VolumeRecord) -> Result<Option<Self>, store::Error> {
        let Some(id) = volume.instance else {
            return Ok(None);
        };
        match store.instance(&id.to_string()) {
            Ok(instance) => Ok(instance.state.is_live().then(|| Self::of(&id))),
            Err(store::Error::InstanceNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Those of `instance`, which runs. Asks nothing yet.
    pub fn of(instance: &InstanceId) -> Self {
        let instance = instance.to_string();
        let pause = None;
        Self { instance, pause }
    }

    /// How long the disks took no requests when they were last frozen.
    pub fn pause(&self) -> Option<Duration> {
        self.pause
    }

    /// Each request has its own connection.
    fn ask(&self, request: &Request) -> io::Result<Response> {
        match Client::connect(&self.instance)?.ask_within(request, PATIENCE)? {
            Response::Refused { message } => Err(io::Error::other(message)),
            response => Ok(response),
        }
    }
}

impl Live for LiveDisks {
    fn freeze(&mut self, volumes: &[VolumeId]) -> io::Result<Vec<u32>> {
        let volumes = volumes.to_vec();
        match self.ask(&Request::Freeze { volumes })? {
            Response::Frozen {
                layers,
                pause_microseconds,
            } => {
                self.pause = Some(Duration::from_micros(pause_microseconds));
                Ok(layers)
            }
            _ => Err(unexpected()),
        }
    }

    fn rebase(&mut self, volume: &VolumeId, snapshot: &SnapshotId, layer: u32) -> io::Result<()> {
        let request = Request::Rebase {
            volume: *volume,
            snapshot: *snapshot,
            layer,
        };
        match self.ask(&request)? {
            Response::Rebased => Ok(()),
            _ => Err(unexpected()),
        }
    }
}

fn unexpected() -> io::Error {
    io::Error::other("the instance answered something else")
}

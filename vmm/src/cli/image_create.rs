//! `kami image create`: an image of an instance.

use std::time::{Duration, Instant};

use kami_image::manifest::{BlockDeviceMapping, Image, Tag};
use kami_image::store::{ImageOfInstance, Instance, InstanceState, Live, Store};

use super::instances_verbs::gone_is_fine;
use super::output::print;
use super::progress::Meter;
use super::run::mapping;
use super::{Error, open_store};
use crate::exit::Exit;
use crate::instance;
use crate::instance::live::LiveDisks;
use crate::launch::background::{self, Started};

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The instance, running or stopped: its id, a unique start of it, or its name
    instance: String,

    /// The image's name
    #[arg(long)]
    name: String,

    /// What the image is
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Give the image a tag
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,

    /// Let a running guest run on. Its disks are of one moment all the same, but hold only what it has
    /// written by then, as after a power cut
    #[arg(long)]
    no_reboot: bool,

    /// Change the mapping: leave a volume out (/dev/sdc=none), add a disk (/dev/sdd=:20,
    /// /dev/sde=ephemeral1), or in JSON set a volume's DeleteOnTermination
    #[arg(long, short, value_name = "MAPPING", value_parser = mapping)]
    block_device: Vec<BlockDeviceMapping>,

    /// Seconds that a running guest has to power off before it is ended by force
    #[arg(
        long,
        short,
        value_name = "SECONDS",
        default_value_t = 30,
        conflicts_with = "no_reboot"
    )]
    time: u32,
}

impl CreateArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        let found = store.instance(&self.instance)?;
        let grace = Duration::from_secs(self.time.into());
        let request = ImageOfInstance {
            name: self.name,
            description: self.description,
            tags: self.tags,
            mappings: self.block_device,
        };
        let (image, exit) = if found.state != InstanceState::Running {
            (create(&store, &found, &request, None)?, Exit::Done)
        } else if self.no_reboot {
            let mut live = LiveDisks::of(&found.id);
            (
                create(&store, &found, &request, Some(&mut live))?,
                Exit::Done,
            )
        } else {
            rebooted(&store, &found, &request, grace)?
        };
        print(&format!("{}\n", image.image_id))?;
        Ok(exit)
    }
}

/// Stops the instance for its image, and starts it again, whatever has become of the image.
fn rebooted(
    store: &Store,
    instance: &Instance,
    request: &ImageOfInstance,
    grace: Duration,
) -> Result<(Image, Exit), Error> {
    if instance.remove_at_end {
        return Err(Error::Usage(
            "the instance is removed when it stops (--rm): make its image with --no-reboot",
        ));
    }
    instance.check_can_stop()?;
    store.check_create_image(instance, request)?;
    store.begin_stop(instance)?;
    instance::press(store, instance)?.ends_by(Instant::now() + grace)?;
    gone_is_fine(store.settle_instance(&instance.id))?;
    let id = instance.id.to_string();
    let created = store
        .instance(&id)
        .map_err(Error::from)
        .and_then(|stopped| create(store, &stopped, request, None));
    let started = background::start(["start".into(), id.into()].into_iter());
    let image = created?;
    match started? {
        Started::Running(_) => Ok((image, Exit::Done)),
        // It has said why.
        Started::Ended(code) => Ok((image, Exit::from_code(code))),
    }
}

fn create(
    store: &Store,
    instance: &Instance,
    request: &ImageOfInstance,
    live: Option<&mut dyn Live>,
) -> Result<Image, Error> {
    let mut progress = Meter::on_stderr()?;
    let show = &mut |what: &str, p| progress.show(what, p);
    let image = store.create_image(instance, request, live, show)?;
    progress.finish();
    Ok(image)
}

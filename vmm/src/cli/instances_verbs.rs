//! `kami start`, `stop`, `reboot`, `terminate`, `rm` and `logs`: what is done to instances that exist.
//!
//! As on EC2, one bad id, or one instance in the wrong state, fails a whole command before anything is
//! done.

use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};

use kami_image::mapping::Ephemeral;
use kami_image::store::{self, Instance, Store};

use super::output::{DryRun, print, tolerate_broken_pipe};
use super::value::duration;
use super::{Error, open_store};
use crate::config::Config;
use crate::console_log::Reader;
use crate::control;
use crate::exit::Exit;
use crate::instance;
use crate::launch::background::{self, Started};
use crate::launch::{self, Attendance, Console};

#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// The instance: its id, a unique start of it, or its name
    id: String,

    /// Go on until the instance ends
    #[arg(long, short)]
    follow: bool,
}

#[derive(Debug, clap::Args)]
pub struct StartArgs {
    /// The instances: their ids, unique starts of them, or names
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    /// Stay with the instance: its console on the terminal, its end the end of the command
    #[arg(long, short)]
    attach: bool,

    /// End the guest by force after this time, such as 90s or 1m30s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,

    /// This process is what a `start` started
    #[arg(long, hide = true)]
    background: bool,
}

#[derive(Debug, clap::Args)]
pub struct StopArgs {
    /// The instances: their ids, unique starts of them, or names
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    /// Seconds that a guest has to react to its power button before it is ended by force
    #[arg(long, short, value_name = "SECONDS", default_value_t = 30)]
    time: u32,
}

#[derive(Debug, clap::Args)]
pub struct RebootArgs {
    /// The instances: their ids, unique starts of them, or names
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    /// Seconds that a guest has to react to its power button before it is reset by force
    #[arg(long, short, value_name = "SECONDS", default_value_t = 30)]
    time: u32,
}

#[derive(Debug, clap::Args)]
pub struct TerminateArgs {
    /// The instances: their ids, unique starts of them, or names
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    /// Seconds that a guest has to react to its power button before it is ended by force
    #[arg(long, short, value_name = "SECONDS", default_value_t = 30)]
    time: u32,

    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// The instances: their ids, unique starts of them, or names
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    /// End running instances by force first
    #[arg(long, short)]
    force: bool,
}

impl LogsArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        let id = store.instance(&self.id)?.id;
        let mut log = Reader::open(&store.instance_folder(&id))?;
        let mut out = io::stdout().lock();
        let copied = if self.follow {
            let lives = || {
                store
                    .instance(&id.to_string())
                    .is_ok_and(|now| now.state.is_live())
            };
            log.follow(&mut out, || !lives())
        } else {
            log.copy(&mut out)
        };
        tolerate_broken_pipe(copied)?;
        Ok(Exit::Done)
    }
}

impl StartArgs {
    pub fn run(self) -> Result<Exit, Error> {
        if self.background {
            background::leave_session()?;
        }
        let store = open_store()?;
        let instances = all(&store, &self.ids)?;
        instances.iter().try_for_each(Instance::check_can_start)?;
        match &instances[..] {
            [instance] if self.background || self.attach => self.become_instance(&store, instance),
            _ if self.attach => Err(Error::Usage("only one instance can have the terminal")),
            instances => self.start_all(instances),
        }
    }

    fn become_instance(&self, store: &Store, instance: &Instance) -> Result<Exit, Error> {
        let attendance = Attendance {
            console: match self.attach {
                true => Console::Stdio,
                false => Console::None,
            },
            timeout: self.timeout,
            in_background: self.background,
        };
        let ephemeral = ephemeral_of(instance)?;
        Ok(launch::start(store, &instance.id, ephemeral, attendance)?)
    }

    fn start_all(&self, instances: &[Instance]) -> Result<Exit, Error> {
        let mut exit = Exit::Done;
        for instance in instances {
            // As on EC2, one that runs is none the worse for it.
            if !instance.state.is_live() {
                match background::start(self.background_args(instance).into_iter())? {
                    Started::Running(_) => {}
                    // It has said why; the others start all the same.
                    Started::Ended(code) => {
                        exit = Exit::from_code(code);
                        continue;
                    }
                }
            }
            print(&format!("{}\n", instance.id))?;
        }
        Ok(exit)
    }

    fn background_args(&self, instance: &Instance) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["start".into(), instance.id.to_string().into()];
        if let Some(timeout) = self.timeout {
            args.push("--timeout".into());
            args.push(format!("{}ms", timeout.as_millis()).into());
        }
        args
    }
}

/// The ephemeral disks of the instance's type; one that is not known any more changes nothing.
fn ephemeral_of(instance: &Instance) -> Result<Option<Ephemeral>, Error> {
    let Some(name) = &instance.settings.instance_type else {
        return Ok(None);
    };
    let found = Config::load()?.instance_type(name);
    Ok(found.ok().map(|found| found.ephemeral))
}

impl StopArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        let instances = all(&store, &self.ids)?;
        instances.iter().try_for_each(Instance::check_can_stop)?;
        for instance in &instances {
            store.begin_stop(instance)?;
        }
        end_all(&store, &instances, self.time, |instance| {
            gone_is_fine(store.settle_instance(&instance.id))
        })
    }
}

impl RebootArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        let instances = all(&store, &self.ids)?;
        instances.iter().try_for_each(Instance::check_can_reboot)?;
        for instance in &instances {
            instance::reboot(&store, instance, Duration::from_secs(self.time.into()))?;
            print(&format!("{}\n", instance.id))?;
        }
        Ok(Exit::Done)
    }
}

impl TerminateArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        let instances = all(&store, &self.ids)?;
        instances
            .iter()
            .try_for_each(Instance::check_can_terminate)?;
        if self.dry_run.is_set() {
            let ids: Vec<_> = instances.iter().map(|instance| instance.id).collect();
            self.dry_run.tell("terminate", &ids)?;
            return Ok(Exit::Done);
        }
        for instance in &instances {
            store.begin_termination(instance)?;
        }
        end_all(&store, &instances, self.time, |instance| {
            gone_is_fine(store.terminate(&instance.id))
        })
    }
}

/// Presses every power button, waits for every end, and does what is to be done `then`.
fn end_all(
    store: &Store,
    instances: &[Instance],
    grace_seconds: u32,
    then: impl Fn(&Instance) -> Result<(), Error>,
) -> Result<Exit, Error> {
    let mut asked = Vec::with_capacity(instances.len());
    for instance in instances {
        asked.push((instance, instance::press(store, instance)?));
    }
    let deadline = Instant::now() + Duration::from_secs(grace_seconds.into());
    for (instance, asked) in asked {
        asked.ends_by(deadline)?;
        then(instance)?;
        control::forget(&instance.id.to_string());
        print(&format!("{}\n", instance.id))?;
    }
    Ok(Exit::Done)
}

/// It was to be removed at its end, and has just removed itself.
pub fn gone_is_fine(ended: Result<(), store::Error>) -> Result<(), Error> {
    match ended {
        Err(store::Error::InstanceNotFound { .. }) => Ok(()),
        ended => Ok(ended?),
    }
}

impl RmArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        let instances = all(&store, &self.ids)?;
        for instance in &instances {
            instance.check_can_terminate()?;
            if instance.state.is_live() && !self.force {
                return Err(store::Error::InstanceRuns {
                    instance: instance.id,
                }
                .into());
            }
        }
        for instance in &instances {
            instance::kill(&store, instance)?;
            gone_is_fine(store.remove_instance(&instance.id))?;
            control::forget(&instance.id.to_string());
            print(&format!("{}\n", instance.id))?;
        }
        // Whoever removes things wants the space of what a crash left, too.
        store.sweep()?;
        Ok(Exit::Done)
    }
}

/// Every instance that is named, each once: one bad id fails the whole command.
pub fn all(store: &Store, ids: &[String]) -> Result<Vec<Instance>, Error> {
    let mut instances: Vec<Instance> = Vec::with_capacity(ids.len());
    for id in ids {
        let instance = store.instance(id)?;
        if instances.iter().all(|other| other.id != instance.id) {
            instances.push(instance);
        }
    }
    Ok(instances)
}

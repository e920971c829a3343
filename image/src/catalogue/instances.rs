//! The rows of instances.

use std::time::SystemTime;

use rusqlite::{OptionalExtension, params};

use super::{Catalogue, Error, convert, from_millis, ids_from, parsed, to_millis};
use crate::account::Account;
use crate::id::{ImageId, InstanceId};
use crate::instance::InstanceSettings;
use crate::manifest::words;

words! {
    /// EC2's states of an instance.
    InstanceState {
        Pending = "pending",
        Running = "running",
        Stopping = "stopping",
        Stopped = "stopped",
        ShuttingDown = "shutting-down",
        Terminated = "terminated",
    }
}

impl InstanceState {
    /// A process is, or should be, at work on the instance.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Stopped | Self::Terminated)
    }

    /// EC2's number of the state.
    pub fn code(self) -> u16 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopping => 64,
            Self::Stopped => 80,
        }
    }
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub id: InstanceId,
    pub name: Option<String>,
    pub image_id: ImageId,
    pub image_name: String,
    pub state: InstanceState,
    /// Why it is in that state, where there is something to say.
    pub state_reason: Option<String>,
    /// What its `run` exited with.
    pub exit_status: Option<u8>,
    pub launch_time: SystemTime,
    /// When it stopped or terminated; unknown of one whose process was killed.
    pub end_time: Option<SystemTime>,
    pub cpus: u32,
    pub memory_bytes: u64,
    /// The process that launched it.
    pub pid: Option<u32>,
    /// It is to be removed when it ends.
    pub remove_at_end: bool,
    pub owner: Account,
    /// The launch that it came of, `r-…`.
    pub reservation: String,
    /// Its place among the instances of that launch, from 0.
    pub launch_index: u32,
    pub settings: InstanceSettings,
}

/// How an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End<'a> {
    pub state: InstanceState,
    pub reason: Option<&'a str>,
    pub exit_status: Option<u8>,
    /// When, if that is known.
    pub time: Option<SystemTime>,
}

const COLUMNS: &str = "SELECT id, name, image, image_name, state, state_reason, exit_status, \
    launched, ended, cpus, memory_bytes, pid, remove_at_end, owner, reservation, launch_index, \
    settings FROM instances";

impl Catalogue {
    /// Every instance, oldest first.
    pub(crate) fn instances(&self) -> Result<Vec<Instance>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!("{COLUMNS} ORDER BY launched, id"))?
                .query_map([], record)?
                .collect()
        };
        self.sqlite(query())
    }

    pub(crate) fn instance(&self, id: &InstanceId) -> Result<Option<Instance>, Error> {
        self.instance_where("id", &id.to_string())
    }

    pub(crate) fn instance_named(&self, name: &str) -> Result<Option<Instance>, Error> {
        self.instance_where("name", name)
    }

    fn instance_where(&self, column: &str, value: &str) -> Result<Option<Instance>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!("{COLUMNS} WHERE {column} = ?1"))?
                .query_row([value], record)
                .optional()
        };
        self.sqlite(query())
    }

    pub(crate) fn has_instance(&self, id: &InstanceId) -> Result<bool, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT 1 FROM instances WHERE id = ?1")?
                .exists([id.to_string()])
        };
        self.sqlite(query())
    }

    /// The first two ids that begin with `prefix`.
    pub(crate) fn instance_ids_from(&self, prefix: &str) -> Result<Vec<InstanceId>, Error> {
        let query = "SELECT id FROM instances WHERE id >= ?1 AND id < ?2 LIMIT 2";
        self.sqlite(ids_from(&self.connection, query, prefix))
    }

    pub(crate) fn add_instance(&self, instance: &Instance) -> Result<(), Error> {
        let add = || {
            self.connection
                .prepare(
                    "INSERT INTO instances (id, name, image, image_name, state, launched, cpus,
                     memory_bytes, pid, remove_at_end, owner, reservation, launch_index, settings)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
                )?
                .execute(params![
                    instance.id.to_string(),
                    instance.name,
                    instance.image_id.to_string(),
                    instance.image_name,
                    instance.state.as_str(),
                    to_millis(instance.launch_time),
                    instance.cpus,
                    instance.memory_bytes,
                    instance.pid,
                    instance.remove_at_end,
                    instance.owner.to_string(),
                    instance.reservation,
                    instance.launch_index,
                    to_json(&instance.settings)?,
                ])
        };
        self.sqlite(add()).map(|_| ())
    }

    /// Whether there was such an instance in one of the states `from`, which is in the state `to` now.
    pub(crate) fn move_instance(
        &self,
        id: &InstanceId,
        from: &[InstanceState],
        to: InstanceState,
    ) -> Result<bool, Error> {
        let update = || {
            let mut update = self.connection.prepare_cached(
                "UPDATE instances SET state = ?3, state_reason = NULL WHERE id = ?1 AND state = ?2",
            )?;
            let mut rows = 0;
            for from in from {
                rows += update.execute(params![id.to_string(), from.as_str(), to.as_str()])?;
            }
            Ok(rows)
        };
        self.sqlite(update()).map(|rows| rows > 0)
    }

    /// A stopped instance is pending again, from now on, of this process.
    pub(crate) fn restart_instance(&self, id: &InstanceId) -> Result<(), Error> {
        let update = || {
            self.connection
                .prepare_cached(
                    "UPDATE instances SET state = 'pending', state_reason = NULL,
                     exit_status = NULL, launched = ?2, ended = NULL, pid = ?3 WHERE id = ?1",
                )?
                .execute(params![
                    id.to_string(),
                    to_millis(SystemTime::now()),
                    std::process::id(),
                ])
        };
        self.sqlite(update()).map(|_| ())
    }

    /// Writes down what may change of an instance once it is launched, besides its state.
    pub(crate) fn change_instance(&self, instance: &Instance) -> Result<(), Error> {
        let update = || {
            self.connection
                .prepare_cached(
                    "UPDATE instances SET cpus = ?2, memory_bytes = ?3, settings = ?4 WHERE id = ?1",
                )?
                .execute(params![
                    instance.id.to_string(),
                    instance.cpus,
                    instance.memory_bytes,
                    to_json(&instance.settings)?,
                ])
        };
        self.sqlite(update()).map(|_| ())
    }

    /// A terminated instance does not keep its name from others.
    pub(crate) fn free_instance_name(&self, id: &InstanceId) -> Result<(), Error> {
        let update = || {
            self.connection
                .prepare_cached("UPDATE instances SET name = NULL WHERE id = ?1")?
                .execute([id.to_string()])
        };
        self.sqlite(update()).map(|_| ())
    }

    /// Whether there is such an instance to end.
    pub(crate) fn end_instance(&self, id: &InstanceId, end: &End<'_>) -> Result<bool, Error> {
        let update = || {
            self.connection
                .prepare_cached(
                    "UPDATE instances SET state = ?2, state_reason = ?3, exit_status = ?4,
                     ended = ?5, pid = NULL WHERE id = ?1",
                )?
                .execute(params![
                    id.to_string(),
                    end.state.as_str(),
                    end.reason,
                    end.exit_status,
                    end.time.map(to_millis),
                ])
        };
        self.sqlite(update()).map(|rows| rows > 0)
    }

    /// The instance's volumes must be gone, or not its any more.
    pub(crate) fn remove_instance(&self, id: &InstanceId) -> Result<(), Error> {
        let delete = || {
            self.connection
                .prepare_cached("DELETE FROM instances WHERE id = ?1")?
                .execute([id.to_string()])
        };
        self.sqlite(delete()).map(|_| ())
    }
}

fn record(row: &rusqlite::Row<'_>) -> rusqlite::Result<Instance> {
    Ok(Instance {
        id: parsed(row, 0)?,
        name: row.get(1)?,
        image_id: parsed(row, 2)?,
        image_name: row.get(3)?,
        state: parsed(row, 4)?,
        state_reason: row.get(5)?,
        exit_status: row.get(6)?,
        launch_time: from_millis(row.get(7)?),
        end_time: row.get::<_, Option<i64>>(8)?.map(from_millis),
        cpus: row.get(9)?,
        memory_bytes: row.get(10)?,
        pid: row.get(11)?,
        remove_at_end: row.get(12)?,
        owner: parsed(row, 13)?,
        reservation: row.get(14)?,
        launch_index: row.get(15)?,
        settings: from_json(row, 16)?,
    })
}

fn to_json(settings: &InstanceSettings) -> rusqlite::Result<String> {
    serde_json::to_string(settings)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn from_json(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<InstanceSettings> {
    let text = row.get_ref(column)?.as_str()?;
    convert(column, serde_json::from_str(text))
}

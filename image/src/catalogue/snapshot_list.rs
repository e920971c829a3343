//! The rows of snapshots, one after the other, for listings.

use std::ops::ControlFlow;

use rusqlite::params_from_iter;

use super::snapshots::{COLUMNS, SnapshotRecord, record};
use super::{Catalogue, Error};
use crate::filter::Condition;

impl Catalogue {
    /// Calls `each` with every snapshot that fulfils the condition, oldest first, until it breaks off.
    /// They begin after the one with that time, in milliseconds, and that id.
    pub(crate) fn list_snapshots(
        &self,
        condition: &Condition,
        (time, id): (&str, &str),
        each: &mut dyn FnMut(SnapshotRecord) -> Result<ControlFlow<()>, Error>,
    ) -> Result<(), Error> {
        let Condition { sql, values } = condition;
        let query = format!(
            "{COLUMNS} WHERE NOT deleted AND (created, id) > (CAST(? AS INTEGER), ?){sql}
             ORDER BY created, id"
        );
        let values = [time, id]
            .into_iter()
            .chain(values.iter().map(String::as_str));
        let mut statement = self.sqlite(self.connection.prepare(&query))?;
        let rows = self.sqlite(statement.query_map(params_from_iter(values), record))?;
        for row in rows {
            if each(self.sqlite(row)?)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

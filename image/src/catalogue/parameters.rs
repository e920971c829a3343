//! The rows of parameters: one for each version.

use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, params};

use super::{Catalogue, Error, from_millis, to_millis};

/// A version of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    /// Counted from 1.
    pub version: u64,
    /// The id of an image.
    pub value: String,
    /// When it got this value.
    pub changed: SystemTime,
}

const COLUMNS: &str = "SELECT name, version, value, created FROM parameters";

impl Catalogue {
    /// The newest version of every parameter, by name.
    pub(crate) fn parameters(&self) -> Result<Vec<Parameter>, Error> {
        let newest = "version = (SELECT max(version) FROM parameters AS all_versions
            WHERE all_versions.name = parameters.name)";
        let query = || {
            self.connection
                .prepare(&format!("{COLUMNS} WHERE {newest} ORDER BY name"))?
                .query_map([], parameter)?
                .collect()
        };
        self.sqlite(query())
    }

    /// Every version of the parameter, oldest first.
    pub(crate) fn parameter_versions(&self, name: &str) -> Result<Vec<Parameter>, Error> {
        let query = || {
            self.connection
                .prepare(&format!("{COLUMNS} WHERE name = ?1 ORDER BY version"))?
                .query_map([name], parameter)?
                .collect()
        };
        self.sqlite(query())
    }

    /// That version of the parameter, or without one the newest.
    pub(crate) fn parameter(
        &self,
        name: &str,
        version: Option<u64>,
    ) -> Result<Option<Parameter>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!(
                    "{COLUMNS} WHERE name = ?1 AND version = coalesce(?2, version)
                     ORDER BY version DESC LIMIT 1"
                ))?
                .query_row(params![name, version], parameter)
                .optional()
        };
        self.sqlite(query())
    }

    /// A parameter whose newest version has that value.
    pub(crate) fn parameter_of_value(&self, value: &str) -> Result<Option<String>, Error> {
        let query = || {
            self.connection
                .prepare_cached(
                    "SELECT name FROM parameters WHERE value = ?1 AND version =
                     (SELECT max(version) FROM parameters AS all_versions
                      WHERE all_versions.name = parameters.name) ORDER BY name LIMIT 1",
                )?
                .query_row([value], |row| row.get(0))
                .optional()
        };
        self.sqlite(query())
    }

    pub(crate) fn add_parameter(&self, parameter: &Parameter) -> Result<(), Error> {
        let add = || {
            self.connection
                .prepare_cached(
                    "INSERT INTO parameters (name, version, value, created) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![
                    parameter.name,
                    parameter.version,
                    parameter.value,
                    to_millis(parameter.changed),
                ])
        };
        self.sqlite(add()).map(|_| ())
    }

    /// Removes the versions up to this one, or all. False where there was none.
    pub(crate) fn remove_parameter(&self, name: &str, up_to: Option<u64>) -> Result<bool, Error> {
        let remove = || {
            self.connection
                .prepare_cached(
                    "DELETE FROM parameters WHERE name = ?1 AND version <= coalesce(?2, version)",
                )?
                .execute(params![name, up_to])
        };
        Ok(self.sqlite(remove())? != 0)
    }
}

fn parameter(row: &Row<'_>) -> rusqlite::Result<Parameter> {
    Ok(Parameter {
        name: row.get(0)?,
        version: row.get(1)?,
        value: row.get(2)?,
        changed: from_millis(row.get(3)?),
    })
}

//! Parameters: names for images, with every version that they have had.
//!
//! Implements what EC2 takes from AWS Systems Manager Parameter Store, for parameters of the data type
//! `aws:ec2:image`: `PutParameter`, `GetParameter`, `GetParameterHistory`, `DescribeParameters`,
//! `DeleteParameter`, and `resolve:ssm:NAME[:VERSION]` as the name of an image at launch. Labels of
//! versions are left out.

use std::borrow::Cow;
use std::time::SystemTime;

use super::{Error, Store};
use crate::catalogue::Parameter;

/// What stands before a parameter where an image is named.
const RESOLVE: &str = "resolve:ssm:";

/// Parameter Store keeps as many; the oldest goes with the next.
const VERSIONS: u64 = 100;

const LONGEST_NAME: usize = 1011;
const LEVELS: usize = 15;

impl Store {
    /// Lets the parameter name that image from now on: its next version, or its first.
    ///
    /// # Errors
    /// [`Error::ParameterName`]; those of [`Store::image`]
    pub fn put_parameter(&self, name: &str, image: &str) -> Result<Parameter, Error> {
        check_name(name)?;
        let transaction = self.durable()?;
        let image = self.image(&self.named(image)?)?;
        let last = self.catalogue.parameter(name, None)?;
        let parameter = Parameter {
            name: name.to_owned(),
            version: last.map_or(0, |last| last.version) + 1,
            value: image.image_id.to_string(),
            changed: SystemTime::now(),
        };
        self.catalogue.add_parameter(&parameter)?;
        let too_old = parameter.version.saturating_sub(VERSIONS);
        self.catalogue.remove_parameter(name, Some(too_old))?;
        self.catalogue.commit(transaction)?;
        Ok(parameter)
    }

    /// The parameter `NAME`, or `NAME:VERSION`.
    ///
    /// # Errors
    /// [`Error::ParameterNotFound`], [`Error::ParameterVersionNotFound`]
    pub fn parameter(&self, reference: &str) -> Result<Parameter, Error> {
        let (name, version) = match reference.split_once(':') {
            Some((name, version)) => (name, Some(version)),
            None => (reference, None),
        };
        let versionless = || Error::ParameterVersionNotFound {
            name: name.to_owned(),
            version: version.unwrap_or_default().to_owned(),
        };
        let number = match version {
            Some(version) => Some(version.parse().map_err(|_| versionless())?),
            None => None,
        };
        if let Some(parameter) = self.catalogue.parameter(name, number)? {
            return Ok(parameter);
        }
        Err(match self.catalogue.parameter(name, None)? {
            Some(_) => versionless(),
            None => not_found(name),
        })
    }

    /// The newest version of every parameter, by name.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn parameters(&self) -> Result<Vec<Parameter>, Error> {
        Ok(self.catalogue.parameters()?)
    }

    /// Every version that the parameter has had, oldest first.
    ///
    /// # Errors
    /// [`Error::ParameterNotFound`]
    pub fn parameter_history(&self, name: &str) -> Result<Vec<Parameter>, Error> {
        let versions = self.catalogue.parameter_versions(name)?;
        match versions.is_empty() {
            true => Err(not_found(name)),
            false => Ok(versions),
        }
    }

    /// Deletes the parameter with all its versions.
    ///
    /// # Errors
    /// [`Error::ParameterNotFound`]
    pub fn delete_parameter(&self, name: &str) -> Result<(), Error> {
        let transaction = self.durable()?;
        if !self.catalogue.remove_parameter(name, None)? {
            return Err(not_found(name));
        }
        Ok(self.catalogue.commit(transaction)?)
    }

    /// What `reference` means where an image is named: the value of a parameter, or itself.
    pub(super) fn named<'a>(&self, reference: &'a str) -> Result<Cow<'a, str>, Error> {
        match reference.strip_prefix(RESOLVE) {
            Some(parameter) => Ok(Cow::Owned(self.parameter(parameter)?.value)),
            None => Ok(Cow::Borrowed(reference)),
        }
    }
}

fn not_found(name: &str) -> Error {
    Error::ParameterNotFound {
        name: name.to_owned(),
    }
}

/// Parameter Store's rule: letters, digits, `.`, `-` and `_`; with slashes between levels one comes
/// first; and no name that AWS could use.
fn check_name(name: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_/".contains(&b);
    let levels = name.strip_prefix('/').unwrap_or(name);
    let first = levels.split('/').next().unwrap_or_default().to_lowercase();
    let has_levels = levels.contains('/');
    let is_valid = name.len() <= LONGEST_NAME
        && name.bytes().all(allowed)
        && levels.split('/').all(|level| !level.is_empty())
        && levels.split('/').count() <= LEVELS
        && (name.starts_with('/') || !has_levels)
        && !first.starts_with("aws")
        && !first.starts_with("ssm");
    match is_valid {
        true => Ok(()),
        false => Err(Error::ParameterName {
            name: name.to_owned(),
        }),
    }
}

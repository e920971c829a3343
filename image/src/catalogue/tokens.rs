//! The rows of client tokens: which launch each has made.

use std::time::SystemTime;

use rusqlite::{OptionalExtension, params};

use super::{Catalogue, Error, to_millis};
use crate::account::Account;

impl Catalogue {
    /// What was asked with the token, and the launch that it made.
    pub(crate) fn client_token(
        &self,
        owner: Account,
        token: &str,
    ) -> Result<Option<(String, String)>, Error> {
        let query = || {
            self.connection
                .prepare_cached(
                    "SELECT request, reservation FROM client_tokens WHERE owner = ?1 AND token = ?2",
                )?
                .query_row([&owner.to_string(), token], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()
        };
        self.sqlite(query())
    }

    /// Replaces what the token stood for.
    pub(crate) fn set_client_token(
        &self,
        owner: Account,
        token: &str,
        request: &str,
        reservation: &str,
    ) -> Result<(), Error> {
        let set = || {
            self.connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO client_tokens
                     (owner, token, request, reservation, created) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    owner.to_string(),
                    token,
                    request,
                    reservation,
                    to_millis(SystemTime::now()),
                ])
        };
        self.sqlite(set()).map(|_| ())
    }

    /// Removes the tokens of launches whose instances are all gone.
    pub(crate) fn remove_spent_tokens(&self) -> Result<(), Error> {
        let remove = || {
            self.connection
                .prepare_cached(
                    "DELETE FROM client_tokens
                     WHERE reservation NOT IN (SELECT reservation FROM instances)",
                )?
                .execute([])
        };
        self.sqlite(remove()).map(|_| ())
    }
}

//! Client tokens: a launch that is asked for again is not made again.
//!
//! Implements EC2's idempotent RunInstances. A token is remembered as long as an instance of its launch
//! is listed.

use super::{Error, Instance, Store};

/// The most characters of a token, as on EC2.
const LENGTH: usize = 64;

/// What makes a launch idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientToken {
    pub token: String,
    /// All that is asked for, in one text: a second launch with the token must ask for the same.
    pub request: String,
}

impl Store {
    /// The instances of the launch that was made with `token`, if one was; none where that is the launch
    /// `reservation` itself.
    ///
    /// # Errors
    /// [`Error::ClientToken`]; [`Error::TokenMismatch`] where something else was asked for with it;
    /// those of [`Store::instances`].
    pub fn launched_with(
        &self,
        token: &ClientToken,
        reservation: &str,
    ) -> Result<Option<Vec<Instance>>, Error> {
        let length = token.token.len();
        if !(1..=LENGTH).contains(&length) || !token.token.is_ascii() {
            return Err(Error::ClientToken { length });
        }
        let found = self.catalogue.client_token(self.owner(), &token.token)?;
        let Some((request, used_by)) = found.filter(|(_, used_by)| used_by != reservation) else {
            return Ok(None);
        };
        let mut instances = self.instances()?;
        instances.retain(|instance| instance.reservation == used_by);
        if instances.is_empty() {
            return Ok(None);
        }
        match request == token.request {
            true => Ok(Some(instances)),
            false => Err(Error::TokenMismatch),
        }
    }

    /// Writes down, in the transaction that is open, that `reservation` is the launch of `token`.
    ///
    /// # Errors
    /// [`Error::TokenUsed`] where another launch was faster; those of [`Store::launched_with`].
    pub(super) fn use_token(&self, token: &ClientToken, reservation: &str) -> Result<(), Error> {
        if let Some(instances) = self.launched_with(token, reservation)?
            && let Some(instance) = instances.into_iter().next()
        {
            return Err(Error::TokenUsed {
                reservation: instance.reservation,
            });
        }
        let ClientToken { token, request } = token;
        Ok(self
            .catalogue
            .set_client_token(self.owner(), token, request, reservation)?)
    }

    /// Forgets the tokens whose instances are gone.
    pub(super) fn forget_tokens(&self) -> Result<(), Error> {
        let transaction = self.quick()?;
        self.catalogue.remove_spent_tokens()?;
        Ok(self.catalogue.commit(transaction)?)
    }
}

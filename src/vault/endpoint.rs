//! Requests that `vaultrs` does not have, or has in another form than servers take.

use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use serde::de::IgnoredAny;

/// A POST.
pub(super) struct Post {
    /// The path of the API, with a slash at its start and without `v1`.
    pub(super) path: String,
    /// What is sent, in JSON.
    pub(super) body: Option<Vec<u8>>,
}

impl Endpoint for Post {
    type Response = IgnoredAny;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::POST
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        Ok(self.body.clone())
    }
}

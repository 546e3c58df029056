//! Requests that `vaultrs` lacks, or has in a form that servers do not accept.

use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use serde::de::IgnoredAny;

/// A POST request.
pub(super) struct Post {
    /// The API path, with a leading slash and without `v1`.
    pub(super) path: String,
    /// The JSON body.
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

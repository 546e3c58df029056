//! Comparisons of two states of a workload.

use std::sync::Arc;

use crate::model::workload::Workload;

/// Whether two states of a workload have the same secrets. If so, the later state shares the ids of
/// the earlier one. Most events are about the status, and this is all that they cost.
pub(super) fn share_secrets(earlier: &Workload, later: &mut Workload) -> bool {
    let is_same =
        earlier.secrets == later.secrets && earlier.former_secrets == later.former_secrets;
    if is_same {
        let ids = later.secrets.iter_mut().chain(&mut later.former_secrets);
        for (id, shared) in ids.zip(earlier.watched()) {
            *id = Arc::clone(shared);
        }
    }
    is_same
}

/// Whether two states of a workload differ in nothing but the version of the object. Many changes of
/// a status are about what is not kept, and change only that.
pub(super) fn is_same_but_for_version(earlier: &Workload, later: &mut Workload) -> bool {
    let of_earlier = earlier.resource_version.clone();
    let version = std::mem::replace(&mut later.resource_version, of_earlier);
    let is_same = *earlier == *later;
    later.resource_version = version;
    is_same
}

/// Whether a resource version is older than another. Resource versions are growing numbers. If one
/// of them is no number, neither is older.
pub(super) fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

//! How a request to a server ended, for metrics.

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// The server answered with this HTTP status.
    Answered(u16),
    /// The request was given up before an answer came.
    TimedOut,
    /// The connection failed, or the request could not be sent.
    Failed,
}

impl RequestEnd {
    /// Returns the label of metrics. A server can send any status, so statuses that are not common
    /// share the label of their class.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::TimedOut => "timeout",
            Self::Failed => "error",
            Self::Answered(status) => status_label(status),
        }
    }
}

fn status_label(status: u16) -> &'static str {
    match status {
        200 => "200",
        201 => "201",
        204 => "204",
        301 => "301",
        302 => "302",
        307 => "307",
        308 => "308",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        409 => "409",
        410 => "410",
        412 => "412",
        422 => "422",
        429 => "429",
        // A standby, to a request for its health.
        472 => "472",
        473 => "473",
        500 => "500",
        501 => "501",
        502 => "502",
        503 => "503",
        504 => "504",
        100..=199 => "1xx",
        202..=299 => "2xx",
        300..=399 => "3xx",
        402..=499 => "4xx",
        505..=599 => "5xx",
        _ => "other",
    }
}

/// Reports the end of a request once. A request that is dropped before its end was given up.
#[derive(Debug)]
pub struct PendingRequest<F: Fn(RequestEnd)> {
    report: F,
    has_ended: bool,
}

impl<F: Fn(RequestEnd)> PendingRequest<F> {
    /// Begins a request whose end goes to `report`.
    #[must_use]
    pub fn new(report: F) -> Self {
        Self { report, has_ended: false }
    }

    /// Ends the request.
    pub fn ended(mut self, end: RequestEnd) {
        self.has_ended = true;
        (self.report)(end);
    }
}

impl<F: Fn(RequestEnd)> Drop for PendingRequest<F> {
    fn drop(&mut self) {
        if !self.has_ended {
            (self.report)(RequestEnd::TimedOut);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn any_status_has_one_of_a_few_labels() {
        for (status, label) in [
            (200, "200"),
            (206, "2xx"),
            (307, "307"),
            (399, "3xx"),
            (403, "403"),
            (418, "4xx"),
            (503, "503"),
            (599, "5xx"),
            (0, "other"),
            (999, "other"),
        ] {
            assert_eq!(RequestEnd::Answered(status).code(), label, "{status}");
        }
        let labels: BTreeSet<_> =
            (0..=u16::MAX).map(|status| RequestEnd::Answered(status).code()).collect();
        assert!(labels.len() <= 32, "{labels:?}");
    }

    #[test]
    fn each_request_ends_once() {
        let ends = RefCell::new(Vec::new());
        let begin = || PendingRequest::new(|end| ends.borrow_mut().push(end));
        begin().ended(RequestEnd::Answered(200));
        drop(begin());
        begin().ended(RequestEnd::Failed);
        let expected = [RequestEnd::Answered(200), RequestEnd::TimedOut, RequestEnd::Failed];
        assert_eq!(*ends.borrow(), expected);
    }
}

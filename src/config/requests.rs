//! How requests to a server are sent: with which headers, how fast, and how often again.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::address::has_port;
use super::environment::Environment;
use super::error::{ConfigError, error, error_without_value};
use super::value::file_path;
use crate::vault::headers::{self, Headers};
use crate::vault::limiter::RateLimit;

/// The limits of a rate, in requests per second. With a slower rate, a poll of one minute would read
/// hardly any secret. A faster one is no limit.
const RATES: RangeInclusive<f64> = 0.1..=1_000_000.0;

/// The most retries. A request that fails more often would take the time of other secrets, and the
/// next poll sends it again anyway.
const MOST_RETRIES: u32 = 10;

/// Returns the headers that are added to all requests.
pub(super) fn headers(env: &Environment<'_>) -> Result<Headers, ConfigError> {
    match (env.get("HEADERS"), env.get("HEADERS_FILE")) {
        (None, None) => Ok(Headers::None),
        (Some((name, text)), None) => match headers::parse(&text) {
            Ok(headers) => Ok(Headers::Given(headers)),
            Err(problem) => Err(error_without_value(&name, &problem.to_string())),
        },
        // A value that is no path may be the headers themselves, and log lines show paths.
        (None, Some((name, file))) if !file.starts_with('/') => Err(error_without_value(
            &name,
            "does not begin with a slash; give the whole path of a file",
        )),
        (None, Some((name, file))) => Ok(Headers::File(file_path(&name, &file)?.into())),
        (Some((name, _)), Some((file, _))) => {
            Err(error_without_value(&name, &format!("{file} is set as well; remove one of them")))
        }
    }
}

/// Returns the limit on the rate of requests: `RATE` or `RATE:BURST`. As in the official client, the
/// default burst is the whole part of the rate.
pub(super) fn rate(env: &Environment<'_>) -> Result<Option<RateLimit>, ConfigError> {
    let Some((name, text)) = env.get("RATE_LIMIT") else { return Ok(None) };
    let wrong = || {
        error(
            &name,
            &text,
            "not a rate; write requests per second from 0.1 to 1000000, as in 10, or 10:20 with a \
             burst of 20",
        )
    };
    let (rate, burst) =
        text.split_once(':').map_or((&*text, None), |(rate, burst)| (rate, Some(burst)));
    let rate: f64 = rate.parse().map_err(|_| wrong())?;
    if !RATES.contains(&rate) {
        return Err(wrong());
    }
    let burst = match burst {
        Some(burst) => burst.parse::<u32>().map_err(|_| wrong())?,
        None => u32::try_from(Duration::from_secs_f64(rate).as_secs()).unwrap_or(u32::MAX).max(1),
    };
    if burst == 0 {
        return Err(wrong());
    }
    Ok(Some(RateLimit { interval: Duration::from_secs_f64(rate.recip()), burst }))
}

/// Returns how often a request is sent again after an error; `None` for the default.
pub(super) fn retries(
    env: &Environment<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<u32>, ConfigError> {
    let Some((name, text)) = env.get("MAX_RETRIES") else { return Ok(None) };
    let retries: u32 = text.parse().map_err(|_| error(&name, &text, "not a whole number"))?;
    if retries > MOST_RETRIES {
        warnings.push(format!(
            "{name}={text} is more than {MOST_RETRIES}: a poll sends a request again {MOST_RETRIES} \
             times at most, and the next poll goes on"
        ));
    }
    Ok(Some(retries.min(MOST_RETRIES)))
}

/// Refuses a look-up of SRV records. `address` is the address of the server: with a port, the
/// official client looks up nothing either.
pub(super) fn refuse_srv_lookup(env: &Environment<'_>, address: &str) -> Result<(), ConfigError> {
    let is_asked_for = env.boolean("SRV_LOOKUP")?;
    match env.get("SRV_LOOKUP").filter(|_| is_asked_for && !has_port(address)) {
        None => Ok(()),
        Some((name, _)) => Err(error_without_value(
            &name,
            "is not supported: SRV records are not looked up; remove it, and write the port in \
             VAULT_ADDR",
        )),
    }
}

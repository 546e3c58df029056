//! The answers to logins, renewals, look-ups and unwrappings. Input: the body.

use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use serde_json::Value;
use vault_secrets_reloader::vault::approle::{creation_path, unwrapped};
use vault_secrets_reloader::vault::failure::Failure;
use vault_secrets_reloader::vault::login::{logged_in, looked_up, renewed};
use vault_secrets_reloader::vault::token::{Grant, Step, Terms, TokenLifetime};

/// Asserts the properties that hold for any answer.
pub fn check(data: &[u8]) {
    let value = serde_json::from_slice::<Value>(data).unwrap_or_default();
    let secret = |pointer| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let secrets = ["/auth/client_token", "/data/secret_id"].map(secret);
    let login = logged_in(data);
    if let Ok((granted, grant, _)) = &login {
        let granted = granted.expose_secret();
        assert!(!granted.is_empty() && granted.len() <= 64 << 10);
        assert!(granted.bytes().all(|byte| byte.is_ascii_graphic()));
        check_grant(*grant);
        assert_eq!(renewed(data).as_ref(), Ok(grant));
    }
    let secret_id = unwrapped(data);
    if let Ok(secret_id) = &secret_id {
        let secret_id = secret_id.expose_secret();
        assert!(!secret_id.is_empty() && secret_id.len() <= 64 << 10);
        assert!(!secret_id.contains(char::is_control));
    }
    let failures = [
        login.err(),
        renewed(data).err(),
        looked_up(data).err(),
        secret_id.err(),
        creation_path(data).err(),
    ];
    for failure in failures.into_iter().flatten() {
        assert!(matches!(failure, Failure::BadAnswer(_)));
        let said = format!("{failure} {failure:?}");
        for secret in secrets {
            assert!(secret.len() < 8 || !said.contains(secret), "a secret in {said:?}");
        }
    }
    if let Ok(grant) = looked_up(data) {
        check_grant(grant);
    }
}

fn check_grant(grant: Grant) {
    let epoch = Instant::now();
    let hour = Duration::from_hours(1);
    let lease = TokenLifetime::new(grant, epoch);
    for lease in [lease, lease.renewed(grant, epoch + hour)] {
        for now in [epoch, epoch + hour, epoch + hour * 24 * 365] {
            let step = lease.step(now, &Terms { threshold: hour, period: hour / 3 });
            assert!(!lease.has_ended(now) || step == Step::Login);
            assert!(step != Step::Renew || grant.renewable);
        }
    }
    assert!(!lease.has_ended(epoch), "a token lives for a second at least");
}

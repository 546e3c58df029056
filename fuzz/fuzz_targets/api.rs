//! libFuzzer's entry to the target `api`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vault_secrets_reloader_fuzz::api::check(data));

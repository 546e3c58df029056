//! libFuzzer's entry to the target `headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vault_secrets_reloader_fuzz::headers::check(data));

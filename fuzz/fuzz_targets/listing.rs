//! libFuzzer's entry to the target `listing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vault_secrets_reloader_fuzz::listing::check(data));

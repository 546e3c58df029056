//! libFuzzer's entry to the target `words`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vault_secrets_reloader_fuzz::words::check(data));

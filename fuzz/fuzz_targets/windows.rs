//! libFuzzer's entry to the target `windows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vault_secrets_reloader_fuzz::windows::check(data));

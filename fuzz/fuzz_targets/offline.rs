//! libFuzzer's entry to the target `offline`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vault_secrets_reloader_fuzz::offline::check(data));

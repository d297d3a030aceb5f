#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tunnel::fuzz::policy(data, &|text| serde_json::from_str(text).ok()));

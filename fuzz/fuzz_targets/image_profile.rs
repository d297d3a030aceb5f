#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| images::fuzz::image_profile(data));

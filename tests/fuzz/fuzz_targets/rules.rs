#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| monitor_tests::fuzz::rules(data));

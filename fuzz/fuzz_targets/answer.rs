#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bedrock_sidecar::fuzzing::answer(data);
});

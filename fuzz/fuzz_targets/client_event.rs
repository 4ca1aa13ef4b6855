#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    bedrock_sidecar::fuzzing::client_event(data);
});

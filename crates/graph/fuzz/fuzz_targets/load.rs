//! Any bytes as a file: they must be refused, or give a graph that answers requests or refuses them.
#![no_main]

use libfuzzer_sys::{fuzz_crossover, fuzz_mutator, fuzz_target, fuzzer_mutate};
use stoker_graph_fuzz::{hostile, mutate};

fuzz_target!(|bytes: &[u8]| {
    hostile::check(bytes);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    // Some changes of bytes stay: the parser is part of what is tested.
    let changed = if seed % 8 == 0 { None } else { mutate::mutate(&data[..size], max_size, seed) };
    match changed {
        Some(changed) => keep(&changed, data),
        None => fuzzer_mutate(data, size, max_size),
    }
});

fuzz_crossover!(|data1: &[u8], data2: &[u8], out: &mut [u8], seed: u32| {
    let crossed = mutate::cross(data1, data2, out.len(), seed);
    crossed.map_or(0, |crossed| keep(&crossed, out))
});

fn keep(bytes: &[u8], place: &mut [u8]) -> usize {
    place[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}

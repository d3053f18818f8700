//! How fast single layers of the networks of `make bench-kernels` are, on as many threads as `RAYON_NUM_THREADS` says:
//!
//!     cargo run --release -p stoker-kernels --example shapes [PART OF A NAME [avx512|avx2|plain]]
//!
//! A line has the median time of a run and the products that it makes up for, in thousand millions a second. An AVX2 core with two
//! units of eight numbers makes 16 in a cycle, some 50 at 3.1 GHz: what is missing up to there is time in which sums wait.

#![expect(clippy::print_stdout, reason = "an example prints what it measured")]

use std::time::Instant;

use stoker_kernels::{Filters, Finish, Isa, Layer, Matrix, Separable, Span, View, maxima};

/// A run is repeated at least as often, and as long.
const RUNS: usize = 5;
const SECONDS: f64 = 0.5;

/// A convolution: name, channels of each group, groups, channels of the result, side of the image, kernel, stride.
const CONVOLUTIONS: [(&str, usize, usize, usize, usize, usize, usize); 21] = [
    ("resnet stem", 3, 1, 64, 224, 7, 2),
    ("resnet 1", 64, 1, 64, 56, 3, 1),
    ("resnet 2 half", 64, 1, 128, 56, 3, 2),
    ("resnet 2", 128, 1, 128, 28, 3, 1),
    ("resnet 3 half", 128, 1, 256, 28, 3, 2),
    ("resnet 3", 256, 1, 256, 14, 3, 1),
    ("resnet 4 half", 256, 1, 512, 14, 3, 2),
    ("resnet 4", 512, 1, 512, 7, 3, 1),
    ("mobilenet stem", 3, 1, 32, 224, 3, 2),
    ("mobilenet depth 112", 1, 32, 32, 112, 3, 1),
    ("mobilenet depth 112 half", 1, 96, 96, 112, 3, 2),
    ("mobilenet depth 56", 1, 144, 144, 56, 3, 1),
    ("mobilenet depth 14", 1, 384, 384, 14, 3, 1),
    ("mobilenet depth 14 half", 1, 576, 576, 14, 3, 2),
    ("mobilenet depth 7", 1, 960, 960, 7, 3, 1),
    ("mobilenet wide 112", 16, 1, 96, 112, 1, 1),
    ("mobilenet wide 56", 24, 1, 144, 56, 1, 1),
    ("mobilenet narrow 112", 32, 1, 16, 112, 1, 1),
    ("mobilenet point 56", 96, 1, 24, 56, 1, 1),
    ("mobilenet point 14", 384, 1, 64, 14, 1, 1),
    ("mobilenet point 7", 960, 1, 160, 7, 1, 1),
];

/// An inverted residual block: name, images, channels of the input, of the windows, of the result, side of the image, stride. It is
/// timed as one step, which strips make where it is large, and as three.
const BLOCKS: [(&str, usize, usize, usize, usize, usize, usize); 4] = [
    ("mobilenet block 112 half", 1, 16, 96, 24, 112, 2),
    ("mobilenet block 56", 1, 24, 144, 24, 56, 1),
    ("mobilenet block 56 of 8", 8, 24, 144, 24, 56, 1),
    ("mobilenet block 28 of 8", 8, 32, 192, 32, 28, 1),
];

/// A product: name, rows, depth, columns.
const PRODUCTS: [(&str, usize, usize, usize); 5] = [
    ("mlp b1", 1, 1024, 4096),
    ("mlp b32", 32, 1024, 4096),
    ("encoder heads", 128, 384, 384),
    ("encoder wide", 128, 384, 1536),
    ("encoder narrow", 128, 1536, 384),
];

fn main() {
    let part = std::env::args().nth(1).unwrap_or_default();
    let wanted = std::env::args().nth(2);
    let all = Isa::available();
    let Some(&isa) = all.iter().find(|isa| wanted.as_deref().is_none_or(|name| isa.name() == name)) else {
        println!("this processor has {all:?}");
        std::process::exit(2);
    };
    println!("{isa:?}, {} thread(s)", rayon::current_num_threads());
    for convolution in CONVOLUTIONS.iter().filter(|(name, ..)| name.contains(&part)) {
        convolve(isa, *convolution);
    }
    for &block in BLOCKS.iter().filter(|(name, ..)| name.contains(&part)) {
        separable(isa, block);
    }
    if "pool".contains(&part) {
        pool(isa);
    }
    for &(name, rows, depth, columns) in PRODUCTS.iter().filter(|(name, ..)| name.contains(&part)) {
        let (weights, x) = (numbers(depth * columns), numbers(rows * depth));
        let matrix = Matrix::new(isa, View::new(&weights, depth, columns));
        let view = View::new(&x, rows, depth);
        report(name, rows * depth * columns, || drop(matrix.product(view, Finish::default())));
    }
}

fn convolve(
    isa: Isa,
    (name, channels, groups, outputs, side, kernel, stride): (&str, usize, usize, usize, usize, usize, usize),
) {
    let pad = kernel / 2;
    let out = (side + 2 * pad - kernel) / stride + 1;
    let depth = channels * kernel * kernel;
    let (weights, x) = (numbers(outputs * depth), numbers(groups * channels * side * side));
    let span = Span {
        images: 1,
        input: [side, side],
        stride: [stride, stride],
        dilation: [1, 1],
        pad: [pad, pad],
        output: [out, out],
    };
    let bias = numbers(outputs);
    let finish = Finish { bias: Some(&bias), bounds: Some((0.0, 6.0)), addend: None };
    let mut filters = Filters::new(isa, &weights, outputs, channels, [kernel, kernel], groups);
    let products = outputs * depth * out * out;
    report(name, products, || drop(filters.convolve(&x, &span, finish)));
    if filters.transformed_len().is_some() && stride == 1 {
        filters.transform(&weights);
        report(&format!("{name}, transformed"), products, || drop(filters.convolve(&x, &span, finish)));
    }
}

fn separable(
    isa: Isa,
    (name, images, inputs, channels, outputs, side, stride): (&str, usize, usize, usize, usize, usize, usize),
) {
    let out = side.div_ceil(stride);
    let x = numbers(images * inputs * side * side);
    let still = |side| Span {
        images,
        input: [side, side],
        stride: [1, 1],
        dilation: [1, 1],
        pad: [0, 0],
        output: [side, side],
    };
    let span = Span { stride: [stride, stride], pad: [1, 1], output: [out, out], ..still(side) };
    let widen = Filters::new(isa, &numbers(inputs * channels), channels, inputs, [1, 1], 1);
    let windows = Filters::new(isa, &numbers(channels * 9), channels, 1, [3, 3], channels);
    let narrow = Filters::new(isa, &numbers(outputs * channels), outputs, channels, [1, 1], 1);
    let finish = Finish { bounds: Some((0.0, 6.0)), ..Finish::default() };
    let block = Separable {
        widen: Some(Layer { filters: &widen, finish }),
        depthwise: Layer { filters: &windows, finish },
        narrow: Layer { filters: &narrow, finish: Finish::default() },
    };
    let products = images * channels * (inputs * side * side + (9 + outputs) * out * out);
    report(name, products, || drop(block.convolve(&x, &span)));
    report(&format!("{name}, apart"), products, || {
        let made = widen.convolve(&x, &still(side), finish);
        let seen = windows.convolve(&made, &span, finish);
        drop(narrow.convolve(&seen, &still(out), Finish::default()));
    });
}

fn pool(isa: Isa) {
    let x = numbers(64 * 112 * 112);
    let span = Span {
        images: 64,
        input: [112, 112],
        stride: [2, 2],
        dilation: [1, 1],
        pad: [1, 1],
        output: [56, 56],
    };
    report("resnet pool", 64 * 56 * 56 * 9, || drop(maxima(isa, &x, [3, 3], &span)));
}

/// Small numbers, no two neighbours alike.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|at| (at * 31 % 17) as f32 * 0.01 - 0.08).collect()
}

fn report(name: &str, products: usize, mut run: impl FnMut()) {
    run();
    let (started, mut times) = (Instant::now(), Vec::new());
    while times.len() < RUNS || started.elapsed().as_secs_f64() < SECONDS {
        let begun = Instant::now();
        run();
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!("{name:<28} {:>8.4} ms {:>7.1}", median * 1e3, products as f64 / median / 1e9);
}

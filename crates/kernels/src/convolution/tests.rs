use proptest::prelude::*;

use super::*;
use crate::matrix::tests::numbers;

/// The shape of weights.
#[derive(Clone, Copy, Debug)]
struct Shape {
    outputs: usize,
    channels: usize,
    kernel: [usize; 2],
    groups: usize,
}

/// The convolution, written plainly.
fn plainly(x: &[f32], weights: &[f32], shape: Shape, span: &Span, finish: Finish<'_>) -> Vec<f32> {
    let Shape { outputs, channels, kernel, groups } = shape;
    let [height, width] = span.input;
    let mut result = Vec::new();
    for image in 0..span.images {
        for output in 0..outputs {
            let group = output / (outputs / groups);
            for y in 0..span.output[0] {
                for x_place in 0..span.output[1] {
                    let mut sum = 0.0;
                    for channel in 0..channels {
                        let plane = (image * groups + group) * channels + channel;
                        for down in 0..kernel[0] {
                            for across in 0..kernel[1] {
                                let row =
                                    (y * span.stride[0] + down * span.dilation[0]).checked_sub(span.pad[0]);
                                let column = (x_place * span.stride[1] + across * span.dilation[1])
                                    .checked_sub(span.pad[1]);
                                let (Some(row), Some(column)) = (row, column) else { continue };
                                if row < height && column < width {
                                    let weight = (output * channels + channel) * kernel[0] + down;
                                    sum += weights[weight * kernel[1] + across]
                                        * x[(plane * height + row) * width + column];
                                }
                            }
                        }
                    }
                    sum += finish.bias.map_or(0.0, |bias| bias[output]);
                    sum += finish.addend.map_or(0.0, |addend| addend[result.len()]);
                    result.push(finish.bounds.map_or(sum, |(low, high)| sum.clamp(low, high)));
                }
            }
        }
    }
    result
}

fn check(shape: Shape, span: &Span, finished: [bool; 3]) {
    let Shape { outputs, channels, kernel, groups } = shape;
    let x = numbers(span.images * groups * channels * span.input[0] * span.input[1], 1);
    let weights = numbers(outputs * channels * kernel[0] * kernel[1], 2);
    let (bias, addend) =
        (numbers(outputs, 3), numbers(span.images * outputs * span.output[0] * span.output[1], 4));
    let finish = Finish {
        bias: finished[0].then_some(&bias),
        addend: finished[1].then_some(&addend),
        bounds: finished[2].then_some((-5.0, 40.0)),
    };
    let plain = plainly(&x, &weights, shape, span, finish);
    for isa in Isa::available() {
        let filters = Filters::new(isa, &weights, outputs, channels, kernel, groups);
        let result = filters.convolve(&x, span, finish);
        assert!(result == plain, "{isa:?}: {shape:?}, {span:?}, {finished:?}");
    }
}

/// The results of a window of this size, with padding on both sides.
pub(super) fn span(
    images: usize,
    input: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    dilation: usize,
    pad: usize,
) -> Option<Span> {
    let output = |axis: usize| {
        let reach = (kernel[axis] - 1) * dilation + 1;
        Some((input[axis] + 2 * pad).checked_sub(reach)? / stride + 1)
    };
    let output = [output(0)?, output(1)?];
    Some(Span { images, input, stride: [stride; 2], dilation: [dilation; 2], pad: [pad; 2], output })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn convolutions_are_those_written_plainly(
        (images, groups) in (0usize..3, 1usize..4),
        (each, channels) in (1usize..12, 1usize..6),
        input in [0usize..30, 1usize..30],
        kernel in [1usize..4, 1usize..5],
        (stride, dilation, pad) in (1usize..4, 1usize..3, 0usize..4),
        finished in any::<[bool; 3]>(),
    ) {
        if let Some(span) = span(images, input, kernel, stride, dilation, pad) {
            check(Shape { outputs: each * groups, channels, kernel, groups }, &span, finished);
        }
    }
}

#[test]
fn the_least_gives_way_to_the_greatest_at_each_place() {
    // Places of whole tiles, and one that is left.
    let span = span(1, [7, 7], [1, 1], 1, 1, 0).expect("a window of one element");
    let (x, weights) = (numbers(9 * 49, 1), numbers(13 * 9, 2));
    for isa in Isa::available() {
        let filters = Filters::new(isa, &weights, 13, 9, [1, 1], 1);
        let result = filters.convolve(&x, &span, Finish { bounds: Some((5.0, 1.0)), ..Finish::default() });
        assert_eq!(result, vec![1.0; 13 * 49], "{isa:?}");
    }
}

#[test]
fn large_convolutions_are_divided() {
    let cases = [
        // Outputs, channels, window, groups, input, stride, padding.
        (70, 33, 3, 1, 14, 1, 1),
        (300, 40, 3, 1, 7, 1, 1),
        (64, 3, 7, 1, 60, 2, 3),
        (200, 100, 1, 1, 7, 1, 0),
        (96, 48, 1, 1, 28, 2, 0),
        (64, 1, 3, 64, 56, 1, 1),
        (96, 1, 3, 48, 57, 2, 1),
        (64, 8, 3, 4, 20, 1, 1),
    ];
    for (outputs, channels, window, groups, input, stride, pad) in cases {
        let kernel = [window; 2];
        let span = span(2, [input; 2], kernel, stride, 1, pad).expect("it fits");
        check(Shape { outputs, channels, kernel, groups }, &span, [true, true, true]);
    }
}

#[test]
fn one_place_more_than_whole_tiles_is_done_beside_the_last_one() {
    // Whole tiles are of 48, 16 and 8 places, by the instructions; depths of one block and of several; panels that are not whole.
    for [height, width] in [[7, 7], [1, 17], [5, 5], [1, 97], [1, 9]] {
        for (outputs, channels, window) in [(13, 5, 1), (50, 300, 1), (13, 90, 3), (300, 60, 3), (1, 900, 1)]
        {
            let span = span(1, [height, width], [window; 2], 1, 1, window / 2).expect("it fits");
            for finished in [[true, true, true], [false, false, false]] {
                check(Shape { outputs, channels, kernel: [window; 2], groups: 1 }, &span, finished);
            }
        }
    }
}

#[test]
fn transformed_weights_give_nearly_the_same() {
    let cases = [
        // Outputs, channels, images, height, width, padding.
        (64, 64, 1, 56, 56, 1),
        (70, 33, 3, 14, 14, 1),
        (9, 8, 8, 7, 7, 1),
        (128, 40, 1, 28, 29, 0),
        (31, 16, 2, 17, 40, 2),
        (8, 300, 1, 16, 13, 5),
    ];
    for (outputs, channels, images, height, width, pad) in cases {
        let kernel = [3, 3];
        let span = span(images, [height, width], kernel, 1, 1, pad).expect("it fits");
        assert!(is_fast(&span));
        let x = numbers(images * channels * height * width, 1);
        let weights = numbers(outputs * channels * 9, 2);
        let bias = numbers(outputs, 3);
        let addend = numbers(images * outputs * span.output[0] * span.output[1], 4);
        let bounds = Some((-5.0, 400.0));
        let finish = Finish { bias: Some(&bias), addend: Some(&addend), bounds };
        let plain = plainly(&x, &weights, Shape { outputs, channels, kernel, groups: 1 }, &span, finish);
        for isa in Isa::available() {
            let mut filters = Filters::new(isa, &weights, outputs, channels, kernel, 1);
            filters.transform(&weights);
            let fast = filters.convolve(&x, &span, finish);
            // The sum of squares of what is added up is the scale of what rounding does.
            let allowed = 2e-5 * 36.0 * ((channels * 9) as f32).sqrt();
            for (at, (&fast, &plain)) in fast.iter().zip(&plain).enumerate() {
                assert!(
                    (fast - plain).abs() < allowed,
                    "{isa:?} {outputs} {channels} at {at}: {fast}, not {plain}"
                );
            }
        }
    }
}

#[test]
fn what_is_no_number_does_not_reach_the_next_row() {
    // The last number of a row: in memory it stands beside the first one of the next row.
    let (side, row) = (16, 5);
    let cases = [
        // Channels of a group, groups, stride, and whether weights are transformed.
        (1, 8, 1, false),
        (1, 8, 2, false),
        (8, 1, 1, false),
        (8, 1, 2, false),
        (8, 1, 1, true),
    ];
    for (channels, groups, stride, transformed) in cases {
        let span = span(1, [side; 2], [3, 3], stride, 1, 1).expect("it fits");
        let mut x = numbers(channels * groups * side * side, 1);
        x[row * side + side - 1] = f32::NAN;
        let outputs = 8 * groups;
        let weights = numbers(outputs * channels * 9, 2);
        for isa in Isa::available() {
            let mut filters = Filters::new(isa, &weights, outputs, channels, [3, 3], groups);
            if transformed {
                filters.transform(&weights);
            }
            let result = filters.convolve(&x, &span, Finish::default());
            assert!(result.iter().any(|x| x.is_nan()), "{isa:?}: the windows over it see it");
            // A tile of Winograd's is four wide: the last one alone sees it.
            let width = span.output[1];
            let far = result.chunks_exact(width).flat_map(|row| &row[..width - 4]);
            assert!(far.into_iter().all(|x| x.is_finite()), "{isa:?}: {channels} {stride} {transformed}");
        }
    }
}

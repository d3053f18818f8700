use proptest::prelude::*;

use super::*;
use crate::Isa;
use crate::convolution::tests::span;
use crate::matrix::tests::numbers;

/// Channels of the input where they are made from others, then of the windows, then of the result.
type Channels = (Option<usize>, usize, usize);

/// Holds strips of several heights against one convolution after the other.
fn check(channels: Channels, kernel: [usize; 2], span: &Span, addend: bool) {
    let (inputs, channels, outputs) = channels;
    let plane = span.input[0] * span.input[1];
    let x = numbers(span.images * inputs.unwrap_or(channels) * plane, 1);
    let summand = numbers(span.images * outputs * span.output[0] * span.output[1], 2);
    let weights = [inputs.unwrap_or(0) * channels, channels * kernel[0] * kernel[1], channels * outputs];
    let weights: Vec<Vec<f32>> = weights.iter().zip(3..).map(|(&count, seed)| numbers(count, seed)).collect();
    let biases = [numbers(channels, 6), numbers(channels, 7), numbers(outputs, 8)];
    let finish = |layer: usize, bounds| Finish { bias: Some(&biases[layer]), addend: None, bounds };
    for isa in Isa::available() {
        let widen = inputs.map(|inputs| Filters::new(isa, &weights[0], channels, inputs, [1, 1], 1));
        let windows = Filters::new(isa, &weights[1], channels, 1, kernel, channels);
        let narrow = Filters::new(isa, &weights[2], outputs, channels, [1, 1], 1);
        // Small whole numbers, so that sums are exact.
        let (first, second) = (finish(0, Some((0.0, 6.0))), finish(1, Some((-2.0, 9.0))));
        let last = Finish { addend: addend.then_some(&summand[..]), ..finish(2, None) };
        let block = Separable {
            widen: widen.as_ref().map(|filters| Layer { filters, finish: first }),
            depthwise: Layer { filters: &windows, finish: second },
            narrow: Layer { filters: &narrow, finish: last },
        };
        let apart = block.convolve(&x, span);
        for most in [1, 300, 1 << 20] {
            let strips = block.by_strips(&x, span, most);
            assert!(
                strips == apart,
                "{isa:?}: {inputs:?} {channels} {outputs} {kernel:?} {span:?}, strips of {most}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn strips_are_the_convolutions_one_after_the_other(
        (images, inputs) in (0usize..4, prop::option::of(1usize..9)),
        (channels, outputs) in (1usize..30, 1usize..12),
        input in [1usize..20, 1usize..20],
        kernel in [1usize..6, 1usize..4],
        (stride, dilation, pad) in (1usize..4, 1usize..3, 0usize..4),
        addend in any::<bool>(),
    ) {
        if let Some(span) = span(images, input, kernel, stride, dilation, pad) {
            check((inputs, channels, outputs), kernel, &span, addend);
        }
    }
}

#[test]
fn large_ones_are_divided() {
    // Several groups of channels, and threads.
    for (images, stride) in [(1, 1), (1, 2), (2, 1), (3, 2)] {
        let span = span(images, [57, 50], [3, 3], stride, 1, 1).expect("it fits");
        check((Some(16), 200, 24), [3, 3], &span, true);
        check((None, 200, 24), [3, 3], &span, false);
    }
}

#[test]
#[should_panic(expected = "only the last convolution has an addend")]
fn an_addend_between_is_refused() {
    let isa = Isa::plain();
    let (windows, narrow) =
        (Filters::new(isa, &[1.0], 1, 1, [1, 1], 1), Filters::new(isa, &[1.0], 1, 1, [1, 1], 1));
    let block = Separable {
        widen: None,
        depthwise: Layer { filters: &windows, finish: Finish { addend: Some(&[1.0]), ..Finish::default() } },
        narrow: Layer { filters: &narrow, finish: Finish::default() },
    };
    let span = span(1, [1, 1], [1, 1], 1, 1, 0).expect("it fits");
    block.convolve(&[1.0], &span);
}

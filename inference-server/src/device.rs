//! Where a model runs: on the processor, or on a GPU through a backend of burn.
//!
//! The processor runs a [`Graph`]. Every other device runs a [`Network`] of its backend, which keeps floating-point tensors on
//! the device and computes the rest on the host. The backends are features of this crate, `cuda` and `wgpu`, and none of them
//! is on by itself; all that knows a backend is [`Device`].

use std::fmt;

use burn::backend::Backend;
use stoker_graph::{Graph, Limits, LoadError, Model as File, Network, RunError, Value, ValueInfo};

/// A model that is loaded, whatever it runs on.
pub trait Model: Send + Sync + 'static {
    /// What a request must give.
    fn inputs(&self) -> &[ValueInfo];
    /// What an answer holds, in the order of the graph.
    fn outputs(&self) -> &[ValueInfo];
    /// True when the file declares axis 0 of every input and output as the batch.
    fn batch_axis(&self) -> bool;
    /// True when no node draws random numbers.
    fn is_deterministic(&self) -> bool;
    /// Answers one request. An error is that of this request only.
    fn run_within(
        &self,
        inputs: Vec<(String, Value)>,
        limits: Limits<'_>,
    ) -> Result<Vec<(String, Value)>, RunError>;
}

/// The methods of [`Model`], by those of the same names that both kinds of model have.
macro_rules! by_its_own_methods {
    () => {
        fn inputs(&self) -> &[ValueInfo] {
            self.inputs()
        }

        fn outputs(&self) -> &[ValueInfo] {
            self.outputs()
        }

        fn batch_axis(&self) -> bool {
            self.batch_axis()
        }

        fn is_deterministic(&self) -> bool {
            self.is_deterministic()
        }

        fn run_within(
            &self,
            inputs: Vec<(String, Value)>,
            limits: Limits<'_>,
        ) -> Result<Vec<(String, Value)>, RunError> {
            self.run_within(inputs, limits)
        }
    };
}

impl Model for Graph {
    by_its_own_methods!();
}

impl<B: Backend> Model for Network<B> {
    by_its_own_methods!();
}

/// The devices that need a feature of their own name.
const FEATURES: [&str; 2] = ["cuda", "wgpu"];

/// A device that this program was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The GPU of this number among those that CUDA reports.
    #[cfg(feature = "cuda")]
    Cuda(u16),
    /// The GPU of this number among those that wgpu takes for cards of their own; without a number the best that it finds.
    #[cfg(feature = "wgpu")]
    Wgpu(Option<u16>),
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => write!(formatter, "cuda:{number}"),
            #[cfg(feature = "wgpu")]
            Self::Wgpu(None) => formatter.write_str("wgpu"),
            #[cfg(feature = "wgpu")]
            Self::Wgpu(Some(number)) => write!(formatter, "wgpu:{number}"),
        }
    }
}

impl Device {
    /// Reads `cpu`, `cuda`, `cuda:N`, `wgpu` or `wgpu:N`. A device that the program was not built for is an error that names the
    /// feature.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "cpu, cuda, cuda:N, wgpu or wgpu:N, where N is the number of a GPU, from 0".to_owned();
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, Some(number.parse::<u16>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        match (name, number) {
            ("cpu", None) => Ok(Self::Cpu),
            #[cfg(feature = "cuda")]
            ("cuda", number) => Ok(Self::Cuda(number.unwrap_or(0))),
            #[cfg(feature = "wgpu")]
            ("wgpu", number) => Ok(Self::Wgpu(number)),
            (name, _) if FEATURES.contains(&name) => Err(format!(
                "this program was built without the feature `{name}`; build it with `cargo build --release -p stoker-server \
                 --features {name}`, or run the model on the processor with --device cpu"
            )),
            _ => Err(wrong()),
        }
    }

    /// True when this machine has the device. It asks the driver, which may take some tenths of a second.
    pub fn is_there(self) -> bool {
        match self {
            Self::Cpu => true,
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => found(|| cubecl::Device::cuda(number.into())),
            #[cfg(feature = "wgpu")]
            Self::Wgpu(number) => found(|| cubecl::Device::wgpu(kind(number))),
        }
    }

    /// Loads an ONNX model from memory and puts it on the device. Nothing outside of `bytes` is read.
    pub fn load(self, bytes: &[u8]) -> Result<Box<dyn Model>, LoadError> {
        match self {
            Self::Cpu => Ok(Box::new(Graph::from_bytes(bytes)?)),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => {
                load_on::<burn_cuda::Cuda>(bytes, &burn_cuda::CudaDevice::new(number.into()).into())
            }
            #[cfg(feature = "wgpu")]
            Self::Wgpu(number) => {
                load_on::<burn_wgpu::Wgpu>(bytes, &burn_wgpu::WgpuDevice::new(kind(number)).into())
            }
        }
    }

    /// How many runs go on at a time, where the processor could do `threads` of them. A GPU is one for all: runs side by side
    /// would make each other late, which the estimate of their cost does not know, and batches smaller.
    pub fn executors(self, threads: usize) -> usize {
        if self == Self::Cpu { threads } else { 1 }
    }

    /// True when what a run takes can be counted, and so bounded.
    pub fn counts_memory(self) -> bool {
        self == Self::Cpu
    }

    /// True when `error` is one of the device: its backend does not run what the processor may run.
    pub fn refuses(self, error: &LoadError) -> bool {
        self != Self::Cpu
            && matches!(error, LoadError::Unsupported { .. } | LoadError::UnsupportedValue { .. })
    }
}

/// Loads an ONNX model from memory and puts it on a device of any backend. What the backend does not run is an error that
/// names all operators and values that are to blame.
pub fn load_on<B: Backend>(bytes: &[u8], device: &B::Device) -> Result<Box<dyn Model>, LoadError> {
    Ok(Box::new(Network::<B>::new(&File::from_bytes(bytes)?, device)?))
}

/// True when a driver has the device. A driver that is broken may panic, and then it has none.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn found(ask: impl FnOnce() -> Result<cubecl::Device, cubecl::device::DeviceUnavailable>) -> bool {
    // Nothing is shared with the caller that could be left half done.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask)).is_ok_and(|device| device.is_ok())
}

/// Which GPU wgpu is asked for.
#[cfg(feature = "wgpu")]
fn kind(number: Option<u16>) -> cubecl::device::WgpuDeviceKind {
    use cubecl::device::WgpuDeviceKind::{DefaultDevice, DiscreteGpu};
    number.map_or(DefaultDevice, |number| DiscreteGpu(number.into()))
}

#[cfg(test)]
#[path = "device/tests.rs"]
mod tests;

//! A model on any backend of burn, with parameters that can change.
//!
//! Only floating-point numbers (`FP32` and `FP64`) that depend on an input or a parameter are on the backend:
//! integers, truth values, strings and shapes stay on the host, where the operators of [`Graph`] compute them.
//! Which values are where is known at load, and so is every node that no gradient goes through.
//!
//! [`Graph`]: crate::Graph

mod arguments;
mod attention;
mod elementwise;
mod form;
mod layout;
mod loss;
mod movement;
mod normalise;
mod product;
mod real;
mod recurrent;
mod reduce;
mod run;
mod shapes;
mod train;
mod unary;
mod window;
mod write;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};

pub(crate) use form::{Form, read};
pub use run::Argument;
pub use train::Gradients;

use crate::error::{LoadError, ParameterError};
use crate::graph::batch_axis;
use crate::load;
use crate::model::Model;
use crate::plan::Plan;
use crate::tensor::Fault;
use crate::value::{DType, ValueInfo};
use arguments::Constant;
use real::Real;
use run::guarded;

/// A model on a backend of burn. Its parameters are the floating-point initialisers of the file's graph.
///
/// A parameter is trainable or frozen. At first, scalars and the running statistics of `BatchNormalization`
/// are frozen, and all others are trainable. On a backend that records gradients (`Autodiff` of
/// `burn-autodiff`, around any other), [`Network::run`] records what it does with trainable parameters;
/// [`Network::gradients`] then gives the gradients of a loss, and [`Network::step`] goes a step down.
///
/// Backends have no tensors without dimensions: on the backend, a scalar is a tensor of the shape `[1]`.
///
/// ```
/// use burn::backend::Flex;
/// use burn_autodiff::Autodiff;
/// use stoker_graph::{Argument, Data, Graph, Model, Network, Value};
///
/// let model = Model::from_bytes(include_bytes!("../../tests/fixtures/perceptron.onnx"))?;
/// let mut network = Network::<Autodiff<Flex>>::new(&model, &Default::default())?;
///
/// let rows = Value::new(vec![2, 64], Data::F32(vec![0.5; 128]))?;
/// let mut losses = Vec::new();
/// for _ in 0..3 {
///     let answer = network.run(vec![("x".to_owned(), rows.clone().into())])?;
///     let Argument::Float(probabilities) = answer[1].1.clone() else { panic!("floats are on the backend") };
///     let loss = network.cross_entropy_of_probabilities(probabilities, &[3, 8])?;
///     losses.push(network.value(loss.clone())?);
///     let gradients = network.gradients(loss)?;
///     network.step(&gradients, 0.01)?;
/// }
/// let number = |value: &Value| match value.data() { Data::F32(all) => all[0], _ => f32::NAN };
/// assert!(number(&losses[2]) < number(&losses[0]));
///
/// let tuned = network.write_back(&model)?;
/// std::fs::write(std::env::temp_dir().join("tuned.onnx"), tuned.to_bytes()?)?;
/// let graph: Graph = tuned.graph()?;
/// # assert_eq!(graph.run(vec![("x".to_owned(), rows)])?.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Network<B: Backend> {
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    plan: Plan,
    constants: Vec<Constant<B>>,
    parameters: Vec<Parameter<B>>,
    device: B::Device,
    random: bool,
}

/// What is known of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterInfo {
    /// The name of the initialiser.
    pub name: String,
    /// The shape that the file has.
    pub shape: Vec<usize>,
    /// `FP32` or `FP64`.
    pub dtype: DType,
    /// True when gradients are recorded and [`Network::step`] changes it.
    pub trainable: bool,
}

/// A floating-point initialiser on the backend.
struct Parameter<B: Backend> {
    info: ParameterInfo,
    slot: usize,
    tensor: FloatTensor<B>,
}

impl<B: Backend> std::fmt::Debug for Network<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Network")
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .field("parameters", &self.parameters.len())
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Parameter<B> {
    /// Gives the parameter another tensor, as a new leaf of what is recorded.
    fn set(&mut self, tensor: FloatTensor<B>) {
        let leaf = B::float_set_require_grad(tensor, false);
        self.tensor = B::float_set_require_grad(leaf, self.info.trainable);
    }

    fn real(&self) -> Result<Real<B>, Fault> {
        Real::<B>::new(self.tensor.clone())?.reshape(&self.info.shape)
    }

    /// The shape on the backend.
    fn stored_shape(&self) -> Vec<usize> {
        if self.info.shape.is_empty() { vec![1] } else { self.info.shape.clone() }
    }
}

impl<B: Backend> Network<B> {
    /// Puts a model on a device. Nodes that no gradient goes through, though they read a parameter or an input
    /// of floating-point numbers, are named all at once, as [`LoadError::Unsupported`].
    pub fn new(model: &Model, device: &B::Device) -> Result<Self, LoadError> {
        let loaded = load::load_live(&model.proto, model.folder.as_ref())?;
        let mut plan = loaded.plan;
        let constants = std::mem::take(&mut plan.constants).into_iter().map(Constant::new).collect();
        let place = |load::Parameter { name, slot, tensor, gathered }| {
            let refused =
                |name: &str, reason: String| LoadError::UnsupportedValue { name: name.to_owned(), reason };
            let real = guarded(|_| Real::<B>::from_host(&tensor, device));
            let real = real.map_err(|gave_up| refused(&name, gave_up.reason))?;
            let primitive = real.map_err(|fault| refused(&name, fault.0))?.into_primitive();
            let trainable = !gathered && tensor.rank() > 0;
            let info =
                ParameterInfo { name, shape: tensor.shape().to_vec(), dtype: tensor.dtype(), trainable };
            let mut placed = Parameter { info, slot, tensor: primitive.clone() };
            placed.set(primitive);
            Ok(placed)
        };
        Ok(Self {
            inputs: loaded.inputs,
            outputs: loaded.outputs,
            plan,
            constants,
            parameters: loaded.parameters.into_iter().map(place).collect::<Result<_, LoadError>>()?,
            device: device.clone(),
            random: loaded.random,
        })
    }

    /// The inputs that a request must give: those of the graph without its initialisers.
    pub fn inputs(&self) -> &[ValueInfo] {
        &self.inputs
    }

    /// The outputs, in the order of the graph.
    pub fn outputs(&self) -> &[ValueInfo] {
        &self.outputs
    }

    /// As [`Graph::batch_axis`](crate::Graph::batch_axis).
    pub fn batch_axis(&self) -> bool {
        batch_axis(&self.inputs, &self.outputs)
    }

    /// As [`Graph::is_deterministic`](crate::Graph::is_deterministic): what a device does with the order of
    /// additions is not known here.
    pub fn is_deterministic(&self) -> bool {
        !self.random
    }

    /// The device that the parameters are on.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// What is known of all parameters, in the order of the file.
    pub fn parameters(&self) -> impl Iterator<Item = &ParameterInfo> {
        self.parameters.iter().map(|parameter| &parameter.info)
    }

    fn find(&self, name: &str) -> Result<usize, ParameterError> {
        self.parameters.iter().position(|parameter| parameter.info.name == name).ok_or_else(|| {
            let known = self.parameters().map(|info| info.name.clone()).collect();
            ParameterError::Unknown { name: name.to_owned(), known }
        })
    }

    /// The tensor of a parameter.
    pub fn parameter(&self, name: &str) -> Result<&FloatTensor<B>, ParameterError> {
        Ok(&self.parameters[self.find(name)?].tensor)
    }

    /// Gives a parameter another tensor of the same type and shape, which is `[1]` for a scalar. Where the
    /// tensor comes from is forgotten: it is a leaf of what later requests record.
    pub fn set_parameter(&mut self, name: &str, tensor: FloatTensor<B>) -> Result<(), ParameterError> {
        let position = self.find(name)?;
        let parameter = &mut self.parameters[position];
        let (expected, actual) = (parameter.stored_shape(), tensor.shape().iter().copied().collect());
        if expected != actual {
            return Err(ParameterError::WrongShape { name: name.to_owned(), expected, actual });
        }
        if tensor.dtype() != parameter.tensor.dtype() {
            let (expected, actual) = (parameter.info.dtype, format!("{:?}", tensor.dtype()));
            return Err(ParameterError::WrongType { name: name.to_owned(), expected, actual });
        }
        parameter.set(tensor);
        Ok(())
    }

    /// Leaves a parameter as it is from now on: no gradients are recorded for it.
    pub fn freeze(&mut self, name: &str) -> Result<(), ParameterError> {
        self.set_trainable(name, false)
    }

    /// Makes a parameter trainable.
    pub fn unfreeze(&mut self, name: &str) -> Result<(), ParameterError> {
        self.set_trainable(name, true)
    }

    fn set_trainable(&mut self, name: &str, trainable: bool) -> Result<(), ParameterError> {
        let position = self.find(name)?;
        let parameter = &mut self.parameters[position];
        parameter.info.trainable = trainable;
        parameter.set(parameter.tensor.clone());
        Ok(())
    }
}

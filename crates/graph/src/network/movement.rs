//! Operators that only move elements, whatever their shape: the operator of the host is run on positions.
//!
//! Each element of the inputs gets a number. What the operator of the host makes of these numbers says where
//! each element of the result comes from, so that the backend picks them. Zero stands for an element that is
//! none of the inputs', which is zero in all of these operators.

use burn::backend::Backend;

use super::arguments::{Arguments, Carried};
use super::form::{Entry, Form, Read, one};
use super::real::Real;
use super::shapes::resolve_position;
use crate::held::Held;
use crate::load::Node;
use crate::ops::Refusal;
use crate::tensor::{Fault, Tensor, check_size, fault, resolve_axis, to_i64};

/// Which elements are moved.
pub(crate) enum Movement {
    /// Those of some inputs; the others say where.
    Picked { data: &'static [usize] },
    /// Those that are the largest or smallest along a dimension.
    Best { axis: i64 },
}

/// The forms of this family.
pub(super) const FORMS: &[Entry] = &[
    Entry::new("Compress", |_, _| Ok(picked(&[0]))),
    Entry::new("CenterCropPad", |_, _| Ok(picked(&[0]))),
    Entry::new("DepthToSpace", |_, _| Ok(picked(&[0]))),
    Entry::new("GatherElements", |_, _| Ok(picked(&[0]))),
    Entry::new("GatherND", |_, _| Ok(picked(&[0]))),
    Entry::new("OneHot", |_, _| Ok(picked(&[2]))),
    Entry::new("Pad", pad),
    Entry::new("Resize", nearest),
    Entry::new("ReverseSequence", |_, _| Ok(picked(&[0]))),
    Entry::new("Scatter", scattered),
    Entry::new("ScatterElements", scattered),
    Entry::new("ScatterND", scattered),
    Entry::new("Slice", |_, _| Ok(picked(&[0]))),
    Entry::new("SpaceToDepth", |_, _| Ok(picked(&[0]))),
    Entry::new("Tile", |_, _| Ok(picked(&[0]))),
    Entry::new("TopK", |node, _| Ok(Form::Movement(Movement::Best { axis: node.int("axis", -1) }))),
    Entry::new("Trilu", |_, _| Ok(picked(&[0]))),
    Entry::new("Upsample", nearest),
];

fn picked(data: &'static [usize]) -> Form {
    Form::Movement(Movement::Picked { data })
}

/// Before opset 11 the number to fill with is an attribute, which has no position.
fn pad(node: &Node<'_>, _: &[bool]) -> Read {
    if node.opset() < 11 && node.float("value", 0.0) != 0.0 {
        return Err(Refusal::Unsupported("padding with other than zeros is an attribute".to_owned()));
    }
    Ok(picked(&[0, 2]))
}

fn scattered(node: &Node<'_>, _: &[bool]) -> Read {
    match node.string("reduction", "none")?.as_str() {
        "none" => Ok(picked(&[0, 2])),
        other => Err(Refusal::Unsupported(format!("no gradient goes through the reduction `{other}`"))),
    }
}

/// The other modes make new numbers, and so does a number for what is outside of the image.
fn nearest(node: &Node<'_>, _: &[bool]) -> Read {
    let mode = node.string("mode", "nearest")?;
    if mode != "nearest" {
        return Err(Refusal::Unsupported(format!("no gradient goes through the mode `{mode}`")));
    }
    let crops = node.string("coordinate_transformation_mode", "half_pixel")? == "tf_crop_and_resize";
    if crops && node.float("extrapolation_value", 0.0) != 0.0 {
        return Err(Refusal::Unsupported("extrapolation with other than zeros".to_owned()));
    }
    Ok(picked(&[0]))
}

impl Movement {
    pub(super) fn gives_real(&self, index: usize) -> bool {
        // The second output of the best is where they are.
        index == 0 || matches!(self, Self::Picked { .. })
    }

    pub(super) fn run<B: Backend>(&self, arguments: &mut Arguments<'_, B>) -> Result<Vec<Carried<B>>, Fault> {
        match self {
            Self::Picked { data } => pick(arguments, data).map(one),
            Self::Best { axis } => best(arguments, *axis),
        }
    }
}

fn pick<B: Backend>(arguments: &mut Arguments<'_, B>, data: &[usize]) -> Result<Real<B>, Fault> {
    let mut sources = Vec::new();
    let mut held: Vec<Option<Held>> = Vec::with_capacity(arguments.count());
    let mut next = 1usize;
    for index in 0..arguments.count() {
        if !data.contains(&index) || !arguments.has(index) {
            held.push(arguments.held(index)?);
            continue;
        }
        let source = arguments.real(index)?;
        let count = check_size(source.shape())?;
        let numbers = (next..next + count).map(to_i64).collect();
        held.push(Some(Tensor::from_items(source.shape(), numbers).into()));
        next += count;
        sources.push(source.flat()?);
    }
    let outputs = arguments.operate(held)?;
    let Some(places) = outputs.into_iter().next() else { fault!("nothing was computed") };
    let places = places.tensor()?;
    let mut positions = positions(&places)?;
    let Some(first) = sources.first() else { fault!("there is nothing to move") };
    if sources.len() == 1 && !positions.contains(&0) {
        for position in &mut positions {
            *position -= 1;
        }
    } else {
        let zero = first.full(&[1], 0.0)?;
        sources.insert(0, zero);
    }
    Real::join(sources, 0)?.select(0, &positions)?.reshape(places.shape())
}

/// The numbers of the elements.
fn positions(places: &Tensor) -> Result<Vec<usize>, Fault> {
    let position = |place: i64| usize::try_from(place).map_err(|error| Fault(error.to_string()));
    places.to_i64s()?.into_iter().map(position).collect()
}

/// The operator of the host says where the best are.
fn best<B: Backend>(arguments: &mut Arguments<'_, B>, axis: i64) -> Result<Vec<Carried<B>>, Fault> {
    let x = arguments.real(0)?;
    let axis = resolve_axis(axis, x.rank())?;
    let mut held: Vec<Option<Held>> = vec![Some(x.to_host()?.into())];
    for index in 1..arguments.count() {
        held.push(arguments.held(index)?);
    }
    let mut outputs = arguments.operate(held)?.into_iter();
    let (_, Some(places)) = (outputs.next(), outputs.next()) else { fault!("nothing was computed") };
    let places = places.tensor()?;
    let (length, after) = (x.length(axis)?, x.shape()[axis + 1..].iter().product::<usize>());
    let count = places.shape()[axis];
    let mut positions = Vec::with_capacity(places.len());
    for (at, place) in places.to_i64s()?.into_iter().enumerate() {
        let block = at / (count * after).max(1);
        let place = resolve_position(place, length)?;
        positions.push((block * length + place) * after + at % after.max(1));
    }
    let shape = places.shape().to_vec();
    let values = x.flat()?.select(0, &positions)?.reshape(&shape)?;
    Ok(vec![Carried::Real(values), Carried::Held(places.into())])
}

//! Weights outside of a file, put into it.

use super::{Folder, initializer, invalid, unsupported};
use crate::error::LoadError;
use crate::ops::Refusal;
use crate::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};

/// Reads all tensors of a model that are in other files, so that it needs none of them any more.
pub(crate) fn embed(model: &mut ModelProto, folder: Option<&Folder>) -> Result<(), LoadError> {
    if let Some(graph) = &mut model.graph {
        in_graph(graph, folder)?;
    }
    model.functions.iter_mut().try_for_each(|function| in_nodes(&mut function.node, folder))
}

fn in_graph(graph: &mut GraphProto, folder: Option<&Folder>) -> Result<(), LoadError> {
    graph.initializer.iter_mut().try_for_each(|tensor| in_tensor(tensor, folder))?;
    graph.sparse_initializer.iter_mut().try_for_each(|sparse| in_sparse(sparse, folder))?;
    in_nodes(&mut graph.node, folder)
}

fn in_nodes(nodes: &mut [NodeProto], folder: Option<&Folder>) -> Result<(), LoadError> {
    let attributes = nodes.iter_mut().flat_map(|node| node.attribute.iter_mut());
    for AttributeProto { t, g, tensors, graphs, sparse_tensor, sparse_tensors, .. } in attributes {
        t.iter_mut().map(AsMut::as_mut).chain(tensors).try_for_each(|tensor| in_tensor(tensor, folder))?;
        g.iter_mut().map(AsMut::as_mut).chain(graphs).try_for_each(|graph| in_graph(graph, folder))?;
        let sparse = sparse_tensor.iter_mut().map(AsMut::as_mut).chain(sparse_tensors);
        sparse.into_iter().try_for_each(|sparse| in_sparse(sparse, folder))?;
    }
    Ok(())
}

fn in_sparse(sparse: &mut SparseTensorProto, folder: Option<&Folder>) -> Result<(), LoadError> {
    let parts = sparse.values.iter_mut().chain(&mut sparse.indices);
    parts.map(AsMut::as_mut).try_for_each(|tensor| in_tensor(tensor, folder))
}

fn in_tensor(proto: &mut TensorProto, folder: Option<&Folder>) -> Result<(), LoadError> {
    if proto.data_location.unwrap_or(0) == 0 && proto.external_data.is_empty() {
        return Ok(());
    }
    let tensor = initializer::read(proto, folder).map_err(|refusal| match refusal {
        Refusal::Unsupported(reason) => unsupported(&proto.name, &reason),
        Refusal::Invalid(reason) => invalid(&proto.name, &reason),
    })?;
    *proto = TensorProto {
        doc_string: std::mem::take(&mut proto.doc_string),
        metadata_props: std::mem::take(&mut proto.metadata_props),
        ..initializer::write(&tensor, &proto.name)
    };
    Ok(())
}

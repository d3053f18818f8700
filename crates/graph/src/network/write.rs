//! Parameters written back into the model.

use std::collections::HashMap;

use burn::backend::Backend;

use super::Network;
use super::run::guarded;
use crate::error::ParameterError;
use crate::load::{Folder, write_tensor};
use crate::model::Model;
use crate::proto::TensorProto;

impl<B: Backend> Network<B> {
    /// A copy of the model with the parameters as they are now; [`Model::to_bytes`] makes a file of it. The
    /// model must be the one that the network was made of. Parameters that were in other files are in the
    /// copy itself.
    pub fn write_back(&self, model: &Model) -> Result<Model, ParameterError> {
        let mut proto = model.proto.clone();
        let initializers = proto.graph.iter_mut().flat_map(|graph| graph.initializer.iter_mut());
        let mut stored: HashMap<String, &mut TensorProto> =
            initializers.map(|stored| (stored.name.clone(), stored)).collect();
        for parameter in &self.parameters {
            let name = &parameter.info.name;
            let failed = |reason: String| ParameterError::Backend { name: name.clone(), reason };
            let tensor = guarded(|_| parameter.real()?.to_host());
            let tensor =
                tensor.map_err(|gave_up| failed(gave_up.reason))?.map_err(|fault| failed(fault.0))?;
            let written = write_tensor(&tensor, name);
            let own = stored.get_mut(name);
            let own = own.filter(|own| own.dims == written.dims && own.data_type == written.data_type);
            let own = own.ok_or_else(|| ParameterError::OtherModel { name: name.clone() })?;
            **own = TensorProto {
                doc_string: std::mem::take(&mut own.doc_string),
                metadata_props: std::mem::take(&mut own.metadata_props),
                ..written
            };
        }
        Ok(Model { proto, folder: model.folder.as_ref().map(Folder::again) })
    }
}

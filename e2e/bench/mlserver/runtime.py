"""A peer of the benchmark: the model on ONNX Runtime behind MLServer, by its interface for own runtimes.

In MLServer's own process: a pool of workers beside it costs more than it gives for a model of microseconds.
"""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxRuntime(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = self.settings.parameters.uri
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feed = {}
        for tensor in payload.inputs:
            values = NumpyCodec.decode_input(tensor)
            # What its codec makes of FP32 depends on the tensor's parameters.
            feed[tensor.name] = values.astype("float32", copy=False)
        outputs = zip(self.names, self.session.run(self.names, feed))
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(name, value) for name, value in outputs],
        )

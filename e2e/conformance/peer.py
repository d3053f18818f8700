"""A model run by ONNX Runtime, with values of every type that it has.

Its Python interface takes and gives NumPy arrays, which have no half of the small types: those go in and out as the bytes
of a message.
"""

import ctypes

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

onnxruntime.set_default_logger_severity(4)


def run(model, inputs):
    """The outputs of a model file for inputs in the order of the graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [info.name for info in session.get_inputs()]
    feeds = dict(zip(names, inputs))
    types = [info.type for info in (*session.get_inputs(), *session.get_outputs())]
    if any(is_foreign(name) for name in types) and all(name.startswith("tensor(") for name in types):
        given = {name: to_ort(value) for name, value in feeds.items()}
        return [from_ort(value) for value in session.run_with_ort_values(None, given)]
    return session.run(None, feeds)


def is_foreign(name):
    """Whether NumPy has no such type: `bfloat16`, `float8e4m3fn`, `int4`, ..."""
    element = name.removeprefix("tensor(").removesuffix(")")
    return element.startswith(("bfloat16", "float8", "float4", "int4", "uint4", "int2", "uint2"))


def to_ort(array):
    number = helper.np_dtype_to_tensor_dtype(array.dtype)
    if number == TensorProto.STRING or array.dtype.isbuiltin == 1:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(array.shape), number)
    packed = numpy_helper.from_array(array).raw_data
    if len(packed) != value.tensor_size_in_bytes():
        raise ValueError(f"{array.dtype} takes {value.tensor_size_in_bytes()} bytes, not {len(packed)}")
    ctypes.memmove(value.data_ptr(), packed, len(packed))
    return value


def from_ort(value):
    number = value.element_type()
    dtype = helper.tensor_dtype_to_np_dtype(number)
    if number == TensorProto.STRING or np.dtype(dtype).isbuiltin == 1:
        return value.numpy()
    size = value.tensor_size_in_bytes()
    packed = ctypes.string_at(value.data_ptr(), size) if size else b""
    return numpy_helper.to_array(TensorProto(dims=value.shape(), data_type=number, raw_data=packed))

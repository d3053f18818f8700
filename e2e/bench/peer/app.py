"""The peer of the benchmark: the same model behind FastAPI and ONNX Runtime, as a careful team would write it.

One process, uvicorn with uvloop and httptools, orjson both ways, no pydantic model of the body, one thread for a run and
no spinning. The handler is `async` and runs the model in place: for a model of microseconds a thread pool costs more
than it gives.
"""

import os

import numpy
import onnxruntime
import orjson
from fastapi import FastAPI, Request, Response

NAME = os.environ["MODEL_NAME"]
DATATYPES = {
    "tensor(float)": ("FP32", numpy.float32),
    "tensor(double)": ("FP64", numpy.float64),
    "tensor(int64)": ("INT64", numpy.int64),
}

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(os.environ["MODEL_PATH"], options, providers=["CPUExecutionProvider"])
inputs = {item.name: DATATYPES[item.type] for item in session.get_inputs()}
outputs = [(item.name, DATATYPES[item.type][0]) for item in session.get_outputs()]
output_names = [name for name, _ in outputs]

app = FastAPI(openapi_url=None)


def answer(status, value):
    text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(text, status, media_type="application/json")


@app.get("/v2/health/ready")
async def ready():
    return Response()


@app.post(f"/v2/models/{NAME}/infer")
async def infer(request: Request):
    try:
        asked = orjson.loads(await request.body())
        feed = {}
        for tensor in asked["inputs"]:
            datatype, dtype = inputs[tensor["name"]]
            if tensor["datatype"] != datatype:
                return answer(400, {"error": f"input {tensor['name']} must be {datatype}"})
            feed[tensor["name"]] = numpy.array(tensor["data"], dtype).reshape(tensor["shape"])
        values = session.run(output_names, feed)
    except Exception as error:
        return answer(400, {"error": str(error)})
    result = {
        "model_name": NAME,
        "model_version": "1",
        "outputs": [
            {"name": name, "datatype": datatype, "shape": value.shape, "data": value.ravel()}
            for (name, datatype), value in zip(outputs, values)
        ],
    }
    if "id" in asked:
        result["id"] = asked["id"]
    return answer(200, result)

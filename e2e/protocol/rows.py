"""Many rows in many requests at a time, of random size: each row must come back as it was sent, in its request.

Run as `rows.py grpc|http-binary|http-json ADDRESS FIRST COUNT SEED`, in a process of its own, so that several transports are
busy at once and their requests meet in the same batches. Prints the number of requests, and ends with 1 at the first row
that is not right.
"""

import asyncio
import random
import sys

import index_model
import numpy as np

# Most rows of a request.
ROWS = 64
# Requests of one process at a time.
AT_A_TIME = 32
MODEL = "index"


def ranges(first, count, seed):
    """Divides the indices into requests of 1 to ROWS rows."""
    chance = random.Random(seed)
    end = first + count
    while first < end:
        rows = min(chance.randint(1, ROWS), end - first)
        yield np.arange(first, first + rows, dtype=np.int64)
        first += rows


def inputs(client, index, **form):
    """The tensors of a request, by the client's module."""
    numbers = index_model.payload(index)
    tensors = [
        client.InferInput("index", index.shape, "INT64"),
        client.InferInput("numbers", numbers.shape, "FP32"),
    ]
    for tensor, values in zip(tensors, (index, numbers)):
        tensor.set_data_from_numpy(values, **form)
    return tensors


def check(index, result):
    same, total = result.as_numpy("same"), result.as_numpy("total")
    if not np.array_equal(same, index):
        raise AssertionError(f"rows {index[0]} to {index[-1]} were sent, and {same} came back")
    if not np.array_equal(total, index_model.total(index)):
        raise AssertionError(f"rows {index[0]} to {index[-1]}: {total} came back, not {index_model.total(index)}")


async def over_grpc(address, work):
    import tritonclient.grpc.aio as aio

    async with aio.InferenceServerClient(address) as client:

        async def ask():
            requests = 0
            for index in work:
                check(index, await client.infer(MODEL, inputs(aio, index), client_timeout=60))
                requests += 1
            return requests

        return sum(await asyncio.gather(*(ask() for _ in range(AT_A_TIME))))


def over_http(address, work, binary):
    """By `infer` of many clients: their `async_infer` sleeps for 10 ms in each call."""
    import gevent
    import tritonclient.http as http

    def ask():
        requests = 0
        client = http.InferenceServerClient(address)
        for index in work:
            outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in ("same", "total")]
            check(index, client.infer(MODEL, inputs(http, index, binary_data=binary), outputs=outputs))
            requests += 1
        client.close()
        return requests

    asking = [gevent.spawn(ask) for _ in range(AT_A_TIME)]
    gevent.joinall(asking, raise_error=True)
    return sum(greenlet.value for greenlet in asking)


def main():
    transport, address, first, count, seed = sys.argv[1:]
    work = ranges(int(first), int(count), int(seed))
    if transport == "grpc":
        print(asyncio.run(over_grpc(address, work)))
    else:
        print(over_http(address, work, binary=transport == "http-binary"))


if __name__ == "__main__":
    main()

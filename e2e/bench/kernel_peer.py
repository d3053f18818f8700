"""kernel_peer.py MODEL OUT SECONDS THREADS SPINS INPUT...: ONNX Runtime, timed as `stoker-graph time --wait` times ours.

SPINS is 1 where threads that have nothing to do may spin, 0 where they sleep. Inputs and outputs are bound, so that a run is not
charged for Python's dictionaries. With MODEL `none` it only says that it is ready: what Python and ONNX Runtime take by themselves.
"""

import json
import pathlib
import sys
import time

import numpy
import onnxruntime

# As ours: see `stoker-graph time`.
MOST_RUNS = 50_000


def say(**line):
    print(json.dumps(line), flush=True)


def session(model, threads, spins):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", spins)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main():
    model, out, seconds, threads, spins, *inputs = sys.argv[1:]
    if model == "none":
        say(load=0, first=0)
        return sys.stdin.read()
    started = time.perf_counter()
    made = session(model, int(threads), spins)
    load = time.perf_counter() - started
    given = [onnxruntime.OrtValue.ortvalue_from_numpy(numpy.load(file)) for file in inputs]
    binding = made.io_binding()
    for info, value in zip(made.get_inputs(), given):
        binding.bind_ortvalue_input(info.name, value)
    for info in made.get_outputs():
        binding.bind_output(info.name, "cpu")
    clock, run = time.perf_counter, made._sess.run_with_iobinding
    bound = binding._iobinding
    started = clock()
    run(bound, None)
    first = clock() - started
    for at, value in enumerate(binding.copy_outputs_to_cpu()):
        numpy.save(pathlib.Path(out) / f"output_{at}.npy", value)
    say(load=load, first=first)
    for _ in sys.stdin:
        times, end = [], clock() + float(seconds)
        while not times or (clock() < end and len(times) < MOST_RUNS):
            started = clock()
            run(bound, None)
            times.append(clock() - started)
        times.sort()
        say(runs=len(times), median=times[len(times) // 2], fastest=times[0])


main()

"""`e2e/bench/kernels --instructions`: how many instructions a run takes, of ours and of ONNX Runtime, on one thread.

Many virtual machines count neither instructions nor cycles; valgrind counts what a program executes, on any of them. Each side
runs a model once more after its first run, and some times more than that; the difference is those runs. Valgrind knows AVX2 and
no AVX-512, and does not see how long an instruction waits for memory.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

from harness import HERE

MILLION = 1e6
# Python itself differs by some hundred thousand instructions from start to start, which is more than a small model takes.
SMALL_FILE, RUNS_OF_SMALL, RUNS = 3_000_000, 400, 2
COUNTER = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")


def counted(command, runs):
    """The instructions of a process that runs a model so many times after its first run."""
    # As many threads as it may use cores: ours finds that out by itself.
    core = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "--cpu-list", core, *COUNTER, *map(str, command)]
    done = subprocess.run(command, input="\n" * runs, text=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "0"})
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode or not found:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return int(found[1].replace(",", ""))


def of_a_run(command, file):
    runs = RUNS_OF_SMALL if file.stat().st_size < SMALL_FILE else RUNS
    return (counted(command, 1 + runs) - counted(command, 1)) / runs


def lines(asked, rows):
    """For each model and batch of `rows`: its name, millions of instructions of ours and the peer's, and their ratio."""
    import kernel_models

    if not shutil.which(COUNTER[0]):
        sys.exit("there is no valgrind, which counts the instructions: install the package of that name")
    for model, batch in rows:
        file, inputs = kernel_models.path(model), kernel_models.inputs(model, batch)
        with tempfile.TemporaryDirectory() as folder:
            ours = of_a_run([asked.graph, "time", file, *inputs, "--wait", "--seconds", 0, "--out", folder], file)
            peer = of_a_run([sys.executable, HERE / "kernel_peer.py", file, folder, 0, 1, 0, *inputs], file)
        yield [f"`{model}/b{batch}`", *(f"{side / MILLION:.3g}" for side in (ours, peer)), f"{ours / peer:.2f}"]

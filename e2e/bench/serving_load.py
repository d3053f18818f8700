"""Rows of `make bench-serving` that are about our server alone: batching, overload, the cache, and first requests."""

import json
import random
import statistics
import time

import curves
import harness
from harness import OUT, ROOT

NAME = "slow"
# Rows of the largest batch, and of the runs from which the cost of a run is fitted.
LARGEST, SIZES = 16, (1, 2, 4, 8, 12, 16)
# Enough that the largest batch is full and as many wait.
BUSY = 2 * LARGEST
# The target is so many times what the largest batch takes: it must run, and may have to wait for the one before it.
PATIENCE = 3.5
# A rate is carried when this share of all requests is answered within the target.
CARRIED = 0.99
# Rates of the curves, as parts of the capacity.
CURVE = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0)
# Halvings of the interval in which the capacity lies, and tries of each rate: what else the machine does only ever takes
# away, so that a rate which is carried once is carried.
HALVINGS, TRIES = 6, 3
# Runs of the misses for each one of other rows: what they differ in is less than what two runs differ in.
OF_MISSES = 3
URL = "/v2/models/slow/infer"


def body(rows, dice=None):
    """A request of so many rows; without dice always the same."""
    data = [round(dice.random(), 6) if dice else 0.5 for _ in range(64 * rows)]
    return json.dumps({"inputs": [{"name": "input", "shape": [rows, 64], "datatype": "FP32", "data": data}]})


def ask(connection, text):
    """Sends a request and returns the seconds until its answer was read."""
    begun = time.perf_counter()
    connection.request("POST", URL, text, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise SystemExit(f"a request of {NAME} was answered {answer.status}")
    return time.perf_counter() - begun


def cost(bench):
    """T(rows) of a run in seconds, as our server's compute phase has it: the median over some rounds for each size.

    Of rows that differ, as those under load do: what the functions take hangs on the numbers."""
    seen = {rows: [] for rows in SIZES}
    dice = random.Random(2)
    with bench.ours(NAME, bench.slow, "--threads", "1", "--max-batch", str(LARGEST)):
        connection = bench.connection()
        for _ in range(bench.asked.runs):
            for rows in SIZES:
                before = bench.computed()
                for _ in range(20):
                    ask(connection, body(rows, dice))
                after = bench.computed()
                seen[rows].append((after[0] - before[0]) / (after[1] - before[1]))
    return {rows: statistics.median(times) for rows, times in seen.items()}


def batching(bench):
    """What batches gain, beside the formula B(a + b) / (a + bB); and what is left under overload of what can be carried.

    The capacity is the highest rate of a Poisson process at which 99 of 100 requests are answered within the target.
    """
    times = cost(bench)
    b, a = statistics.linear_regression(list(times), list(times.values()))
    about = {"seconds of a run by rows": times, "a": a, "b": b}
    if times[1] < 0.005 or a < 4 * b:
        raise SystemExit(f"the slow model must take 5 ms at least, and a / b must be 4 at least: {about}")
    single = OUT / "serving.slow.bodies"
    dice = random.Random(0)
    single.write_text("".join(body(1, dice) + "\n" for _ in range(500)))
    url = bench.url(model=NAME)

    def throughput(side, _):
        with bench.ours(NAME, bench.slow, "--threads", "1", "--max-batch", str(LARGEST if side == "batches" else 1)):
            return bench.load(url, single, "--connections", BUSY)

    runs = harness.alternate(("batches", "alone"), bench.asked.runs, throughput)
    busy = harness.medians(runs, lambda seen: seen["per_second"])
    gain = busy["batches"] / busy["alone"]
    formula = LARGEST * (a + b) / (a + b * LARGEST)

    target = PATIENCE * times[LARGEST]
    settings = ["--threads", "1", "--max-batch", str(LARGEST), "--latency-target", f"{target * 1e6:.0f}us"]
    open_loop = ["--mode", "open", "--connections", 1024, "--may-refuse", "--target", f"{target * 1e6:.0f}us"]

    def at(rate, seed):
        return bench.load(url, single, *open_loop, "--rate", rate, "--seed", seed)

    with bench.ours(NAME, bench.slow, *settings):
        low, high = 0.2 * busy["batches"], 1.2 * busy["batches"]
        tried = []
        for number in range(HALVINGS):
            rate = (low + high) / 2
            for attempt in range(TRIES):
                seen = at(rate, TRIES * number + attempt + 1)
                offered = seen["requests"] + seen["refused"]
                share = seen["goodput"] * bench.asked.seconds / max(offered, 1)
                tried.append({"rate": rate, "share": share})
                if share >= CARRIED:
                    break
            low, high = (rate, high) if share >= CARRIED else (low, rate)
        over = {
            factor: [at(low * factor, 100 + run) for run in range(bench.asked.runs)] for factor in (1.0, 1.3, 2.0)
        }
        swept = {"with the target": [at(low * factor, 200) for factor in CURVE]}
    if bench.asked.curves:
        # The same server without the target: it waits for as long as clients do.
        with bench.ours(NAME, bench.slow, *settings[:4]):
            swept["without it"] = [at(low * factor, 200) for factor in CURVE]
        draw(swept, low, target)
    goodput = {factor: statistics.median(seen["goodput"] for seen in runs) for factor, runs in over.items()}
    p99 = statistics.median(seen["latency_us"]["p99"] for seen in over[2.0])
    rows = [
        harness.row("batching/gain-of-formula", "times", gain, formula, 2),
        harness.row("overload-1.3x/goodput", "requests/s", goodput[1.3], low),
        harness.row("overload-2x/goodput", "requests/s", goodput[2.0], low),
        harness.row("overload-2x/p99-of-target", "ms", p99 / 1e3, target * 1e3, 2),
    ]
    about |= {"throughput": runs, "target_s": target, "capacity": {"per_second": low, "tried": tried}, "overload": over, "curves": swept}
    return rows, about


def draw(swept, capacity, target):
    """Writes docs/serving/*.svg: what comes in time, and how late the latest percent is, by what is asked for."""
    folder = ROOT / "docs" / "serving"
    folder.mkdir(exist_ok=True)

    def points(figure):
        return {name: [(factor, figure(seen)) for factor, seen in zip(CURVE, runs)] for name, runs in swept.items()}

    goodput = points(lambda seen: seen["goodput"] / capacity)
    p99 = points(lambda seen: seen["latency_us"]["p99"] / 1e6 / target)
    asked, in_time = "requests asked for, as a part of the capacity", "answers within the target"
    (folder / "goodput.svg").write_text(curves.draw("Answers within the target", asked, in_time, goodput, 1.2, [(1, "capacity")]))
    (folder / "p99.svg").write_text(curves.draw("p99 of the answers", asked, "times the target", p99, 4, [(1, "target")]))


def caching(bench):
    """Requests that are in the cache beside those that the model must run for; and what looking for others costs."""
    few, many = OUT / "serving.few.bodies", OUT / "serving.many.bodies"
    dice = random.Random(1)
    few.write_text("".join(body(1, dice) + "\n" for _ in range(100)))
    with many.open("w") as file:
        for _ in range(60_000):
            file.write(body(1, dice) + "\n")
    url = bench.url(model=NAME)
    cache = {"with": ["--cache", "64Mi"], "without": []}

    def rate_of_hits(side, _):
        with bench.ours(NAME, bench.slow, "--threads", "1", *cache[side]):
            return bench.load(url, few, "--connections", 1)

    def latency_of_misses(side, _):
        with bench.ours(NAME, bench.digits, "--threads", "1", *cache[side]):
            return bench.load(url, many, "--connections", 1, seconds=3)

    hits = harness.alternate(tuple(cache), bench.asked.runs, rate_of_hits)
    misses = harness.alternate(tuple(cache), OF_MISSES * bench.asked.runs, latency_of_misses)
    rate = harness.medians(hits, lambda seen: seen["per_second"])
    p50 = harness.medians(misses, lambda seen: seen["latency_us"]["p50"])
    rows = [
        harness.row("cache/hit-speedup", "requests/s", rate["with"], rate["without"]),
        harness.row("cache/miss-penalty", "us", p50["with"], p50["without"]),
    ]
    return rows, {"hits": hits, "misses": misses}


def first_requests(bench):
    """The first request of each batch size after the server says that it is ready, beside the median of those that follow."""
    firsts, medians = [], []
    for _ in range(bench.asked.runs):
        for rows in (1, 2, 4, 8, 16):
            with bench.ours(NAME, bench.slow, "--threads", "1", "--max-batch", str(LARGEST)):
                connection, text = bench.connection(), body(rows)
                # The connection is not part of it.
                connection.connect()
                first, *rest = (ask(connection, text) for _ in range(21))
                firsts.append(first * 1e3)
                medians.append(statistics.median(rest) * 1e3)
    ratios = [first / median for first, median in zip(firsts, medians)]
    # The ratio of the row is that of the medians; each start's own is in the conditions.
    row = harness.row("first-request/p50", "ms", statistics.median(firsts), statistics.median(medians), 2)
    return [row], {"ratios": ratios}

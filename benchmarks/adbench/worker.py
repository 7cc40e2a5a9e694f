"""The process of one package: prepares problems and times them when told to, by lines of JSON."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from . import packages

PROBLEMS = ("gmm", "ba", "lstm", "hand")


def leaves(x: Any) -> list[np.ndarray]:
    if isinstance(x, (tuple, list)):
        return [leaf for item in x for leaf in leaves(item)]
    return [np.asarray(x.detach() if hasattr(x, "detach") else x)]


class Prepared:
    """A problem of one size in one package: its function and derivative compiled and run once."""

    def __init__(self, package: packages.Package, problem: str, size: str, clock: Callable[[], float]) -> None:
        module = importlib.import_module(f"{__package__}.{problem}")
        shape = module.SIZES[size]
        args = tuple(package.array(x) for x in module.instance(shape))
        self.calls: dict[str, Callable[[], Any]] = {}
        self.first: dict[str, float] = {}
        self.results: list[np.ndarray] = []
        for name, f in zip(("primal", "derivative"), module.functions(package, shape)):
            self.calls[name] = call = lambda f=f: package.wait(f(*args))
            start = clock()
            result = call()
            self.first[name] = clock() - start
            self.results += leaves(result)

    def time(self, name: str, seconds: float, clock: Callable[[], float]) -> float:
        """The median time of a call, calls being repeated for that long. Short ones are timed many at once; long ones need no repetition."""
        call = self.calls[name]
        start = clock()
        call()
        once = clock() - start
        if once > 3 * seconds:
            return once
        inner = max(1, int(1e-3 / max(once, 1e-6)))
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < 3 or time.perf_counter() < end:
            start = clock()
            for _ in range(inner):
                call()
            times.append((clock() - start) / inner)
        return statistics.median(times)


def serve(name: str, requests: TextIO, answers: TextIO, clock: Callable[[], float]) -> None:
    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    try:
        package = packages.load(name)
    except ImportError as missing:
        answer(missing=str(missing))
        return
    answer(ready=True)
    prepared = None
    for line in requests:
        request = json.loads(line)
        if "prepare" in request:
            prepared = Prepared(package, *request["prepare"], clock)
            np.savez(request["save"], *prepared.results)
            answer(first=prepared.first)
        elif prepared is not None:
            answer(seconds={name: prepared.time(name, request["time"], clock) for name in prepared.calls})


def main(name: str, clock: Callable[[], float]) -> None:
    # what packages print goes to the terminal, not among the answers
    answers, sys.stdout = sys.stdout, sys.stderr
    serve(name, sys.stdin, answers, clock)

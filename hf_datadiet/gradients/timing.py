"""Of several exact routes the fastest: each layer's are timed on the values that it has in a pass."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from hf_datadiet.gradients.fallback import batched, one_at_a_time
from hf_datadiet.gradients.problem import Problem
from hf_datadiet.gradients.routes import Routes
from hf_datadiet.gradients.sweep import Layer, Sweep, squares_of, sweep_batch

TURNS, SLOWER = 5, 3
"""How often routes are timed, and how many times as long as the fastest takes what is not timed again."""


@dataclass
class _Stopwatch(Sweep):
    """A sweep that tries every route of every layer that has a choice, and notes the `fastest`."""

    measure: bool = True
    fastest: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)

    def ask(self, layer: Layer, inputs: torch.Tensor, grad: torch.Tensor) -> None:
        name = layer.names.get("weight")
        if name is not None and name not in self.several:
            words = layer.rule.routes(layer.module, inputs, grad, self.b)
            # Those with the fewest multiplications come first.
            if words:
                self.fastest[name] = words[0]
            if self.measure and len(words) > 1:
                self.seconds[name] = self._seconds(layer, words, inputs, grad)
                self.fastest[name] = min(words, key=lambda word: self.seconds[name][word])
        super().ask(layer, inputs, grad)

    def _seconds(self, layer: Layer, words: Sequence[str], inputs: torch.Tensor, grad: torch.Tensor) -> dict[str, float]:
        """{route: its fewest seconds}. They take turns, so that what else the machine does meanwhile falls on all of them."""
        taken = dict.fromkeys(words, float("inf"))
        for _ in range(TURNS):
            near = SLOWER * min(taken.values())
            for word in [word for word in words if taken[word] <= near]:
                start = time.perf_counter()
                # Reading a value waits for the device.
                float(next(iter(squares_of(replace(layer, route=word), inputs, grad, self.b).values())).values[0])
                taken[word] = min(taken[word], time.perf_counter() - start)
        return taken


def fastest(problem: Problem, routes: Routes, expandable: Iterable[str], measure: bool) -> Routes:
    """The same routes with the fastest choice for each layer, and for the rest, measured on this batch."""
    plain = routes.sweep(problem.b, expandable)
    watch = _Stopwatch(plain.b, plain.routes, plain.several, expandable=plain.expandable, measure=measure)
    sweep_batch(problem, watch, routes.layers(problem), routes.widened)
    rest = _faster_rest(problem.of(routes.left_over)) if measure and routes.left_over else "loop"
    return replace(routes, of={**routes.of, **watch.fastest}, rest=rest)


def _faster_rest(problem: Problem) -> Literal["vmap", "loop"]:
    seconds = []
    for engine in (batched, one_at_a_time):
        try:
            engine(problem)
            start = time.perf_counter()
            # Reading a value waits for the device.
            float(next(iter(engine(problem).values()))[0])
            seconds.append(time.perf_counter() - start)
        except (RuntimeError, NotImplementedError, ValueError, TypeError):
            if engine is one_at_a_time:
                raise
            return "loop"  # vmap cannot follow every model
    return "vmap" if seconds[0] < seconds[1] else "loop"

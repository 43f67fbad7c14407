"""Forgetting: how often training unlearns the example.

Paper: Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019
(arXiv 1812.05159); the form used here is section 2.3 of "Deep Learning on a Data Diet" (arXiv 2107.07075).
Event: the example was classified correctly the last time it was in a minibatch, and is not now. Correctness comes from the
training forward pass itself: augmented input, train mode, logits before the update. From given logits (`scores_from_logits`) it
comes from the ends of epochs instead, and the columns say so: their `origin` is "logits", not "training".

Columns, per seed:
  forgetting         events; for an example that was never classified correctly, the number of epochs it was shown (Toneva's
                     rule: never learned is hardest, not easiest). Can be sorted as it is. Higher is harder.
  forgetting_events  events alone. No claim about difficulty: zero means never forgotten or never learned.
  never_learned      1 if never classified correctly, else 0; the mean over seeds is the fraction of seeds. Higher is harder.
Range: counts in [0, epochs], never_learned in [0, 1]. Cost: nothing beyond training, but long training: many rows tie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hf_datadiet.scorers.base import Column, State


@dataclass(frozen=True)
class Forgetting:
    """The accumulator. State, each [N]: `events`, `shown` (epochs) and `epoch` (last one shown) int32; `correct`, `learned` bool.

    Only the first showing of a row in an epoch counts, so that padding or a repeated batch changes nothing.
    Every operation stays on the state's device and none waits for it.
    """

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column("forgetting", "harder", 0.0, float("inf")),
            Column("forgetting_events", "neither", 0.0, float("inf")),
            Column("never_learned", "harder", 0.0, 1.0),
        )

    def init(self, n_examples: int, n_classes: int, device: torch.device) -> State:
        """Nothing shown yet; `n_classes` plays no part."""
        counts = {name: torch.zeros(n_examples, dtype=torch.int32, device=device) for name in ("events", "shown", "epoch")}
        return counts | {name: torch.zeros(n_examples, dtype=torch.bool, device=device) for name in ("correct", "learned")}

    def update(self, state: State, rows: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, epoch: int) -> None:
        """In place. rows int64 [B] in 0..N-1, logits [B, C], labels int64 [B], all on the state's device; epoch from 1, never falling."""
        n_examples = state["events"].numel()
        positions = torch.arange(rows.numel(), device=rows.device)
        # A row that stands twice in the batch takes the answer of its first place both times, so that the writes below agree.
        first = rows.new_empty(n_examples).scatter_reduce_(0, rows, positions, "amin", include_self=False)[rows]
        correct = (logits.argmax(dim=1) == labels)[first]

        fresh = state["epoch"][rows] < epoch
        before = state["correct"][rows]
        state["events"][rows] += (fresh & before & ~correct).int()
        state["correct"][rows] = torch.where(fresh, correct, before)
        state["learned"][rows] = state["learned"][rows] | (fresh & correct)
        state["shown"][rows] += fresh.int()
        state["epoch"].index_fill_(0, rows, epoch)

    def finish(self, state: State) -> Mapping[str, torch.Tensor]:
        """{column: float32 [N]}."""
        events = state["events"].float()
        return {
            "forgetting": torch.where(state["learned"], events, state["shown"].float()),
            "forgetting_events": events,
            "never_learned": (~state["learned"]).float(),
        }


SCORER = Forgetting()

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_datadiet.scorers.forgetting import SCORER
from tests.references import scores as reference

CPU = torch.device("cpu")


def logits_of(correct: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits of 3 classes whose argmax is the label exactly where `correct`."""
    return torch.nn.functional.one_hot(torch.where(correct, labels, (labels + 1) % 3), 3).float()


def follow(history: list[list[bool]], shuffle_seed: int = 0, batch_size: int = 3, padded: bool = False) -> dict[str, list[float]]:
    """The columns after training epochs with that correctness [epochs][examples], in shuffled batches."""
    n_examples = len(history[0])
    labels = torch.arange(n_examples) % 3
    generator = torch.Generator().manual_seed(shuffle_seed)
    state = SCORER.init(n_examples, 3, CPU)
    for epoch, correct in enumerate(history, start=1):
        order = torch.randperm(n_examples, generator=generator)
        for rows in order.split(batch_size):
            logits, shown = logits_of(torch.tensor(correct)[rows], labels[rows]), labels[rows]
            if padded:  # Every row again with the opposite answer, in this batch and once more in a batch of its own.
                rows, shown = rows.repeat(2), shown.repeat(2)
                logits = torch.cat([logits, logits_of(~torch.tensor(correct)[rows[: len(logits)]], shown[: len(logits)])])
            SCORER.update(state, rows, logits, shown, epoch)
            if padded:
                SCORER.update(state, rows.flip(0), logits.flip(0), shown.flip(0), epoch)
    return {name: values.tolist() for name, values in SCORER.finish(state).items()}


def test_planted_histories() -> None:
    histories = {
        "never learned": ([0, 0, 0, 0], (4, 0, 1)),
        "learned at once": ([1, 1, 1, 1], (0, 0, 0)),
        "learned late": ([0, 0, 0, 1], (0, 0, 0)),
        "forgotten once": ([0, 1, 0, 0], (1, 1, 0)),
        "forgotten twice": ([1, 0, 1, 0], (2, 2, 0)),
    }
    got = follow([[bool(answers[epoch]) for answers, _ in histories.values()] for epoch in range(4)])
    for position, (name, (_, expected)) in enumerate(histories.items()):
        assert (got["forgetting"][position], got["forgetting_events"][position], got["never_learned"][position]) == expected, name


@settings(max_examples=40, deadline=None, database=None)
@given(
    st.integers(1, 8).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=7)),
    st.integers(0, 99),
    st.integers(1, 5),
    st.booleans(),
)
def test_against_the_second_implementation(history: list[list[bool]], seed: int, batch_size: int, padded: bool) -> None:
    got = follow(history, seed, batch_size, padded)
    assert list(zip(got["forgetting"], got["forgetting_events"], got["never_learned"], strict=True)) == reference.forgetting(history)


def test_a_row_shown_twice_in_an_epoch_counts_once() -> None:
    history = [[True, False, True], [False, False, True], [False, True, False]]
    assert follow(history, padded=True) == follow(history)


def test_rows_that_skip_epochs_are_compared_with_their_last_showing() -> None:
    state = SCORER.init(1, 3, CPU)
    row, label = torch.tensor([0]), torch.tensor([2])
    SCORER.update(state, row, logits_of(torch.tensor([True]), label), label, 1)
    SCORER.update(state, row, logits_of(torch.tensor([False]), label), label, 5)
    assert SCORER.finish(state)["forgetting"].tolist() == [1.0]


def test_the_state_is_tensors_alone_and_can_be_resumed() -> None:
    state = SCORER.init(2, 3, CPU)
    rows, labels = torch.tensor([0, 1]), torch.tensor([0, 1])
    SCORER.update(state, rows, logits_of(torch.tensor([True, False]), labels), labels, 1)
    saved = {name: tensor.clone() for name, tensor in state.items()}
    SCORER.update(saved, rows, logits_of(torch.tensor([False, False]), labels), labels, 2)
    assert SCORER.finish(saved)["forgetting"].tolist() == [1.0, 2.0]
    assert SCORER.finish(state)["forgetting"].tolist() == [0.0, 1.0]


def test_a_step_never_waits_for_the_device() -> None:
    """A meta tensor has no values: an operation that has to read one, and would make the host wait for a GPU, fails on it."""
    meta = torch.device("meta")
    state = SCORER.init(10, 3, meta)
    rows = torch.zeros(4, dtype=torch.int64, device=meta)
    SCORER.update(state, rows, torch.zeros(4, 3, device=meta), rows, 1)
    assert all(tensor.device == meta for tensor in state.values())

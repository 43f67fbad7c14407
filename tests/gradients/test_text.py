"""GraNd and the logit scores of a text model: exact with padding, and free of the rest of the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn

from hf_datadiet.gradients import GradientNorms
from hf_datadiet.scorers.el2n import SCORER as EL2N
from hf_datadiet.scorers.el2n import el2n
from hf_datadiet.scorers.grand import SCORER as GRAND
from hf_datadiet.tasks.text import TextTask
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.observe import observe
from tests.references import gradients as reference
from tests.training.toy import CPU, PLAN

WORDS = ["sea", "ship", "cat", "dog", "sleeps", "sails", "barks", "over", "under", "and", "the", "a"]
N, C = 24, 3
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32}


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    """Rows of 1 to 20 words in random order of length."""
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 21))) for _ in range(N)]
    task = TextTask(vocab_size=320, max_length=24)
    columns = {"text": "text", "label": "label"}
    tokens = task.prepare(Dataset.from_dict({"text": texts}), np.arange(N), columns, tmp_path_factory.mktemp("cache"), "key")
    labels = torch.from_numpy(rng.integers(0, C, N))
    fitted = task.fit(tokens, "transformers:bert")
    return Feed(task, tokens, fitted, np.arange(N, dtype=np.int64), labels, CPU, torch.from_numpy(task.lengths(tokens)))


@pytest.fixture(scope="module")
def model(feed: Feed) -> nn.Module:
    """After some steps: far enough from where it began that texts differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = feed.task.build_model("transformers:bert", SMALL, C, feed.prepared)
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
        for _ in range(30):
            optimizer.zero_grad()
            inputs: Any = feed.inputs(torch.arange(N))
            nn.functional.cross_entropy(net(**inputs).logits, feed.labels).backward()
            optimizer.step()
    return net.eval()


def one_by_one(model: nn.Module, feed: Feed) -> torch.Tensor:
    """Logits [N, C] of every text alone, without padding."""
    with torch.no_grad():
        inputs: list[Any] = [feed.inputs(torch.tensor([row])) for row in range(N)]
        return torch.cat([model(**each).logits for each in inputs])


def test_grand_equals_float64_autograd_with_padding(model: nn.Module, feed: Feed) -> None:
    inputs: Any = feed.inputs(torch.arange(N))
    assert (inputs["attention_mask"] == 0).sum() > N, "there is padding"
    found = GradientNorms(model)(inputs, feed.labels).norms
    expected = torch.tensor(reference.norms(model, inputs, feed.labels), dtype=torch.float64)
    assert expected.std() > 0.1 * expected.mean(), "the texts differ"
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    bare: list[Any] = [feed.inputs(torch.tensor([row])) for row in range(N)]
    alone = [reference.norms(model, bare[row], feed.labels[row : row + 1])[0] for row in range(N)]
    torch.testing.assert_close(expected, torch.tensor(alone, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1, 5, N])
def test_scores_depend_neither_on_the_batch_nor_on_padding(size: int, model: nn.Module, feed: Feed) -> None:
    seen = observe(model, feed, {"el2n": EL2N, "grand": GRAND}, 0, replace(PLAN, observe_batch_size=size), keep_logits=True)
    alone = one_by_one(model, feed)
    assert seen.logits is not None
    torch.testing.assert_close(seen.logits, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(seen.scores["el2n"]), el2n(alone, feed.labels), rtol=1e-5, atol=1e-6)
    bare: list[Any] = [feed.inputs(torch.tensor([row])) for row in range(N)]
    grand = [float(GradientNorms(model)(bare[row], feed.labels[row : row + 1]).norms) for row in range(N)]
    torch.testing.assert_close(torch.from_numpy(seen.scores["grand"]), torch.tensor(grand), rtol=1e-5, atol=1e-6)


def test_more_padding_changes_nothing(model: nn.Module, feed: Feed) -> None:
    inputs: Any = feed.inputs(torch.arange(N))
    filled = {name: nn.functional.pad(values, (0, 6)) for name, values in inputs.items()}
    with torch.no_grad():
        torch.testing.assert_close(model(**filled).logits, model(**inputs).logits, rtol=1e-5, atol=1e-6)

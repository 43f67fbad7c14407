"""Text classification with transformers models.

Texts are tokenised once, into flat arrays on disk (memory-mapped), and are padded batch by batch to the longest of the batch.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from datasets import Dataset, Features, Value
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from hf_datadiet.errors import RecipeError
from hf_datadiet.exported import REPO, Exported, Trained
from hf_datadiet.gradients.forward import logits_of
from hf_datadiet.gradients.rest import at_rest
from hf_datadiet.tasks._exporting import (
    exporting,
    filled,
    read_back,
    require_same,
    save_transformers,
    shown_name,
    start_of,
    without_places,
)
from hf_datadiet.tasks._tokens import (
    INPUTS,
    TRAIN,
    Texts,
    Tokens,
    as_json,
    fingerprint_of,
    kept_tokenizer,
    loaded_tokenizer,
    probe_of,
    save_tokenizer,
    tokenised,
    tokens_in_memory,
    trained_tokenizer,
)
from hf_datadiet.tasks._transformers import PRETRAINED, built, config_of, full_name, has_weights, is_a_type, reason_of
from hf_datadiet.tasks.base import check_alone, check_classes, label_column, the_column

PIPELINE = f"""from transformers import pipeline

classify = pipeline("text-classification", model="{REPO}")
print(classify(GIVEN, truncation=True))"""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TextTask:
    """The recipe keys of a text task.

    `tokenizer`: a folder, a name on the Hub, or `train`: a byte-level BPE tokenizer of at most `vocab_size` tokens, learned
    from the rows to be scored. `max_length`: tokens after which a text (or pair) is cut.
    """

    tokenizer: str = TRAIN
    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] = 8192
    max_length: Annotated[int, Field(ge=8, le=1_000_000)] = 128

    def find_columns(self, features: Features, named: Mapping[str, str]) -> dict[str, str]:
        """The `label` and `text` columns (the only column of strings, or the one called text or sentence); `text_pair` if named."""
        unknown = set(named) - {"text", "text_pair", "label"}
        if unknown:
            raise RecipeError(f"source.columns: a text task has no role {sorted(unknown)[0]!r}; its roles are text, text_pair and label")
        label = label_column(features, named.get("label"))
        taken = {label, named.get("text_pair")}
        texts = [name for name, kind in features.items() if isinstance(kind, Value) and "string" in kind.dtype and name not in taken]
        usual = [name for name in texts if name in ("text", "sentence")]
        found = {"text": the_column(features, "text", usual if len(usual) == 1 else texts, named.get("text")), "label": label}
        if "text_pair" in named:
            found["text_pair"] = the_column(features, "text_pair", [], named["text_pair"])
        return found

    def prepare(
        self, dataset: Dataset, ids: NDArray[np.int64], columns: Mapping[str, str], cache: Path, key: str, like: Tokens | None = None
    ) -> Tokens:
        """Token ids of the rows, memory-mapped from `cache`; with the tokenizer of `like` if it is given."""
        texts = Texts(dataset, ids, columns)
        if like is not None:
            tokenizer, fingerprint = like.tokenizer, like.fingerprint
        else:
            learned = cache / f"tokenizer-{key}-{self.vocab_size}"
            tokenizer = trained_tokenizer(texts, self.vocab_size, learned) if self.tokenizer == TRAIN else loaded_tokenizer(self.tokenizer)
            fingerprint = fingerprint_of(tokenizer)
        made = hashlib.sha256(f"{key} {fingerprint} {self.max_length}".encode()).hexdigest()[:16]
        return tokenised(texts, tokenizer, fingerprint, self.max_length, cache / f"tokens-{made}")

    def prepare_batch(self, values: Mapping[str, Sequence[Any]], rows: Sequence[int], fitted: Mapping[str, Any]) -> Tokens:
        """Tokens of B rows in memory, cut to `max_length`, with the tokenizer of `fitted`."""
        tokenizer = fitted["tokenizer"]
        if tokenizer is None or isinstance(tokenizer, str):
            tokenizer = kept_tokenizer(self.tokenizer, tokenizer, fitted["fingerprint"])
        return tokens_in_memory(values, rows, tokenizer, self.max_length)

    def for_model(self, model: str) -> TextTask:
        """The task for another model than the recipe's: one that has weights reads its own tokens, any other those of the recipe."""
        model = _named(model)
        return replace(self, tokenizer=model.partition(":")[2]) if has_weights(model, {}) else self

    def lengths(self, prepared: Tokens) -> NDArray[np.int64]:
        """Tokens of each row."""
        return prepared.offsets.diff().numpy()

    def fit(self, prepared: Tokens, model: str | nn.Module) -> dict[str, Any]:
        """What the run needs again for other rows: keywords of the model, the tokenizer, and how many rows were cut.

        {"inputs": keywords that both the tokenizer and the model know, "tokenizer": a learned one as JSON or null,
        "fingerprint": of the tokenizer, "n_truncated": rows that were longer than `max_length`, "lengths": tokens of each row}
        """
        if isinstance(model, str):
            config = config_of(_named(model), MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, "sequence classification", {})
            cls: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
        else:
            cls = type(model)
        return {
            "inputs": inputs_of(cls, prepared.tokenizer),
            "tokenizer": as_json(prepared.tokenizer) if self.tokenizer == TRAIN else None,
            "fingerprint": prepared.fingerprint,
            "n_truncated": prepared.n_truncated,
            "lengths": self.lengths(prepared).tolist(),
        }

    def build_model(
        self, model: str | nn.Module, model_args: Mapping[str, Any], n_classes: int, prepared: Tokens, *, empty: bool = False
    ) -> nn.Module:
        """A model for `n_classes`: random weights from a configuration, or pretrained ones under a new head."""
        net = model if isinstance(model, nn.Module) else self._named_model(model, model_args, n_classes, prepared.tokenizer, empty=empty)
        self._check(net, model if isinstance(model, str) else type(model).__name__, n_classes, prepared)
        return net.train()

    def _named_model(self, model: str, model_args: Mapping[str, Any], n_classes: int, tokenizer: Any, *, empty: bool = False) -> nn.Module:
        """`empty`: the same layers, but no weights are read: others will be put in their place."""
        model = _named(model)
        weights = has_weights(model, model_args)
        if weights and self.tokenizer == TRAIN:
            raise RecipeError(f"task.model {model} is pretrained on its own tokens; set task.tokenizer={model.partition(':')[2]}")
        arguments = {name: value for name, value in model_args.items() if name != PRETRAINED}
        arguments["pad_token_id"] = tokenizer.pad_token_id
        if is_a_type(model.partition(":")[2]) or self.tokenizer == TRAIN:
            arguments.setdefault("vocab_size", len(tokenizer))
        config = config_of(model, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, "sequence classification", arguments, n_classes)
        return built(AutoModelForSequenceClassification, model, config, weights=weights and not empty)

    def collate(
        self, prepared: Tokens, rows: torch.Tensor, fitted: Mapping[str, Any], device: torch.device, augment: torch.Generator | None
    ) -> dict[str, torch.Tensor]:
        """int64 [B, L] each, L the longest of the batch: input_ids, attention_mask, and token_type_ids where the model has them."""
        start, length = prepared.offsets[rows], prepared.offsets[rows + 1] - prepared.offsets[rows]
        position = torch.arange(int(length.max()))
        mask = position < length[:, None]
        at = torch.where(mask, start[:, None] + position, 0)
        inputs = {
            "input_ids": torch.where(mask, prepared.ids[at].long(), prepared.tokenizer.pad_token_id),
            "attention_mask": mask.long(),
            "token_type_ids": torch.where(mask, prepared.types[at].long(), 0),
        }
        return {name: inputs[name].to(device, non_blocking=True) for name in fitted["inputs"]}

    def metrics(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """Accuracy, as a fraction."""
        return {"accuracy": float((logits.argmax(1) == labels).double().mean())}

    def export(self, trained: Trained, target: Path) -> Exported:
        """The model with its tokenizer, as transformers saves them."""
        name, fitted = _named(trained.model), trained.fitted
        tokenizer = copy.deepcopy(kept_tokenizer(self.tokenizer, fitted["tokenizer"], fitted["fingerprint"]))
        net = self._named_model(name, trained.model_args, len(trained.classes), tokenizer, empty=True)
        pair = "text_pair" in trained.columns
        # What a pipeline gives the model, and where it cuts a text, is read from the tokenizer.
        tokenizer.model_input_names, tokenizer.model_max_length = list(fitted["inputs"]), self.max_length
        save_transformers(filled(net, trained.weights, name), name, trained.classes, target)
        with exporting(name):
            save_tokenizer(tokenizer, self.tokenizer, target)
        row = tokenizer(*[probe_of(tokenizer)] * (2 if pair else 1), return_tensors="pt", truncation=True)
        require_same(net, lambda: read_back(AutoModelForSequenceClassification, target), dict(row), name)
        without_places(target)
        start, base = start_of(name, has_weights(name, trained.model_args))
        return Exported(
            library="transformers",
            pipeline_tag="text-classification",
            model=shown_name(name, net),
            by_name=True,
            code=PIPELINE.replace("GIVEN", '{"text": "one text", "text_pair": "another"}' if pair else '"a text"'),
            start=start,
            base_model=base,
            inputs=f"{'pairs of texts' if pair else 'texts'}, cut to {self.max_length} tokens",
        )

    def _check(self, net: nn.Module, model: str, n_classes: int, prepared: Tokens) -> None:
        """Texts of `max_length` must fit the model, and padding must not change what it says. At rest: no generator moves."""
        longest = prepared.offsets.diff().argmax()[None]
        row = self.collate(prepared, longest, {"inputs": inputs_of(type(net), prepared.tokenizer)}, torch.device("cpu"), None)
        times = -(-self.max_length // row["input_ids"].shape[1])
        full = {name: values.repeat(1, times)[:, : self.max_length] for name, values in row.items()}
        half = {name: values[:, : self.max_length // 2] for name, values in full.items()}
        # The highest token of all rows needs a place among the embeddings.
        full["input_ids"][:, -1] = prepared.ids.max()
        missing = self.max_length - self.max_length // 2
        filling = {"input_ids": prepared.tokenizer.pad_token_id}
        padded = {name: nn.functional.pad(values, (0, missing), value=filling.get(name, 0)) for name, values in half.items()}
        try:
            with at_rest(net), torch.no_grad():
                alone = logits_of(net, half)
                beside = logits_of(net, {name: torch.cat([padded[name], full[name]]) for name in full})
        except (IndexError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = f"({reason_of(error)}); set a smaller task.max_length, or a larger vocabulary or more positions in task.model_args"
            raise RecipeError(f"task.model {model} cannot take texts of {self.max_length} of these tokens {reason}") from error
        check_classes(alone, n_classes, model)
        check_alone(alone, beside, f"task.model {model}")


TASK = TextTask


def inputs_of(cls: type, tokenizer: Any) -> list[str]:
    """The keywords of a batch that both the model's class and the tokenizer know."""
    takes = inspect.signature(getattr(cls, "forward")).parameters  # noqa: B009
    if "input_ids" not in takes:
        raise RecipeError(f"{cls.__name__} takes no input_ids, so a tokenizer cannot feed it; choose a model of texts")
    return [name for name in INPUTS if name in takes and name in tokenizer.model_input_names]


def fitted_to(model: nn.Module, tokenizer: Any) -> dict[str, Any]:
    """What `collate` needs for a trained model: {"inputs": its keywords, "tokenizer": a copy of the tokenizer}."""
    if getattr(tokenizer, "pad_token_id", None) is None:
        raise RecipeError("the tokenizer has no pad token; add one: tokenizer.pad_token = tokenizer.eos_token")
    return {"inputs": inputs_of(type(model), tokenizer), "tokenizer": copy.deepcopy(tokenizer)}


def _named(model: str) -> str:
    full = full_name(model)
    library, colon, name = full.partition(":")
    if not colon or library != "transformers" or not name:
        raise RecipeError(
            f"task.model {model!r} is not supported for text; write transformers:bert, transformers:org/name or transformers:./folder"
        )
    return full

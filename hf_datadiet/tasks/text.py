"""Text classification with transformers models.

Texts are tokenised once, into flat arrays on disk (memory-mapped), and are padded batch by batch to the longest of the batch.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from datasets import Dataset, Features, Value
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from hf_datadiet.errors import RecipeError
from hf_datadiet.gradients.forward import logits_of
from hf_datadiet.tasks._tokens import (
    CANNOT_LOAD,
    INPUTS,
    Texts,
    Tokens,
    fingerprint_of,
    loaded_tokenizer,
    place,
    reason_of,
    tokenised,
    trained_tokenizer,
)
from hf_datadiet.tasks.base import label_column, the_column

TRAIN = "train"
"""The name of a tokenizer that is learned on the spot."""


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
            learned = cache / f"tokenizer-{key}-{self.vocab_size}.json"
            tokenizer = trained_tokenizer(texts, self.vocab_size, learned) if self.tokenizer == TRAIN else loaded_tokenizer(self.tokenizer)
            fingerprint = fingerprint_of(tokenizer)
        made = hashlib.sha256(f"{key} {fingerprint} {self.max_length}".encode()).hexdigest()[:16]
        return tokenised(texts, tokenizer, fingerprint, self.max_length, cache / f"tokens-{made}")

    def prepare_batch(self, values: Mapping[str, Sequence[Any]], rows: Sequence[int], fitted: Mapping[str, Any]) -> Tokens:
        """Refused: a run does not keep its tokenizer where rows in memory could find it."""
        raise RecipeError("ExampleScorer takes images so far; score texts with score_dataset or hf-datadiet score")

    def lengths(self, prepared: Tokens) -> NDArray[np.int64]:
        """Tokens of each row."""
        return prepared.offsets.diff().numpy()

    def fit(self, prepared: Tokens, model: str) -> dict[str, list[str]]:
        """{"inputs": keywords that both the tokenizer and the model know}."""
        name = _transformers_name(model)
        try:
            config: Any = AutoConfig.from_pretrained(name, trust_remote_code=False) if _is_pretrained(name) else _config(name, {})
        except CANNOT_LOAD as error:
            raise RecipeError(f"task.model {model} cannot be loaded: {reason_of(error)}") from error
        if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise RecipeError(
                f"transformers has no sequence classification for {model}; for example transformers:bert, transformers:distilbert"
            )
        return {"inputs": _inputs_of(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)], prepared)}

    def build_model(self, model: str, model_args: Mapping[str, Any], n_classes: int, prepared: Tokens) -> nn.Module:
        """A model for `n_classes`: random weights from a configuration, or pretrained ones under a new head."""
        name = _transformers_name(model)
        common = {"num_labels": n_classes, "pad_token_id": prepared.tokenizer.pad_token_id}
        try:
            if _is_pretrained(name):
                if self.tokenizer == TRAIN:
                    raise RecipeError(f"task.model {model} is pretrained on its own tokens; set task.tokenizer={name}")
                loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                    name, **common, **model_args, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
                )
            else:
                config = _config(name, {"vocab_size": len(prepared.tokenizer), **model_args, **common})
                loaded = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, trust_remote_code=False)
        except CANNOT_LOAD as error:
            raise RecipeError(f"task.model {model} cannot be built: {reason_of(error)}") from error
        self._check(loaded, model, prepared)
        return loaded.train()

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

    def _check(self, net: nn.Module, model: str, prepared: Tokens) -> None:
        """Texts of `max_length` must fit the model, and padding must not change what it says. In eval mode: no generator moves."""
        longest = prepared.offsets.diff().argmax()[None]
        row = self.collate(prepared, longest, {"inputs": _inputs_of(type(net), prepared)}, torch.device("cpu"), None)
        times = -(-self.max_length // row["input_ids"].shape[1])
        full = {name: values.repeat(1, times)[:, : self.max_length] for name, values in row.items()}
        half = {name: values[:, : self.max_length // 2] for name, values in full.items()}
        missing = self.max_length - self.max_length // 2
        filling = {"input_ids": prepared.tokenizer.pad_token_id}
        padded = {name: nn.functional.pad(values, (0, missing), value=filling.get(name, 0)) for name, values in half.items()}
        net.eval()
        try:
            with torch.no_grad():
                alone = logits_of(net, half)
                beside = logits_of(net, {name: torch.cat([padded[name], full[name]]) for name in full})[:1]
        except (IndexError, RuntimeError, ValueError, TypeError) as error:
            reason = f"({reason_of(error)}); set a smaller task.max_length, or a larger vocabulary or more positions in task.model_args"
            raise RecipeError(f"task.model {model} cannot take texts of {self.max_length} of these tokens {reason}") from error
        if not torch.allclose(alone, beside, rtol=1e-3, atol=1e-4):
            raise RecipeError(f"task.model {model} says something else of a text that is padded, so its scores would depend on the batch")


TASK = TextTask


def _inputs_of(cls: Any, prepared: Tokens) -> list[str]:
    takes = inspect.signature(cls.forward).parameters
    return [name for name in INPUTS if name in takes and name in prepared.tokenizer.model_input_names]


def _transformers_name(model: str) -> str:
    library, colon, name = model.partition(":")
    if not colon or library != "transformers" or not name:
        raise RecipeError(
            f"task.model {model!r} is not supported for text; write transformers:bert, transformers:org/name or transformers:./folder"
        )
    return place(name, "task.model") if _is_pretrained(name) else name


def _is_pretrained(name: str) -> bool:
    return "/" in name


def _config(name: str, arguments: Mapping[str, Any]) -> Any:
    if name not in CONFIG_MAPPING:
        near = difflib.get_close_matches(name, list(CONFIG_MAPPING), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "pretrained ones are org/name, or ./folder"
        raise RecipeError(f"transformers has no model type {name!r}; {hint}")
    known = AutoConfig.for_model(name)
    # transformers would keep a key that it does not know, and ignore it.
    for key in arguments:
        if not hasattr(known, key):
            near = difflib.get_close_matches(key, list(known.to_dict()), n=1)
            raise RecipeError(f"task.model_args.{key}: {name} has no such key" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        return AutoConfig.for_model(name, **arguments)
    except Exception as error:  # configurations check their values, and say so by an error of no common kind
        raise RecipeError(f"task.model_args: {name} does not take these values ({error}); mend them") from error

"""Texts as token ids on disk: a tokenizer that is loaded or learned, and flat arrays that are memory-mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_datadiet.errors import BadRowsError, PublishError, RecipeError, SourceError
from hf_datadiet.sealed import cached
from hf_datadiet.tasks._transformers import loading, place

TRAIN = "train"
"""The name of a tokenizer that is learned on the spot."""

BATCH = 1000
"""Rows that are tokenised at a time."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}

PROBES = ("A text, and ANOTHER one.", "naïve Straße 東京 🙂", "  two  spaces\tand\nlines ")
"""Texts on which a tokenizer that was saved shows whether it is still the same."""


@dataclass(frozen=True)
class Tokens:
    """N tokenised rows. Row i has the tokens `ids[offsets[i]:offsets[i + 1]]`.

    `ids` int32 [T] and `types` uint8 [T] (0 first text, 1 second) are memory-mapped; `offsets` int64 [N + 1].
    `n_truncated`: rows that were longer than `max_length`. `fingerprint` is that of the tokenizer.
    """

    ids: torch.Tensor
    types: torch.Tensor
    offsets: torch.Tensor
    n_truncated: int
    tokenizer: Any = field(repr=False)
    fingerprint: str

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.ids.nbytes + self.types.nbytes + self.offsets.nbytes


@dataclass(frozen=True)
class Texts:
    """The texts of some rows, read batch by batch."""

    dataset: Dataset
    ids: NDArray[np.int64]
    columns: Mapping[str, str]

    def batches(self) -> Iterator[tuple[NDArray[np.int64], list[list[str]]]]:
        """(row ids, [texts] or [texts, second texts]); at the end a `BadRowsError` if there were nulls."""
        bad: dict[int, str] = {}
        names = [self.columns[role] for role in ("text", "text_pair") if role in self.columns]
        plain = self.dataset.select_columns(list(dict.fromkeys(names))).with_format(None)
        for start in range(0, len(self.ids), BATCH):
            rows = self.ids[start : start + BATCH]
            found = plain[rows.tolist()]
            for name in names:
                for row, value in zip(rows.tolist(), found[name], strict=True):
                    if value is None:
                        bad.setdefault(row, f"{name} is null")
                    elif not isinstance(value, str):
                        raise SourceError(f"column {name!r} holds {type(value).__name__} and no text; name another with source.columns")
            if not bad:
                yield rows, [found[name] for name in names]
        if bad:
            raise BadRowsError(bad)

    def each(self) -> Iterator[str]:
        """Every text."""
        for _, columns in self.batches():
            for texts in columns:
                yield from texts


def tokenised(texts: Texts, tokenizer: Any, fingerprint: str, max_length: int, folder: Path) -> Tokens:
    """The tokens of all rows, cut to `max_length`, memory-mapped from `folder`; made there if it does not exist or is damaged."""
    cached(folder, lambda made: _write(made, texts, tokenizer, max_length))
    # Copy on write: torch wants writable memory, and the files must not change.
    ids, types = (np.memmap(folder / name, dtype, "c") for name, dtype in (("ids.int32", np.int32), ("types.uint8", np.uint8)))
    return Tokens(
        ids=torch.from_numpy(ids),
        types=torch.from_numpy(types),
        offsets=torch.from_numpy(np.load(folder / "offsets.npy")),
        n_truncated=json.loads((folder / "about.json").read_text())["n_truncated"],
        tokenizer=tokenizer,
        fingerprint=fingerprint,
    )


def _write(folder: Path, texts: Texts, tokenizer: Any, max_length: int) -> None:
    """Tokenise into `folder`."""
    lengths, n_truncated = [np.zeros(1, np.int64)], 0
    with (folder / "ids.int32").open("wb") as ids, (folder / "types.uint8").open("wb") as types:
        for rows, columns in texts.batches():
            flat, kinds, length = _tokens_of(tokenizer, rows.tolist(), columns, max_length)
            flat.tofile(ids)
            kinds.tofile(types)
            lengths.append(length)
            n_truncated += _longer(tokenizer, columns, np.flatnonzero(length == max_length), max_length)
    np.save(folder / "offsets.npy", np.concatenate(lengths).cumsum())
    (folder / "about.json").write_text(json.dumps({"n_truncated": n_truncated}))


def _tokens_of(
    tokenizer: Any, rows: Sequence[int], columns: Sequence[Sequence[str]], max_length: int
) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]]:
    """Token ids and types of some rows one after the other, and the length of each."""
    made = tokenizer(*columns, truncation=True, max_length=max_length, return_token_type_ids=True, verbose=False)
    length = np.array([len(row) for row in made["input_ids"]], np.int64)
    if not length.all():
        raise SourceError(f"row {rows[int(length.argmin())]} has a text without any token; mend or drop the row")
    ids = np.concatenate([np.asarray(row, np.int32) for row in made["input_ids"]])
    return ids, np.concatenate([np.asarray(row, np.uint8) for row in made["token_type_ids"]]), length


def tokens_in_memory(values: Mapping[str, Sequence[Any]], rows: Sequence[int], tokenizer: Any, max_length: int) -> Tokens:
    """The tokens of B >= 1 rows: `values[role]` holds the texts, `rows` their numbers in messages."""
    columns = [list(values[role]) for role in ("text", "text_pair") if role in values]
    for column in columns:
        _check_texts(rows, column, "the batch")
    ids, types, length = _tokens_of(tokenizer, rows, columns, max_length)
    offsets = np.concatenate([np.zeros(1, np.int64), length.cumsum()])
    return Tokens(torch.from_numpy(ids), torch.from_numpy(types), torch.from_numpy(offsets), 0, tokenizer, "")


def _check_texts(rows: Sequence[int], texts: Sequence[Any], where: str) -> None:
    odd = [(row, value) for row, value in zip(rows, texts, strict=True) if not isinstance(value, str)]
    if odd:
        row, value = odd[0]
        what = "null" if value is None else type(value).__name__
        raise SourceError(f"row {row} has no text in {where} (it is {what}); mend or drop the row ({len(odd)} like it)")


def _longer(tokenizer: Any, columns: list[list[str]], full: NDArray[np.int64], max_length: int) -> int:
    """How many of the rows `full`, which have max_length tokens, would have more."""
    if full.size == 0:
        return 0
    whole = tokenizer(*[[texts[position] for position in full] for texts in columns], truncation=False, verbose=False)
    return sum(len(row) > max_length for row in whole["input_ids"])


def trained_tokenizer(texts: Texts, vocab_size: int, folder: Path) -> Any:
    """A tokenizer learned from the texts, kept in `folder`; the one that lies there, if there is one and it is whole."""
    cached(folder, lambda made: learn(texts.each(), vocab_size).save(str(made / "tokenizer.json")))
    return _from_json((folder / "tokenizer.json").read_text(encoding="utf-8"))


def _from_json(text: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), model_input_names=list(INPUTS), **SPECIAL)


def as_json(learned: Any) -> str:
    """A learned tokenizer as JSON, without the truncation that its last use left behind."""
    backend = Tokenizer.from_str(learned.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str()


@lru_cache(maxsize=4)
def kept_tokenizer(name: str, learned: str | None, fingerprint: str) -> Any:
    """The tokenizer of a run: from the JSON that it kept, or by name; `RecipeError` if that is another one now, or not there."""
    if learned is None and name == TRAIN:
        raise RecipeError("these scores were published without the tokenizer that was learned (ids only); score without --from-hub")
    tokenizer = _from_json(learned) if learned is not None else loaded_tokenizer(name)
    if fingerprint_of(tokenizer) != fingerprint:
        raise RecipeError(f"task.tokenizer {name} is not the one that the run used; give that one back its place")
    return tokenizer


def learn(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A lower-case byte-level BPE tokenizer with BERT's special tokens; the same texts give the same tokenizer.

    WordPiece would not: its trainer numbers the tokens inside words in the order of a hash table, which differs from run to run.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    first, second = ((SPECIAL[name], tokenizer.token_to_id(SPECIAL[name])) for name in ("cls_token", "sep_token"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[first, second]
    )
    return tokenizer


def loaded_tokenizer(name: str) -> Any:
    """The tokenizer of a folder or of a name on the Hub."""
    where = place(name, "task.tokenizer")
    with loading(f"task.tokenizer {name}"):
        tokenizer: Any = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        raise RecipeError(
            f"task.tokenizer {name} has no pad token; add one (tokenizer.pad_token = tokenizer.eos_token) and save it to a folder"
        )
    return tokenizer


def save_tokenizer(tokenizer: Any, name: str, target: Path) -> None:
    """Save a tokenizer as transformers does; `PublishError` if what is then read there makes other tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Its last use is no part of it.
        backend.no_truncation()
        backend.no_padding()
    tokenizer.save_pretrained(target)
    again: Any = AutoTokenizer.from_pretrained(target, trust_remote_code=False)
    texts = [probe_of(tokenizer), *PROBES]
    if dict(again(texts, truncation=True, verbose=False)) != dict(tokenizer(texts, truncation=True, verbose=False)):
        raise PublishError(f"task.tokenizer {name} makes other tokens once it was saved and read again; publish without --push-models")


def probe_of(tokenizer: Any) -> str:
    """A text of some hundred of the tokenizer's own words."""
    words = sorted(tokenizer.get_vocab())
    return " ".join(words[:: 1 + len(words) // 256])


def fingerprint_of(tokenizer: Any) -> str:
    """Of what decides the tokens. Taken before the first use: truncation becomes part of a tokenizer's state."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    about = (type(tokenizer).__name__, tokenizer.truncation_side, *tokenizer.model_input_names)
    return hashlib.sha256(f"{' '.join(about)} {text}".encode()).hexdigest()

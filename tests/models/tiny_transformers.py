"""Small models of every architecture of transformers that classifies texts, images or sounds, and inputs for them.

The architectures come from the library's own registries, and each is shrunk by the names in its configuration.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

B, LABELS, TOKENS, PIXELS, SAMPLES = 3, 3, 16, 64, 4000

REGISTRIES = {
    "text": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "vision": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "audio": modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
}

SIZES = [
    (r"num_labels", LABELS),
    (r"pad_token_id", 0),
    (r"(bos|cls|decoder_start)_token_id", 1),
    (r"(eos|sep)_token_id", 2),
    (r"\w+_token_(id|index)", 3),
    (r"\w*vocab_size", 99),
    (r"num_feat_extract_layers|hidden_dim", None),
    (r"num_hidden_layers", 4),
    (r"depth", 3),
    (r"attention_window", 8),
    (r"num_latents", 8),
    (r"num_groups", 4),
    (r"depth_coefficient", 1.0),
    (r"axial_pos_embds_dim", 16),
    (r"n_positions|(max|num)_(position|seq|source|target)\w*", 64),
    (r"image_size|input_size", PIXELS),
    (r"\w*(n_head|heads)", 4),
    (r"qk_head_dim|index_head_dim", 16),
    (r"coordinate_size", 4),
    (r"shape_size", 8),
    (r"window_size|attn_layer_period|full_attention_interval", 2),
    (r"attn_layer_offset", 1),
    (r"\w*(head_dim|head_size|rotary_dim|d_kv|d_head|kv_channels|headdim)", 8),
    (r"\w*experts_per_tok|moe_topk", 2),
    (r"n_group|topk_group", 2),
    (r"\w*experts", 4),
    (
        r"depths?|\w*n_layers?|num_\w*layers|(en|de)coder_layers|num_blocks|(stage_num|block)_\w*(blocks|sizes|layers)|num_self_attends_per_block",
        2,
    ),
    (r"d_ff|dff|d_inner|\w*(intermediate|feed_forward|ffn_hidden)_size|\w*ffn_dim", 48),
    (
        r"\w*(hidden|embedding|embed|proj|latents|lora|bottleneck|hash)\w*_(size|dim|rank)|d_(model|latents)|n_embd|(emb_|embed_)?dim|stem_out_channels|hidden_sizes?|conv_dim|tdnn_dim",
        32,
    ),
]
"""(name of a configuration's number, what it becomes); the first that fits, and of a list every member."""

UNSAID = {"head_dim", "num_experts_per_tok", "num_key_value_heads", "vocab_size"}
"""Numbers that are needed although a configuration may say None."""


def architectures() -> Iterator[tuple[str, str, str]]:
    """(registry, type, class), each class once."""
    seen = set()
    for registry, mapping in REGISTRIES.items():
        for kind, names in mapping.items():
            name = names if isinstance(names, str) else names[0]
            if name not in seen:
                seen.add(name)
                yield registry, kind, name


def shrunk(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What to build a configuration with instead of its own numbers."""
    found: dict[str, Any] = {}
    for name, value in sizes.items():
        size = next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), None)
        if isinstance(value, dict) and "model_type" in value:
            found[name] = shrunk(value)
        elif size is not None and isinstance(value, list | tuple) and all(type(member) is int for member in value):
            found[name] = [size for _ in value]
        elif size is not None and (type(value) in (int, float) or name in UNSAID):
            found[name] = size
    shared = {"num_key_value_heads", "num_kv_heads"} & set(found)
    return found | {name: found[name] // 2 for name in shared if sizes[name] not in (None, sizes.get("num_attention_heads", sizes[name]))}


def built(kind: str, name: str) -> Any:
    """A small one with random weights, none of them zero or one, at rest."""
    config = CONFIG_MAPPING[kind]
    own = config().to_dict()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        own |= {"num_labels": LABELS, "pad_token_id": 0} | ({"decoder_start_token_id": 1} if own.get("is_encoder_decoder") else {})
        model = getattr(transformers, name)(config(**shrunk(own)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    return model.float().eval()


def texts() -> dict[str, torch.Tensor]:
    """Three texts of different lengths that end in the token 2, padded with 0."""
    tokens, mask = torch.randint(5, 99, (B, TOKENS)), torch.ones(B, TOKENS, dtype=torch.long)
    for row, length in enumerate((TOKENS, 11, 6)):
        tokens[row, length - 1], tokens[row, length:], mask[row, length:] = 2, 0, 0
    return {"input_ids": tokens, "attention_mask": mask}


def inputs_of(model: Any, registry: str) -> dict[str, torch.Tensor]:
    """What the model takes for three examples."""
    config, main = model.config, model.main_input_name
    with torch.random.fork_rng():
        torch.manual_seed(2)
        if main == "pixel_values" or (registry, main) == ("vision", "inputs"):
            found = {main: torch.randn(B, 3, PIXELS, PIXELS)}
        elif main == "input_ids" or registry == "text":
            found = texts()
            found[main] = found.pop("input_ids")
        elif hasattr(config, "num_mel_bins"):
            time_first = hasattr(config, "max_length")
            shape = (config.max_length, config.num_mel_bins) if time_first else (config.num_mel_bins, 2 * config.max_source_positions)
            found = {main: torch.randn(B, *shape)}
        elif main == "input_features":
            found = {main: torch.randn(B, TOKENS, config.feature_projection_input_dim)}
        else:
            found = {main: torch.randn(B, SAMPLES)}
    taken = inspect.signature(model.forward).parameters
    return {name: values for name, values in found.items() if name in taken}

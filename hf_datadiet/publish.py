"""PUBLISH: score columns, pruned configurations and the evidence for them as one dataset repository; in a folder unless it is pushed.

README.md                 the card
scores/                   config `scores`: every number of every example
NAME/                     one config for each selection, the kept rows and the other splits of the source
evidence/                 what proves the card (`evidence`); publication.json, and manifest.json with the digest of every file
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hf_datadiet.card import Publication, to_card
from hf_datadiet.durable import file_digest, json_text, notice, temporary_beside, write_json, write_text
from hf_datadiet.errors import PublishError, RecipeError
from hf_datadiet.evidence import EVIDENCE, SCORES, write_evidence
from hf_datadiet.examples import ends
from hf_datadiet.hub.card import merged, metadata
from hf_datadiet.hub.files import write_parquet_splits
from hf_datadiet.hub.licence import may_publish
from hf_datadiet.hub.origin import Origin, origin_of
from hf_datadiet.hub.published import scores_dataset, variant_splits
from hf_datadiet.hub.push import Change, Pushed, Remote, Target, planned, push
from hf_datadiet.recipe import Recipe
from hf_datadiet.records import Report, ScoreTable, Selection
from hf_datadiet.store import RunFolder

CARD, PUBLICATION, MANIFEST = "README.md", f"{EVIDENCE}/publication.json", f"{EVIDENCE}/manifest.json"

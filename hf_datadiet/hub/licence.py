"""Which licences let rows be published again, and what may be published where. Facts of the Hub's list; no advice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from hf_datadiet.errors import PublishError

Terms = Literal["shareable", "no derivatives", "unknown"]

_SHAREABLE = """
apache-2.0 mit afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl
gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openmdw-1.0 openmdw-1.1 osl-3.0 postgresql ofl-1.1 ncsa
unlicense zlib pddl lgpl-lr
"""

_UNDECIDED = """
cc openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m openrail++ deepfloyd-if-license
llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma apple-ascl apple-amlr h-research intel-research
fair-noncommercial-research-license unknown other
"""

SHAREABLE = frozenset(_SHAREABLE.split())
"""Licences for changed copies that anybody may pass on, under conditions (credit, the same licence, no commerce) that the copy keeps."""

NO_DERIVATIVES = frozenset({"cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"})

UNDECIDED = frozenset(_UNDECIDED.split())
"""What the Hub lists and this file does not judge: a family with and without derivatives, terms of models, and no terms at all."""

LISTED = SHAREABLE | NO_DERIVATIVES | UNDECIDED
"""What the Hub takes as `license` in a card; anything else is `other` with a name."""


def terms(licences: str | Iterable[str] | None) -> Terms:
    """What the strictest of these licences says of a part of a dataset; no licence, and one that is not known, are "unknown"."""
    names = [licences] if isinstance(licences, str) else list(licences or ())
    spelled = [name.strip().lower() for name in names]
    if any(name in NO_DERIVATIVES or (name.startswith("cc-") and "nd" in name.split("-")) for name in spelled):
        return "no derivatives"
    return "shareable" if spelled and all(name in SHAREABLE for name in spelled) else "unknown"


def may_publish(
    licences: str | Sequence[str] | None,
    *,
    public: bool,
    ids_only: bool,
    models: bool,
    asserted: str | None,
    source_private: bool,
) -> None:
    """Nothing where this may be published; else `PublishError`, one line with what may.

    `licences`: of the source, as its card names them; `asserted`: what the user vouches for with --i-may-share. In private everything may;
    in public rows need a licence that lets them be passed on, and a private source somebody who vouches for it. Part of a dataset is a
    derivative of it, its row numbers are not; whether a model is that was trained on it (`models`) nobody has settled, so it counts as one.
    A gate of the source is no matter here: it goes along (`hub.access`).
    """
    if asserted is not None and (not asserted.strip() or asserted.strip().lower() == "unknown"):
        raise PublishError("--i-may-share names no licence; name the one under which you may share the source, such as cc-by-4.0")
    if not public:
        return
    if source_private and asserted is None:
        raise PublishError(
            "the source is private; leave --public out, or name the licence under which you may share it: --i-may-share LICENSE"
        )
    if ids_only and not models:
        return
    instead = "leave --push-models out" if ids_only else "use --ids-only"
    what = "a model trained on it may be one" if ids_only else "a part of a dataset is one"
    given = asserted if asserted is not None else licences
    found = terms(given)
    if found == "no derivatives":
        named = given if isinstance(given, str) else ", ".join(given or ())
        raise PublishError(f"the licence {named} allows no derivatives, and {what}; {instead}, or leave --public out")
    if found == "unknown" and asserted is None:
        named = licences if isinstance(licences, str) else ", ".join(licences or ())
        said = f"of the licence {named} it is not known whether it" if named else "the source names no licence that"
        raise PublishError(
            f"{said} lets its rows be shared; {instead}, leave --public out, or name the one you share under: --i-may-share LICENSE"
        )

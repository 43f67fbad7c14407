from __future__ import annotations

import itertools
from typing import Any

import pytest

from hf_datadiet.errors import PublishError
from hf_datadiet.hub.licence import LISTED, NO_DERIVATIVES, SHAREABLE, UNDECIDED, may_publish, terms

ASKED: dict[str, Any] = {
    "licences": "cc-by-4.0",
    "public": True,
    "ids_only": False,
    "models": False,
    "asserted": None,
    "source_private": False,
}


def refused(**more: Any) -> str:
    """What is said against it; "" where it may be published."""
    asked = {**ASKED, **more}
    try:
        may_publish(asked.pop("licences"), **asked)
    except PublishError as fault:
        return str(fault)
    return ""


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        ("mit", "shareable"),
        ("CC-BY-SA-4.0 ", "shareable"),
        (["mit", "odc-by"], "shareable"),
        ("cc-by-nd-4.0", "no derivatives"),
        ("cc-by-nc-nd-2.5", "no derivatives"),
        (["mit", "cc-by-nd-4.0"], "no derivatives"),
        (["my-terms", "cc-by-nc-nd-4.0"], "no derivatives"),
        (None, "unknown"),
        ([], "unknown"),
        ("", "unknown"),
        ("unknown", "unknown"),
        ("other", "unknown"),
        ("cc", "unknown"),
        ("llama3.1", "unknown"),
        ("some-nd-thing", "unknown"),
        (["mit", "my-terms"], "unknown"),
    ],
)
def test_the_strictest_of_the_licences_counts(licences: Any, expected: str) -> None:
    assert terms(licences) == expected


def test_the_list_has_each_licence_once() -> None:
    for a, b in itertools.combinations((SHAREABLE, NO_DERIVATIVES, UNDECIDED), 2):
        assert not a & b
    assert len(LISTED) == len(SHAREABLE) + len(NO_DERIVATIVES) + len(UNDECIDED) > 80
    assert all(name == name.lower().strip() for name in LISTED)
    assert not any("nd" in name.split("-") for name in SHAREABLE)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, ""),
        ({"licences": "cc-by-nd-4.0"}, "no derivatives"),
        ({"licences": "cc-by-nd-4.0", "ids_only": True}, ""),
        ({"licences": "cc-by-nd-4.0", "public": False}, ""),
        ({"licences": "cc-by-nd-4.0", "ids_only": True, "models": True}, "a model trained on it may be one; leave --push-models out"),
        ({"licences": None, "ids_only": True, "models": True}, "leave --push-models out"),
        ({"ids_only": True, "models": True}, ""),
        ({"licences": None}, "names no licence"),
        ({"licences": "my-terms"}, "of the licence my-terms it is not known"),
        ({"licences": None, "ids_only": True}, ""),
        ({"licences": None, "public": False}, ""),
        ({"licences": None, "asserted": "cc0-1.0"}, ""),
        ({"licences": None, "asserted": "a-contract-of-ours"}, ""),
        ({"licences": None, "asserted": "cc-by-nc-nd-4.0"}, "no derivatives"),
        ({"asserted": "unknown"}, "names no licence"),
        ({"asserted": " ", "public": False}, "names no licence"),
        ({"source_private": True}, "the source is private"),
        ({"source_private": True, "ids_only": True}, "the source is private"),
        ({"source_private": True, "public": False}, ""),
        ({"source_private": True, "asserted": "mit"}, ""),
    ],
)
def test_what_may_be_published_where(more: dict[str, Any], said: str) -> None:
    found = refused(**more)
    assert found.startswith(said) or said in found
    assert bool(found) == bool(said) and "\n" not in found


def test_every_refusal_names_a_way_that_is_open() -> None:
    """Over all combinations: private is never refused, and going by a refusal's own words ends in a publication."""
    flags = ("public", "ids_only", "models", "source_private")
    for values in itertools.product([False, True], repeat=len(flags)):
        for licences, asserted in itertools.product(["mit", "cc-by-nd-4.0", None], [None, "mit"]):
            asked = {**dict(zip(flags, values, strict=True)), "licences": licences, "asserted": asserted}
            for _ in range(4):
                found = refused(**asked)
                if not found:
                    break
                if "--i-may-share" in found:
                    asked["asserted"] = "mit"
                elif "--push-models" in found:
                    asked["models"] = False
                else:
                    assert "--ids-only" in found
                    asked["ids_only"] = True
            assert not refused(**asked)
            assert asked["public"] or not refused(**{**asked, "public": False})

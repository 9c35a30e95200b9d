"""Facts of a class stand in its card: the list of traits is closed, and no code asks for a model type by name."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import memcalc
from memcalc import presets
from memcalc.architectures import dimensions
from memcalc.models import load_model
from memcalc.traits import KNOWN, NONE, Traits

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(memcalc.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "configs" not in path.parts)  # readers write a model_type
TYPES = frozenset(presets.names("architectures"))
CARDS = {name: presets.find("architectures", name) for name in sorted(TYPES)}
WITH_TRAITS = {name: card["traits"] for name, card in CARDS.items() if "traits" in card}

# Words that happen to be a model type where they stand.
#
# A block's `formula` names whose code computes it, whatever model it is in: a rule is registered for it by
# @rule(Attention, "gptj"). Tables of formulas are in these files only.
FORMULAS = frozenset({
    "tape/hf/__init__.py", "tape/hf/alibi.py", "tape/hf/attention.py", "tape/hf/stacked_experts.py", "tape/hf/surroundings.py",
})  # fmt: skip
EXCEPTIONS = {
    ("architectures/experts.py", "mamba"): "a kind of layer in layer_types, as configs write it",
    ("architectures/unet.py", "resnet"): "a value of the config's resnet_time_scale_shift and its kin",
    ("architectures/detr.py", "resnet"): "the config's word for where its backbone comes from",
    ("architectures/pyramid.py", "resnet"): "the type that the config names for its backbone",
    ("architectures/pyramid.py", "swin"): "the type that the config names for its backbone",
    ("architectures/maskformer.py", "detr"): "the type that the config names for its decoder",
}


def names_in(node: ast.AST) -> Iterator[str]:
    """The words that a comparison, a set, a dictionary's keys or a case asks for."""
    match node:
        case ast.Compare():
            parts = [node.left, *node.comparators]
        case ast.Set():
            parts = node.elts
        case ast.Dict():
            parts = [key for key in node.keys if key is not None]
        case ast.MatchValue():
            parts = [node.value]
        case _:
            return
    for part in parts:
        yield from (x.value for x in ast.walk(part) if isinstance(x, ast.Constant) and isinstance(x.value, str))


def of_a_formula(node: ast.AST) -> bool:
    """Whether a comparison is of a block's formula."""
    return isinstance(node, ast.Compare) and ast.unparse(node.left).endswith("formula")


def asked(path: Path) -> set[tuple[str, str]]:
    """(file, model type) of what a file asks for by name, formulas apart."""
    name, tree = path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text("utf-8"))
    meant = TYPES - registered() if name in FORMULAS else TYPES
    return {
        (name, word) for node in ast.walk(tree) if not of_a_formula(node) for word in names_in(node) if word in meant
    }


@cache
def registered() -> frozenset[str]:
    """The formulas that a rule is registered for, or a table that says so (`{"relative": ("xlnet", …)}`)."""
    trees = [ast.parse(path.read_text("utf-8")) for path in FILES]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    rules = [x for call in calls if ast.unparse(call.func) == "rule" for x in call.args]
    given = [k.value for call in calls for k in call.keywords if k.arg == "formula"]
    return frozenset(str(x.value) for part in (*rules, *given) for x in ast.walk(part) if isinstance(x, ast.Constant))


def test_no_code_asks_for_a_model_type_by_name() -> None:
    found = set().union(*map(asked, FILES))
    assert found == set(EXCEPTIONS), "say it as a trait in the type's card (memcalc/traits.py), or give it a builder"


def test_no_code_compares_model_type_but_to_refuse_one() -> None:
    for path in FILES:
        if "adapters" in path.parts:  # peft's tables, which are presets
            continue
        tree = ast.parse(path.read_text("utf-8"))
        refusals = {
            node.test for node in ast.walk(tree) if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare | ast.Match) and node not in refusals:
                what = ast.unparse(node.left if isinstance(node, ast.Compare) else node.subject)
                assert not what.endswith("model_type"), f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("text", [
    "c.model_type == 'llama'", "x = {'t5', 'y'}", "x = {'gpt2': 1}", "kind in ('bart', 'mbart')",
    "match k:\n    case 'vit':\n        pass",
])  # fmt: skip
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert any(word in TYPES for node in ast.walk(ast.parse(text)) for word in names_in(node))


@pytest.mark.parametrize("name", WITH_TRAITS)
def test_a_card_has_known_traits_other_than_the_default_each_with_its_place(name: str) -> None:
    own, text = (
        WITH_TRAITS[name],
        (presets.folder() / presets.index()["architectures"][name.lower()]).read_text("utf-8"),
    )
    assert own.keys() <= KNOWN
    for trait, value in own.items():
        assert type(value).__name__ in str(Traits.__annotations__[trait]), trait
        assert value != getattr(NONE, trait), trait
        assert re.search(rf"^  {trait}: \S+  # \S", text, re.MULTILINE), f"{trait}: say where it stands in the library"


def test_every_trait_is_explained_asked_for_and_had_by_a_type() -> None:
    lines = (PACKAGE / "traits.py").read_text("utf-8")
    code = "".join(path.read_text("utf-8") for path in FILES)
    for trait in KNOWN:
        assert re.search(rf"^    {trait}: .*  # \S", lines, re.MULTILINE), trait
        assert f".traits.{trait}" in code, trait
        assert any(trait in own for own in WITH_TRAITS.values()), trait


def test_an_unknown_trait_is_refused() -> None:
    with pytest.raises(ValueError, match="no trait is called eager_onyl"):
        Traits(eager_onyl=True)


def test_a_config_can_not_set_a_trait() -> None:
    given: dict[str, Any] = {"eager_only": True, "traits": {"eager_only": True}}
    assert not dimensions("bert", given).traits.eager_only
    assert dimensions("rembert", {"eager_only": False}).traits.eager_only


def test_traits_stay_where_keys_change_and_are_of_a_nested_type() -> None:
    assert dimensions("rembert", {}).but(hidden_size=8).traits.eager_only
    assert dimensions("llava", {"vision_config": {"model_type": "pixtral"}}).vision_config.traits.whole_images
    assert not dimensions("llava", {}).vision_config.traits.whole_images


def test_blip_2_reads_with_the_class_that_the_library_would_take() -> None:
    """use_decoder_only_language_model: text types in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, as BART's is (Blip2Config)."""
    config = {"model_type": "blip-2", "architectures": ["Blip2ForConditionalGeneration"]}
    kinds = {kind: load_model({**config, "text_config": {"model_type": kind}}).kind for kind in ("opt", "t5", "bart")}
    assert kinds == {"opt": "causal-lm", "t5": "seq2seq", "bart": "causal-lm"}

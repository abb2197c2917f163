"""Options: what is documented is what is checked, and a mistake is named before any compile."""

import dataclasses
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domino_compile.errors import OptionError
from domino_compile.options import ENVIRONMENT, PASS_NAMES, Options, markdown
from domino_compile.options.checks import OWNED_INDUCTOR_OPTIONS, canonical
from tests.paths import ROOT

FIELDS = dataclasses.fields(Options)
NAMES = [field.name for field in FIELDS]

# For each option: values that are not the default, as a user may spell them, and as stored.
GOOD: dict[str, list[tuple[Any, Any]]] = {
    "slices": [(1, 1), (4, 4)],
    "columns": [(2, 2), (3, 3)],
    "margin": [(0, 0.0), (0.1, 0.1)],
    "guard": [("measure", "measure"), ("off", "off")],
    "lowering": [("eager", "eager")],
    "mode": [
        (mode, mode) for mode in ("reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
    ],
    "batch": [({"tokens": 0, "mask": 1}, {"tokens": 0, "mask": 1})],
    "link": [("h200-nvlink-8", "h200-nvlink-8")],
    "device": [("H200", "H200"), ("cpu", "cpu")],
    "watch": [(1, 1), (100, 100)],
    "transport": [("auto", "auto"), ("symmetric", "symmetric")],
    "require": [("overlap", "overlap")],
    "memory_cap": [(0, 0.0), (0.5, 0.5), (2, 2.0)],
    "disable_passes": [
        (["pin", "slice", "pin"], ("slice", "pin")),
        (("pin",), ("pin",)),
        ({"normalise"}, ("normalise",)),
    ],
    "inductor": [({"max_autotune": True}, {"max_autotune": True}), ({"max-autotune": True},) * 2],
    "dump_dir": [("out", "out"), (Path("out") / "a", os.path.join("out", "a"))],
    "check_ranks": [(False, False)],
    "check_timeout_s": [(5, 5.0), (0.5, 0.5)],
    "verify": [("off", "off"), ("strict", "strict")],
    "disable": [(True, True)],
}
GOOD["inductor"][1] = ({"max-autotune": True}, {"max_autotune": True})

BAD: dict[str, list[Any]] = {
    "slices": [0, -1, True, 2.0, "2", None],
    "columns": [0, -1, True, 2.0, "2", None],
    "margin": [-0.1, 10**400, 1, 1.5, math.nan, True, "0.1", None],
    "guard": ["on", "", None, True],
    "lowering": ["Inductor", "aot_eager", None, 1, ["eager"]],
    "mode": ["lite", "fast", "", None, 1],
    "batch": [{}, {"x": -1}, {"x": True}, {"x": "0"}, {0: 0}, {"": 0}, "tokens", ["tokens"], 0],
    "link": ["", "  ", 3, "h200", Path("missing.json")],
    "device": ["cuda", "h200", "", 0],
    "watch": [-1, 1.5, True, None],
    "transport": ["gloo", True, None, ""],
    "require": ["hidden", True, ""],
    "memory_cap": [-0.1, 10**400, -(10**400), math.nan, math.inf, True, "0.1", None],
    "disable_passes": ["pin", ["pinn"], [3], None, 3, {"pin": 1}, [["pin"]]],
    "inductor": [
        None,
        ["max_autotune"],
        {3: 1},
        {"max_autotun": True},
        {"max_autotune": 3},
        {"post_grad_custom_pre_pass": print},
        *({name: True} for name in OWNED_INDUCTOR_OPTIONS),
    ],
    "dump_dir": ["", " ", 3, b"out"],
    "check_ranks": [1, 0, "yes", None],
    "check_timeout_s": [0, -1, math.nan, math.inf, True, "1", None],
    "verify": ["ON", "", None, True],
    "disable": [1, "1", None],
}

good = st.fixed_dictionaries(
    {},
    optional={name: st.sampled_from(values) for name, values in GOOD.items()},
)
bad_pairs = [(name, value) for name, values in BAD.items() for value in values]


def refused(make: Callable[[], object]) -> str:
    with pytest.raises(OptionError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_tables_of_this_test_are_complete() -> None:
    assert list(GOOD) == list(BAD) == NAMES


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_option_is_documented(field: dataclasses.Field[Any]) -> None:
    doc, allowed = field.metadata["doc"], field.metadata["check"].allowed
    assert doc.endswith(".")
    assert "\n" not in doc + allowed
    assert "|" not in doc + allowed  # it would break the Markdown table
    for rendered in (markdown(), Options.__doc__ or ""):
        assert field.name in rendered
        assert doc in rendered
        assert allowed in rendered


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_every_override_is_documented(name: str) -> None:
    assert name in markdown()
    assert name in (Options.__doc__ or "")


def test_markdown_is_a_table() -> None:
    rows = [line for line in markdown().splitlines() if line.startswith("| `")]
    assert len(rows) == len(FIELDS) + len(ENVIRONMENT)
    assert all(row.count("|") in (3, 5) for row in rows)


def test_defaults() -> None:
    assert Options.parse() == Options.parse(None, None) == Options.parse({}) == Options()
    assert Options().slices == Options().columns == "auto"
    assert Options().describe() == "defaults"


@given(good)
def test_good_values_are_stored_in_one_spelling(given_values: dict[str, tuple[Any, Any]]) -> None:
    spelled = {name: pair[0] for name, pair in given_values.items()}
    options = Options.parse(spelled)
    for name, (_, stored) in given_values.items():
        assert getattr(options, name) == stored
        assert name in options.describe()
    assert "\n" not in options.describe()
    assert Options.parse(options.as_dict()) == options
    for again in (pickle.loads(pickle.dumps(options)), dataclasses.replace(options)):
        assert again == options
        assert hash(again) == hash(options)
        assert again.digest() == options.digest()


@pytest.mark.parametrize(("name", "value"), bad_pairs, ids=repr)
def test_bad_values_are_refused(name: str, value: object) -> None:
    message = refused(lambda: Options.parse({name: value}))
    assert message.startswith(f"{name}: got ")
    field = next(field for field in FIELDS if field.name == name)
    assert field.metadata["check"].allowed in message
    refused(lambda: Options(**{name: value}))


@given(good, st.sampled_from(bad_pairs))
def test_one_bad_value_is_enough(
    given_values: dict[str, tuple[Any, Any]], bad: tuple[str, Any]
) -> None:
    values = {name: pair[0] for name, pair in given_values.items()} | {bad[0]: bad[1]}
    assert refused(lambda: Options.parse(values)).startswith(f"{bad[0]}: got ")


@given(st.sampled_from(NAMES), st.data())
def test_a_typo_is_answered_with_the_nearest_name(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(name) - 1))
    kind = data.draw(st.sampled_from(["drop", "double", "upper"]))
    middle = {"drop": "", "double": name[place] * 2, "upper": name[place].upper()}[kind]
    typo = name[:place] + middle + name[place + 1 :]
    shortened = [
        other for other in NAMES for n in range(len(other)) if other[:n] + other[n + 1 :] == typo
    ]
    if typo in NAMES or len(set(shortened)) > 1:  # capital "_" is "_"; "atch" is batch or watch
        return
    message = refused(lambda: Options.parse({typo: 1}))
    assert f"unknown option {typo!r}; did you mean {name!r}?" in message
    assert all(option in message for option in NAMES)


def test_unknown_names_and_shapes() -> None:
    assert "allowed: slices," in refused(lambda: Options.parse({"zzzz": 1}))
    assert "unknown option 3" in refused(lambda: Options.parse({3: 1}))  # type: ignore[dict-item]
    assert "mapping" in refused(lambda: Options.parse([("slices", 2)]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lowering": "Eager"}, "did you mean 'eager'?"),
        ({"mode": "max_autotune"}, "did you mean 'max-autotune'?"),
        ({"disable_passes": ["pinn"]}, "did you mean 'pin'?"),
        ({"link": "h200-nvlink8"}, "did you mean 'h200-nvlink-8'?"),
        ({"disable_passes": "pin"}, "wrap it in a list: ['pin']"),
        ({"inductor": {"max_autotun": True}}, "did you mean 'max_autotune'?"),
        ({"inductor": {"max_autotune": 3}}, "'max_autotune' must be a bool, got 3 (int)"),
        ({"max_autotune": True}, "pass it as inductor={'max_autotune': ...}"),
        ({"triton.cudagraphs": True}, "pass it as inductor={'triton.cudagraphs': ...}"),
    ],
    ids=repr,
)
def test_messages_say_what_to_write(options: dict[str, object], expected: str) -> None:
    assert expected in refused(lambda: Options.parse(options))


#: The options of Inductor that would undo the schedule or the cut, and what the refusal must say.
OWNED = {
    "joint_custom_post_pass": "cut the joint graph",
    "post_grad_custom_post_pass": "schedule each graph",
    "reorder_for_compute_comm_overlap": "reorder the scheduled collectives",
    "aten_distributed_optimizations.enable_overlap_scheduling": "replace our schedule",
    "aten_distributed_optimizations.enable_simple_overlap": "move the scheduled launches",
    "inductor_choices_class": "keep slices in separate kernels",
    "_micro_pipeline_tp": "rewrite the collectives",
}


@pytest.mark.parametrize("name", OWNED)
def test_owned_inductor_options_are_refused_with_the_reason(name: str) -> None:
    said = refused(lambda: Options(inductor={name: False}))
    assert said.startswith("inductor: ")
    assert f"'{name}' is reserved for this backend: " in said and OWNED[name] in said


def test_what_the_backend_sets_for_itself_is_owned() -> None:
    """But for bucketing, which may also be wanted for collectives that are not cut."""
    from domino_compile.lowering.inductor import OFF

    assert {*OWNED} >= {name for name in OFF if not name.startswith("bucket_")}
    assert {*OWNED} == OWNED_INDUCTOR_OPTIONS.keys()


def test_mode_is_torch_compiles_mode() -> None:
    assert Options.parse(None, "reduce-overhead").mode == "reduce-overhead"
    assert Options.parse({"mode": "reduce-overhead"}, "reduce-overhead").mode == "reduce-overhead"
    assert "given twice" in refused(lambda: Options.parse({"mode": "default"}, "max-autotune"))
    assert refused(lambda: Options.parse(None, "lite")).startswith("mode: got 'lite'")


def test_modes_exist_in_inductor() -> None:
    import torch._inductor

    for mode in ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"):
        assert isinstance(torch._inductor.list_mode_options(mode), dict)


def test_options_cannot_be_changed() -> None:
    source = {"tokens": 0}
    options = Options(batch=source, inductor={"max_autotune": True})
    source["tokens"] = 1
    assert options.batch == {"tokens": 0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.slices = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        options.inductor["max_autotune"] = False  # type: ignore[index]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_digest_changes_with_what_shapes_the_program(field: dataclasses.Field[Any]) -> None:
    others = [Options.parse({field.name: value}).digest() for value, _ in GOOD[field.name]]
    relevant = field.name not in ("dump_dir", "watch", "check_ranks", "check_timeout_s")
    assert field.metadata["in_digest"] is relevant
    assert all((digest != Options().digest()) is relevant for digest in others)


def test_digest_does_not_depend_on_order() -> None:
    names = ["max_autotune", "triton.cudagraphs"]
    forward = Options(inductor=dict.fromkeys(names, True), disable_passes=PASS_NAMES)
    backward = Options(
        inductor=dict.fromkeys(reversed(names), True),
        disable_passes=tuple(reversed(PASS_NAMES)),
    )
    assert forward.digest() == backward.digest()


def test_digest_takes_in_what_the_link_table_says(tmp_path: Path) -> None:
    table = ROOT / "domino_compile" / "links" / "h200-nvlink-8.json"
    copy = tmp_path / "copy.json"
    copy.write_text(table.read_text())
    options = Options(link=str(copy))
    before = options.digest()
    assert before == Options(link="h200-nvlink-8").digest()
    data = json.loads(table.read_text())
    copy.write_text(json.dumps(data | {"ctas": data.get("ctas", 16) + 1}))
    assert options.digest() != before


def test_digest_is_the_same_in_every_process() -> None:
    values = {"batch": {"b": 0, "a": 1}, "inductor": {"max_autotune": True}, "slices": 3}
    program = f"from domino_compile.options import Options; print(Options(**{values!r}).digest())"
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == Options(**values).digest()  # type: ignore[arg-type]


def test_canonical_values() -> None:
    assert canonical({"b": {2, 1}, "a": (1, None)}) == canonical({"a": [1, None], "b": {1, 2}})
    assert canonical(True) is not canonical(1)
    assert canonical(SimpleNamespace(uuid=lambda: b"a")) == {"uuid": {"bytes": "61"}}
    for value in (print, object(), SimpleNamespace(uuid=lambda: None), int):
        with pytest.raises(TypeError):
            canonical(value)


def test_environment() -> None:
    options = Options(slices=3, dump_dir="a")
    assert options.with_environment({}) == options
    assert options.with_environment({"DOMINO_COMPILE_DUMP_DIR": ""}) == options
    assert options.with_environment({"DOMINO_COMPILE_DUMP_DIR": "b"}).dump_dir == "b"
    assert options.with_environment({"DOMINO_COMPILE_DISABLE": "1"}).disable is True
    assert options.with_environment({"DOMINO_COMPILE_DISABLE": "0"}) == options
    message = refused(lambda: options.with_environment({"DOMINO_COMPILE_DISABLE": "yes"}))
    assert message.startswith("DOMINO_COMPILE_DISABLE: got 'yes'")


def test_options_load_no_torch() -> None:
    program = (
        "import importlib.util, sys, types\n"
        "package = types.ModuleType('domino_compile'); package.__path__ = ['domino_compile']\n"
        "sys.modules['domino_compile'] = package\n"
        "import domino_compile.options as options\n"
        "assert options.Options(slices=3, inductor={}).slices == 3\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)

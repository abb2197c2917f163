"""Rates are used where DOMINO_COMPILE_RATES names their file; a wrong file is an error."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from domino_compile.backend import domino
from domino_compile.cost import rates_for
from domino_compile.cost.rates import CPU, OTHER_ACCELERATOR, TABLE, rates_identity
from domino_compile.cost.rates_file import VARIABLE, RatesError, RatesFile, load_rates, save_rates
from domino_compile.errors import DominoError, OptionError

VALUES = {"half_tflops": 2.0, "single_tflops": 1.0, "memory_gb_s": 50.0, "launch_us": 3.0}
GOOD = RatesFile("cpu", "a processor", "a test", VALUES | {"more": 4.0}, [{"what": "copy"}])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "rates.json"
    save_rates(GOOD, path)
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def test_round_trip(file: Path) -> None:
    assert load_rates(file) == GOOD
    assert json.loads(file.read_text())["schema"] == 1


def test_used_only_where_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = rates_for(torch.device("cpu"))
    assert {name: getattr(rates, name) for name in VALUES} == VALUES
    assert rates.name == "a processor" and rates.link == CPU.link
    assert rates_identity() != ""
    for unset in ("", "  "):
        monkeypatch.setenv(VARIABLE, unset)
        assert rates_for(torch.device("cpu")) is CPU and rates_identity() == ""
    monkeypatch.delenv(VARIABLE)
    assert rates_for(torch.device("cpu")) is CPU


def test_identity_follows_the_values_and_not_the_file(file: Path, tmp_path: Path) -> None:
    before = rates_identity()
    save_rates(RatesFile("cpu", "a processor", "another day", VALUES), file)
    assert rates_identity() == before
    save_rates(RatesFile("cpu", "a processor", "a test", VALUES | {"launch_us": 4.0}), file)
    assert rates_identity() != before


def test_of_another_type_of_device_or_another_gpu(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device=None: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert rates_for(torch.device("cuda", 0)) is TABLE[0]
    assert rates_for(torch.device("meta")) is OTHER_ACCELERATOR  # as on a machine without a GPU
    save_rates(RatesFile("cuda", "NVIDIA H200", "a test", VALUES), file)
    assert rates_for(torch.device("cpu")) is CPU
    assert rates_for(torch.device("cuda", 0)).half_tflops == 2.0
    assert rates_for(torch.device("cuda", 0)).link == "h200-nvlink-8"
    save_rates(RatesFile("cuda", "NVIDIA H100", "a test", VALUES), file)
    for call in (lambda: rates_for(torch.device("cuda", 0)), rates_identity):
        with pytest.raises(RatesError, match="are of 'NVIDIA H100', this device is 'NVIDIA H200'"):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema: must be 1, not 2; measure again"),
        ({"device": ""}, "device: must be a string"),
        ({"device_type": "tpu"}, "device_type: must be"),
        ({"rates": []}, "rates: must be a JSON object"),
        ({"rates": {"half_tflops": 1}}, "rates.single_tflops: is missing"),
        ({"rates": VALUES | {"launch_us": 0}}, "rates.launch_us: must be a positive number"),
        ({"rates": VALUES | {"launch_us": True}}, "rates.launch_us: must be a positive number"),
        ({"rates": VALUES | {"launch_us": 10**400}}, "rates.launch_us: must be a positive number"),
        ({"rates": VALUES | {"more": "x"}}, "rates.more: must be a positive number"),
        ({"measured": {}}, "measured: must be a list"),
    ],
)
def test_malformed_files_name_file_and_key(
    file: Path, change: dict[str, Any], message: str
) -> None:
    file.write_text(json.dumps(GOOD.as_json() | change))
    with pytest.raises(RatesError, match=f"rates file {file}: {message}") as caught:
        rates_for(torch.device("cpu"))
    assert isinstance(caught.value, DominoError) and "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RatesError, match="No such file"):
        load_rates(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text("[" * 100_000)
    with pytest.raises(RatesError, match="not JSON"):
        load_rates(tmp_path / "bad.json")


def test_a_wrong_file_is_the_users_error_at_the_first_call(file: Path) -> None:
    file.write_text("{")
    program = fx.symbolic_trace(torch.nn.Identity())
    compiled = domino(program, [torch.ones(2)])
    with pytest.raises(OptionError, match=r"rates file .*not JSON"):
        compiled(torch.ones(2))

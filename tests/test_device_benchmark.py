"""`benchmarks.device`, on this CPU with tiny shapes."""

import dataclasses
import json

import jax.numpy as jnp
import pytest

import flaxrnn
from benchmarks import device
from flaxrnn.strategies import Plain

OPTIONS = device.Options(small=True, turns=1, cells=("gru",))


def test_all_strategies_are_checked_and_timed(tmp_path):
    device.main(dataclasses.replace(OPTIONS, out=tmp_path))
    report = json.loads((tmp_path / "device.json").read_text())
    assert [result["shape"] for result in report["results"]] == list(device.SMALL)
    for result in report["results"]:
        assert result["difference"].keys() | result["cannot"].keys() == flaxrnn.STRATEGIES.keys()
        assert result["cannot"]["pallas"] == "it is for TPUs, and JAX runs on cpu"
        assert {"plain", "fused", "flax GRUCell"} <= result["milliseconds"].keys()
        assert all(milliseconds > 0 for milliseconds in result["milliseconds"].values())
    assert "**plain" in (tmp_path / "device.md").read_text()


def test_a_strategy_that_is_wrong_is_told(tmp_path, monkeypatch):
    class Wrong(Plain):
        name = "wrong"

        def run(self, sequence):
            state, outputs = super().run(sequence)
            return state, outputs + 0.01 * jnp.sign(outputs)

    monkeypatch.setitem(flaxrnn.STRATEGIES, "wrong", Wrong())
    with pytest.raises(SystemExit, match=r"differ from plain by more than 0.001: text, gru, wrong"):
        device.main(dataclasses.replace(OPTIONS, out=tmp_path))


def test_what_there_is_no_time_for_is_listed(tmp_path):
    device.main(dataclasses.replace(OPTIONS, out=tmp_path, minutes=-1))
    assert "- text, gru: left out for lack of time" in (tmp_path / "device.md").read_text()

"""Programs that `jax.export` wrote, read in another process that has no flaxrnn."""

import hashlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM, Elman, Zoneout
from tests.compare import assert_close, normal, random_params

LAYERS = {
    "gru": RNN(GRU(4), reverse=True),
    "stack": Stack([Bidirectional(LSTM(4, peephole=True), GRU(3)), RNN(Elman(5))], dropout=0.5),
    "pair": Bidirectional(LSTM(4, projection_size=2), GRU(3), merge=None),
    "zoneout": RNN(Zoneout(LSTM(4), hidden_rate=0.1)),
}


def fields(state):
    return state._asdict() if hasattr(state, "_asdict") else tuple(fields(part) for part in state)


@pytest.mark.parametrize("time", [None, 6])
@pytest.mark.parametrize("name", LAYERS)
def test_one_program_for_any_batch(name, time):
    layer = LAYERS[name]
    params = random_params(layer, 3)
    run = interop.stablehlo.load_model(interop.stablehlo.export_model(layer, params, time=time, lengths=True))
    for batch, steps in ((1, 6), (5, time or 9)):
        inputs, lengths = normal(batch, batch, steps, 3), np.arange(batch, dtype=np.int32) + 1
        state, outputs = layer.apply(params, inputs, lengths=lengths)
        assert_close(run(inputs, lengths), (fields(state), outputs))


def test_in_a_process_without_flaxrnn(tmp_path):
    layer = LAYERS["stack"]
    params, inputs = random_params(layer, 3), normal(0, 2, 5, 3)
    (tmp_path / "model.stablehlo").write_bytes(interop.stablehlo.export_model(layer, params))
    np.save(tmp_path / "inputs.npy", inputs)
    program = """
import sys, jax, jax.export, numpy as np
exported = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
state, outputs = exported.call(np.load("inputs.npy"))
assert "flaxrnn" not in sys.modules
print(exported.platforms)
np.save("outputs.npy", outputs)
"""
    made = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert made.stdout.strip() == "('cpu', 'cuda', 'tpu')"
    assert_close(np.load(tmp_path / "outputs.npy"), layer.apply(params, inputs)[1])


def test_float64(x64):
    layer = RNN(GRU(4))
    params, inputs = random_params(layer, 3, dtype=jnp.float64), normal(0, 2, 5, 3, dtype=np.float64)
    outputs = interop.stablehlo.load_model(interop.stablehlo.export_model(layer, params))(inputs)[1]
    assert outputs.dtype == jnp.float64
    assert_close(outputs, layer.apply(params, inputs)[1], rtol=1e-12)


def test_what_it_does_not_take():
    layer = RNN(GRU(4))
    params = random_params(layer, 3)
    with pytest.raises(TypeError, match="is in float64, which JAX has not switched on"):
        interop.stablehlo.export_model(layer, {name: np.asarray(leaf, np.float64) for name, leaf in params.items()})
    for platforms in ("cpu", ("gpux",)):
        with pytest.raises(ValueError, match="pass some of cpu, cuda, rocm, tpu"):
            interop.stablehlo.export_model(layer, params, platforms=platforms)
    with pytest.raises(ValueError, match="params has no kernel, but nothing: pass what the init of"):
        interop.stablehlo.export_model(layer, {})


def test_damage_is_seen_before_xla_reads_it():
    data = interop.stablehlo.export_model(RNN(GRU(4)), random_params(RNN(GRU(4)), 3))
    rng = np.random.default_rng(0)
    changed = [bytearray(data) for _ in range(50)]
    for one in changed:
        one[rng.integers(len(one))] ^= 1 + int(rng.integers(255))
    for one in (*changed, *(data[:length] for length in rng.integers(len(data), size=20)), b"something else"):
        with pytest.raises(ValueError, match="not what export_model wrote: it is damaged, or from elsewhere"):
            interop.stablehlo.load_model(bytes(one))


def test_a_program_of_another_version():
    program = b"of the future"
    data = program + interop.stablehlo.SEAL + hashlib.sha256(program).digest()
    with pytest.raises(ValueError, match=f"of a version that JAX {jax.__version__} does not read"):
        interop.stablehlo.load_model(data)

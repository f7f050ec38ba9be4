"""Files, and the program that converts them."""

import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM
from flaxrnn.interop.__main__ import main
from flaxrnn.interop.arrays import unflatten
from tests.compare import assert_equal, random_params

LAYER = Stack([Bidirectional(LSTM(4), LSTM(4))] * 2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("framework", ["torch", "keras", "tf1", "linen", "nnx", "haiku", "equinox", "onnx"])
def test_safetensors(framework, dtype, tmp_path):
    module = getattr(interop, framework)
    params = random_params(LAYER, 3, dtype=dtype)
    exact = {"forget_bias": 0.0} if framework == "tf1" else {}
    interop.save(tmp_path / "weights.safetensors", module.export_weights(LAYER, params, **exact))
    back = module.import_weights(LAYER, interop.load(tmp_path / "weights.safetensors"), **exact)
    if framework == "haiku":  # which adds 1 at run time
        back, params = (jax.tree.map(lambda x: x.astype(jnp.float32).round(1), tree) for tree in (back, params))
    assert_equal(back, params)


def test_a_file_of_safetensors_own(tmp_path):
    import safetensors.numpy

    weights = interop.torch.export_weights(LAYER, random_params(LAYER, 3))
    safetensors.numpy.save_file(weights, tmp_path / "theirs.safetensors")
    assert_equal(interop.load(tmp_path / "theirs.safetensors"), weights)
    interop.save(tmp_path / "ours.safetensors", weights)
    assert_equal(safetensors.numpy.load_file(tmp_path / "ours.safetensors"), weights)


def test_a_pickled_file_is_not_opened(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exit, (3,))

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(
        ValueError, match=r"model.pt is no safetensors file .*: write one where the weights were trained"
    ):
        interop.load(tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        interop.load(tmp_path / "nothing.safetensors")


def test_nothing_is_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        interop.save(tmp_path / "weights.safetensors", {"a": np.zeros(3)})
    assert not list(tmp_path.iterdir())


def test_a_file_has_the_mode_that_the_process_gives(tmp_path, monkeypatch):
    before = os.umask(0o027)
    monkeypatch.setattr("os.umask", lambda mask: pytest.fail("other threads see a change of the umask"))
    try:
        interop.save(tmp_path / "weights.safetensors", {"a": np.zeros(3)})
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert (tmp_path / "weights.safetensors").stat().st_mode & 0o777 == 0o640


def test_no_framework_is_imported_before_it_is_needed():
    program = """
import sys, jax, numpy as np
from flaxrnn import RNN, cells, interop
layer = RNN(cells.LSTM(4))
params = layer.init(jax.random.key(0), 3)
for name in ("torch", "keras", "tf1", "linen", "nnx", "haiku", "equinox", "cudnn", "onnx"):
    module = getattr(interop, name)
    weights = module.export_weights(layer, params)
    module.import_weights(layer, weights)
    if name != "cudnn":
        assert module.layer_for(weights) == layer
imported = {"torch", "keras", "tensorflow", "flax", "haiku", "equinox", "onnx", "safetensors"} & set(sys.modules)
assert not imported, imported
"""
    subprocess.run([sys.executable, "-c", program], check=True)


PATHS = ["torch", "keras", "tf1", "linen", "nnx", "haiku", "equinox", "cudnn", "onnx"]


@pytest.mark.parametrize("framework", PATHS)
def test_convert_and_back(framework, tmp_path, capsys):
    params = random_params(LAYER, 3)
    first, second, third = (str(tmp_path / f"{name}.safetensors") for name in "abc")
    interop.save(first, interop.torch.export_weights(LAYER, params))
    tf1 = framework == "tf1"
    main(["convert", "--from", "torch", first, "--to", framework, second, *["--target-forget-bias=0"] * tf1])
    said = " ".join(capsys.readouterr().out.split())
    assert "LSTM(hidden_size=4)" in said
    assert "backward" in said
    assert "written for" in said
    sizes = ["--hidden-size=4", "--num-layers=2", "--bidirectional"] if framework == "cudnn" else []
    if framework == "haiku":  # which does not say what is bidirectional: as a stack it does not fit
        with pytest.raises(SystemExit, match="the weights of layer_1 are for 3 features, but what it reads has 4"):
            main(["convert", "--from", framework, second, "--to", "torch", third])
        return
    main(["convert", "--from", framework, second, "--to", "torch", third, *sizes, *["--forget-bias=0"] * tf1])
    assert_equal(interop.load(third), interop.load(first))


def test_convert_to_a_model_and_show_it(tmp_path, capsys):
    import onnx

    params = random_params(RNN(GRU(4)), 3)
    interop.save(tmp_path / "a.safetensors", {"encoder": interop.equinox.export_weights(RNN(GRU(4)), params)})
    source, target = str(tmp_path / "a.safetensors"), str(tmp_path / "a.onnx")
    main(["convert", "--from=equinox", "--prefix=encoder/", source, target, "--to=onnx"])
    onnx.checker.check_model(target)
    capsys.readouterr()
    main(["show", target, "--from=onnx"])
    assert "GRU(hidden_size=4)" in capsys.readouterr().out
    assert_equal(interop.onnx.import_weights(RNN(GRU(4)), onnx.load(target)), params)


def test_convert_says_what_is_wrong(tmp_path):
    source, target = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    with pytest.raises(SystemExit, match="there is no file"):
        main(["convert", "--from=torch", source, target, "--to=keras"])
    layer = RNN(LSTM(4, projection_size=2))
    interop.save(source, interop.torch.export_weights(layer, random_params(layer, 3)))
    with pytest.raises(SystemExit, match="error: Keras has no LSTM with projection_size=2"):
        main(["convert", "--from=torch", source, target, "--to=keras"])
    with pytest.raises(SystemExit, match="does not tell its sizes: pass --hidden-size"):
        main(["show", "--from=cudnn", source])
    (tmp_path / "b.safetensors").write_text("precious")
    with pytest.raises(SystemExit, match="is there already: pass another name, or --overwrite"):
        main(["convert", "--from=torch", source, target, "--to=tf1"])
    assert (tmp_path / "b.safetensors").read_text() == "precious"
    main(["convert", "--from=torch", source, target, "--to=tf1", "--overwrite"])
    assert interop.tf1.layer_for(interop.load(target)) == layer


IGNORED = {
    "show --from=torch a.safetensors --hidden-size=7": "--hidden-size is for --from cudnn, not torch",
    "show --from=keras a.safetensors --forget-bias=1": "--forget-bias is for --from tf1, not keras",
    "show --from=onnx a.onnx --prefix=x": "--prefix is for --from torch or keras or tf1",
    "convert --from=torch a.safetensors --to=keras b.safetensors --optimized": "--optimized is for --to nnx, not keras",
    "convert --from=torch a.safetensors --to=onnx b.pb": "b.pb: pass a name that ends in .safetensors",
    "show --from=onnx a.onnx": "a.onnx is no ONNX model",
}


@pytest.mark.parametrize("arguments", IGNORED)
def test_no_option_is_ignored(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    interop.save("a.safetensors", interop.torch.export_weights(RNN(GRU(4)), random_params(RNN(GRU(4)), 3)))
    (tmp_path / "a.onnx").write_text("this is no model")
    with pytest.raises(SystemExit, match=f"error: {IGNORED[arguments]}"):
        main(arguments.split())


DAMAGED_LAYER = Stack([Bidirectional(LSTM(2), LSTM(2)), Bidirectional(LSTM(2), LSTM(2))])


def damaged(data, head, rng):
    """A file with some bytes changed, all over it or in its head, with its end cut off, or with some bytes left out."""
    data, way = bytearray(data), rng.integers(4)
    place, count = rng.integers(head if way == 1 else len(data)), rng.integers(1, 9)
    if way == 2:
        return bytes(data[:place])
    data[place : place + count] = b"" if way == 3 else rng.bytes(count if way == 0 else 1)
    return bytes(data)


@pytest.mark.parametrize("framework", ["torch", "onnx"])
def test_damaged_files(framework, tmp_path, capsys):
    params = random_params(DAMAGED_LAYER, 3)
    path = tmp_path / ("a.onnx" if framework == "onnx" else "a.safetensors")
    if framework == "onnx":
        path.write_bytes(interop.onnx.export_model(DAMAGED_LAYER, params).SerializeToString())
    else:
        interop.save(path, interop.torch.export_weights(DAMAGED_LAYER, params))
    main(["show", "--from", framework, str(path)])
    whole, shown, said = path.read_bytes(), capsys.readouterr().out, []
    head = len(whole) if framework == "onnx" else 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    for _ in range(60):
        path.write_bytes(damaged(whole, head, rng))
        try:
            main(["show", "--from", framework, str(path)])
        except SystemExit as stopped:
            said.append(str(stopped.code))
        else:  # other numbers, or other names within the graph, but the same network
            assert capsys.readouterr().out == shown
    assert len(said) > 20
    assert all(message.startswith("error: ") and path.name in message for message in said), said


def test_weights_of_a_dtype_that_is_none(tmp_path):
    path = tmp_path / "a.safetensors"
    interop.save(path, interop.torch.export_weights(RNN(GRU(4)), random_params(RNN(GRU(4)), 3)))
    path.write_bytes(path.read_bytes().replace(b"F32", b"I32"))
    with pytest.raises(SystemExit, match=r"error: .*a.safetensors: .* is not an array of floating-point num"):
        main(["show", "--from", "torch", str(path)])


def test_a_fault_of_the_program_itself_is_not_called_an_error_of_the_user(tmp_path, monkeypatch):
    interop.save(tmp_path / "a.safetensors", interop.torch.export_weights(RNN(GRU(4)), random_params(RNN(GRU(4)), 3)))
    monkeypatch.setattr(interop.torch, "layer_for", lambda weights: None)
    with pytest.raises(TypeError, match="positional argument"):
        main(["show", "--from", "torch", str(tmp_path / "a.safetensors")])


def test_a_model_of_several_dtypes():
    layer = Stack([RNN(GRU(4))] * 2)
    params = random_params(layer, 3)
    params["layer_1"] = jax.tree.map(lambda x: x.astype(jnp.float16), params["layer_1"])
    with pytest.raises(TypeError, match=r"params are in several dtypes \(layer_0/W in float32.*: cast them"):
        interop.onnx.export_model(layer, params)


def test_float64_goes_through(tmp_path, x64):
    params = random_params(RNN(GRU(4)), 3, dtype=jnp.float64)
    source, target = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    interop.save(source, interop.torch.export_weights(RNN(GRU(4)), params))
    with jax.enable_x64(False):
        main(["convert", "--from=torch", source, target, "--to=linen"])
    assert_equal(interop.linen.import_weights(RNN(GRU(4)), unflatten(interop.load(target))), params)

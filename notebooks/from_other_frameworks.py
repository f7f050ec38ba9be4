# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Weights of torch and Keras
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/flaxrnn/flaxrnn/blob/main/notebooks/from_other_frameworks.ipynb)
#
# After this notebook you can
#
# - take a recurrent network out of torch or Keras into flaxrnn, with the same outputs, states and gradients,
# - bring what you have trained in flaxrnn back,
# - say how the frameworks lay out their weights, and what one of them cannot express,
# - keep weights in safetensors files, and convert these on the command line.
#
# You should have used `torch.nn.LSTM` or `keras.layers.GRU` once, and know `jax.grad`. It takes half a minute on a CPU.

# %% [markdown]
# ## Set up
#
# In a checkout of flaxrnn the next cell only looks up where it is. Elsewhere, as on Colab, it fetches flaxrnn and installs what
# is missing; the JAX that is installed, which fits the TPU or GPU, stays as it is.

# %%
import pathlib
import subprocess
import sys

folders = [pathlib.Path.cwd(), *pathlib.Path.cwd().parents]
root = next((folder for folder in folders if (folder / "train" / "mnist.py").is_file()), None)
if root is None:
    import jax

    root = pathlib.Path("flaxrnn-main").absolute()
    source = "https://github.com/flaxrnn/flaxrnn"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", source, root], check=True)
    keep = root / "keep.txt"
    keep.write_text(f"jax=={jax.__version__}\njaxlib=={jax.lib.__version__}\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", f"--constraint={keep}"]
    subprocess.run([*pip, f"{root}[train]"], check=True)
sys.path.insert(0, str(root))

# %% [markdown]
# torch and Keras are no dependencies of flaxrnn's. Where one is missing, the next cell installs it (of torch, the version
# for CPUs is enough here).

# %%
import importlib.util

missing = [name for name in ("torch", "keras") if importlib.util.find_spec(name) is None]
if missing:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *missing]
    subprocess.run([*pip, "--extra-index-url=https://download.pytorch.org/whl/cpu"], check=True)
print("installed:", ", ".join(missing) or "nothing, all is there")

# %% [markdown]
# Keras 3 computes with the backend that `KERAS_BACKEND` names, read once at its import. GPUs and TPUs round the inputs of
# matrix products to fewer digits unless told otherwise; numbers are compared here, so they are told.

# %%
import os

os.environ["KERAS_BACKEND"] = "jax"  # before keras is imported

import tempfile

import jax
import jax.numpy as jnp
import keras
import matplotlib.pyplot as plt
import numpy as np
import torch

import flaxrnn
from flaxrnn import cells, interop

jax.config.update("jax_default_matmul_precision", "float32")
print(jax.devices())


# %% [markdown]
# One function for the whole notebook: the largest difference between two arrays, which must be below 1e-4. Two correct
# programs differ by about 1e-7 in float32, since they add in different orders; a wrong layout, by about 1.


# %%
def compare(name, ours, theirs):
    difference = np.abs(np.asarray(ours) - np.asarray(theirs)).max()
    assert difference < 1e-4, name
    print(f"{name:24} {np.shape(ours)!s:14} largest difference {difference:.0e}")


# %% [markdown]
# ## From torch
#
# A torch LSTM with two layers that read in both directions. Its state dict has four arrays for each layer and direction.

# %%
torch.manual_seed(0)
module = torch.nn.LSTM(28, 32, num_layers=2, bidirectional=True, batch_first=True)
for name, tensor in list(module.state_dict().items())[:4]:
    print(f"{name:14} {tuple(tensor.shape)}")
print(f"... {len(module.state_dict())} arrays in all")

# %% [markdown]
# `layer_for` says which flaxrnn layer a network is, and `import_weights` makes that layer's parameters, a plain tree of
# arrays. Each function takes one framework's own objects, so there is a module for each: `interop.torch`,
# `interop.keras`, and others.

# %%
layer = interop.torch.layer_for(module)
params = interop.torch.import_weights(layer, module.state_dict())
print(layer)
for name, array in params["layer_0"]["forward"].items():
    print(f"{name:17} {array.shape}")

# %% [markdown]
# Both now read the same sequences, `[batch, time, features]`. Torch's final states are `[layers * directions, batch,
# features]`; flaxrnn's are a tuple of layers, each a pair of directions, with the names `hidden` and `cell`. Flattened in
# this order they are torch's.

# %%
inputs = np.random.default_rng(0).normal(size=[4, 20, 28]).astype(np.float32)
with torch.no_grad():
    torch_outputs, (torch_hidden, torch_cell) = module(torch.from_numpy(inputs))

state, outputs = layer.apply(params, inputs)
compare("outputs", outputs, torch_outputs)
compare("final hidden states", [one.hidden for pair in state for one in pair], torch_hidden)
compare("final memories", [one.cell for pair in state for one in pair], torch_cell)

# %% [markdown]
# In a picture: three features of one sequence, from both libraries. Features 0 and 1 belong to the forward direction, 32
# and on to the backward one, whose output is most informed on the left, where it ends.

# %%
fig, axes = plt.subplots(figsize=(6, 3))
for feature in (0, 1, 32):
    (line,) = axes.plot(outputs[0, :, feature], label=f"flaxrnn, feature {feature}")
    axes.plot(torch_outputs[0, :, feature], "o", color=line.get_color(), mfc="none")
axes.plot([], [], "o", color="gray", mfc="none", label="torch")
axes.set(xlabel="time step", ylabel="output", title="The same LSTM in torch and in flaxrnn")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
fig.tight_layout()
plt.show()

# %% [markdown]
# The circles of torch lie on the lines of flaxrnn.
#
# Sequences of different lengths are packed in torch; flaxrnn takes `lengths`. What the backward direction does with the
# padding is where two libraries most easily differ, so it is compared too.

# %%
lengths = np.array([20, 13, 7, 1])
with torch.no_grad():
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.from_numpy(inputs), torch.from_numpy(lengths), batch_first=True
    )
    packed_outputs, (packed_hidden, _) = module(packed)
    padded_outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(packed_outputs, batch_first=True)

state, outputs = layer.apply(params, inputs, lengths=lengths)
valid = np.arange(20) < lengths[:, None]
compare("outputs within lengths", outputs[valid], padded_outputs.numpy()[valid])
compare("final hidden states", [one.hidden for pair in state for one in pair], packed_hidden)

# %% [markdown]
# ## Training agrees too
#
# A gradient is laid out as the parameters are, so `export_weights`, the way back, also translates gradients. Torch's second
# bias is left out: it adds to the first, and so has the same gradient.


# %%
def loss(params):
    _, outputs = layer.apply(params, inputs)
    return jnp.mean(outputs**2)


gradient = interop.torch.export_weights(layer, jax.grad(loss)(params))
module(torch.from_numpy(inputs))[0].square().mean().backward()
for name, parameter in module.named_parameters():
    if name.endswith("l1_reverse") and not name.startswith("bias_hh"):
        scale = np.abs(parameter.grad.numpy()).max()
        compare(name, gradient[name] / scale, parameter.grad.numpy() / scale)

# %% [markdown]
# ## Back to torch
#
# After a step of gradient descent in JAX the parameters are new. `export_weights` gives NumPy arrays by torch's names, and a
# fresh torch module that loads them computes what flaxrnn does.

# %%
params = jax.tree.map(lambda leaf, slope: leaf - slope, params, jax.grad(loss)(params))
state_dict = interop.torch.export_weights(layer, params)

fresh = torch.nn.LSTM(28, 32, num_layers=2, bidirectional=True, batch_first=True)
fresh.load_state_dict({name: torch.from_numpy(array) for name, array in state_dict.items()})
with torch.no_grad():
    theirs, _ = fresh(torch.from_numpy(inputs))
_, ours = layer.apply(params, inputs)
compare("outputs after a step", ours, theirs)

# %% [markdown]
# ## What is laid out differently
#
# The kernels of all gates of a cell stand side by side in one matrix. To see where, the block of each gate is filled with a
# number of its own, and exported: what comes out shows in which order, and which way round, the other framework has them.

# %%
kernels = {}
for cell in (cells.LSTM(4), cells.GRU(4)):
    kind, small = type(cell).__name__, flaxrnn.RNN(cell)
    painted = small.init(jax.random.key(0), input_size=3)
    gates = np.arange(len(cell.gates), dtype=np.float32)
    kernels[kind, "flaxrnn"] = painted["kernel"] = np.tile(np.repeat(gates, 4), [3, 1])
    for framework in ("torch", "keras", "onnx"):
        exported = getattr(interop, framework).export_weights(small, painted)
        kernels[kind, framework] = next(iter(exported.values()))  # the first array is the kernel

# %%
letters = {"LSTM": "ifgo", "GRU": "rzn"}
colors = np.array(plt.get_cmap("Set2").colors)
fig, axes = plt.subplots(2, 4, figsize=(8, 4.4), width_ratios=[4, 2, 4, 2])
for ax, ((kind, framework), kernel) in zip(axes.flat, kernels.items(), strict=True):
    kernel = kernel.astype(int)
    ax.imshow(colors[kernel])
    for gate, letter in enumerate(letters[kind]):
        row, column = np.argwhere(kernel == gate).mean(axis=0)  # the middle of its block
        ax.text(column, row, letter, ha="center", va="center", fontsize=13)
    ax.set(title=f"{kind}: {framework}", xticks=[], yticks=[])
    ax.set(xlabel=f"{kernel.shape[1]} columns", ylabel=f"{kernel.shape[0]} rows")
fig.tight_layout()
plt.show()

# %% [markdown]
# An input of 3 features, and 4 features for each gate. Torch and ONNX store the transposed matrix. The LSTM's input gate i,
# forget gate f, candidate g and output gate o stand in this order in torch and in Keras (whose documentation calls g the
# cell, c), but not in ONNX. The GRU's reset gate r and update gate z change places in Keras and ONNX. A program that copies
# such matrices without reordering them raises no error: the shapes fit, and the outputs are wrong.
#
# The other difference is the number of biases. Torch has two everywhere, one beside each matrix product. Only their sum
# matters, with one exception: a GRU whose reset gate acts after the product multiplies the second bias of its candidate
# by that gate, so flaxrnn keeps this one apart. A GRU with one feature shows it, as three numbers for r, z and n:

# %%
tiny = torch.nn.GRU(1, 1).state_dict()
tiny["bias_ih_l0"] = np.float32([0.1, 0.2, 0.3])
tiny["bias_hh_l0"] = np.float32([1, 2, 3])
tiny_layer = interop.torch.layer_for(tiny)
tiny_params = interop.torch.import_weights(tiny_layer, tiny)
back = interop.torch.export_weights(tiny_layer, tiny_params)

print("torch:         bias_ih", tiny["bias_ih_l0"], "bias_hh", tiny["bias_hh_l0"])
print("flaxrnn:       bias", tiny_params["bias"], "recurrent_bias", tiny_params["recurrent_bias"])
print("back in torch: bias_ih", back["bias_ih_l0"], "bias_hh", back["bias_hh_l0"])

# %% [markdown]
# So torch's own biases do not come back, but the same function does.
#
# ## From Keras
#
# `keras.layers.GRU` has two biases too, as the two rows of one array, and resets after the product (`reset_after=True`).

# %%
gru = keras.layers.GRU(32, return_sequences=True, return_state=True, bias_initializer="normal")
keras_outputs, keras_state = gru(inputs)
for variable in gru.weights:
    print(f"{variable.path:32} {variable.shape}")

# %% [markdown]
# `import_weights` takes what Keras's `get_weights()` gives. Keras on JAX computes in float32
# even where it is asked for float64, so it can be compared to about 1e-7, no closer.

# %%
layer = interop.keras.layer_for(gru)
params = interop.keras.import_weights(layer, gru.get_weights())
print(layer)

state, outputs = layer.apply(params, inputs)
compare("outputs", outputs, keras_outputs)
compare("final state", state.hidden, keras_state)

# %% [markdown]
# And back: the exported arrays are in the order that `set_weights` takes.

# %%
fresh = keras.layers.GRU(32, return_sequences=True)
fresh.build(inputs.shape)
fresh.set_weights(list(interop.keras.export_weights(layer, params).values()))
compare("outputs of a fresh layer", layer.apply(params, inputs)[1], fresh(inputs))

# %% [markdown]
# ## What a framework cannot express
#
# With `reset_after=False` the reset gate acts on the state before the matrix product, as in the GRU's paper (v3 on
# arXiv). That is another function, not another layout: Keras has it and torch does not. Nothing is dropped or approximated
# silently; the export is an error that says why.

# %%
of_the_paper = interop.keras.layer_for(keras.layers.GRU(32, reset_after=False))
print(of_the_paper.cell)
paper_params = of_the_paper.init(jax.random.key(0), input_size=28)
try:
    interop.torch.export_weights(of_the_paper, paper_params)
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# ## Files
#
# Weights are kept in safetensors files: arrays by name, and unlike a pickled `.pt` file no code that runs when it is opened.
# `layer_for` finds the network from names and shapes alone, so whoever reads the file needs neither torch nor the program
# that wrote it.

# %%
folder = pathlib.Path(tempfile.mkdtemp())
interop.save(folder / "torch.safetensors", state_dict)  # in torch: safetensors.torch.save_file

weights = interop.load(folder / "torch.safetensors")
layer = interop.torch.layer_for(weights)
params = interop.torch.import_weights(layer, weights)
print(f"{len(weights)} arrays, {(folder / 'torch.safetensors').stat().st_size:,} bytes")
print(layer)

# %% [markdown]
# On the command line, `show` says what network is in a file. In a terminal, in the folder of flaxrnn, the line below is
# `python -m flaxrnn.interop show --from torch torch.safetensors`.


# %%
def command(*arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}  # a TPU serves one process, this one
    environment |= {"FORCE_COLOR": "", "NO_COLOR": "1"}
    line = [sys.executable, "-m", "flaxrnn.interop", *arguments]
    done = subprocess.run(line, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(f"{folder}/", "")


files = [str(folder / name) for name in ("torch.safetensors", "keras.safetensors")]
print(command("show", "--from", "torch", files[0]))

# %% [markdown]
# `convert` goes from file to file. The new one has the weights in Keras's layout; read as such, they are the same network.

# %%
report = command("convert", "--from", "torch", files[0], "--to", "keras", files[1])
print(report.strip().splitlines()[-1])
keras_weights = interop.load(files[1])
print(len(keras_weights), "arrays, such as", next(iter(keras_weights)))

params_from_keras = interop.keras.import_weights(layer, keras_weights)
compare("outputs", layer.apply(params_from_keras, inputs)[1], layer.apply(params, inputs)[1])

# %% [markdown]
# ## ONNX
#
# `interop.onnx.export_model` makes a whole model of ONNX's own operators, which programs without JAX run on phones, in
# browsers or on servers. It needs `pip install onnx`, and ONNX Runtime to run it here: `pip install onnxruntime`.

# %%
if importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime"):
    import onnxruntime

    model = interop.onnx.export_model(layer, params, lengths=True)
    data, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(data, providers=providers)
    feeds = {"inputs": inputs, "lengths": lengths.astype(np.int32)}
    onnx_outputs, *_ = session.run(["outputs"], feeds)
    _, outputs = layer.apply(params, inputs, lengths=lengths)
    compare("outputs within lengths", outputs[valid], onnx_outputs[valid])
else:
    print("onnx or onnxruntime is not installed")

# %% [markdown]
# The other frameworks (TF1, flax.linen, flax.nnx, Haiku, Equinox, cuDNN's vector) have the same three functions;
# `docs/interop.md` has a table of what goes in and out of where.

# %% [markdown]
# ## Exercises
#
# 1. Do the same with a `torch.nn.RNN(nonlinearity="relu")`. Then pass its state dict to `layer_for` in place of the module: what
#    does the state dict not say?
# 2. Copy torch's GRU matrices into Keras transposed, but without reordering the gates. How far off are the outputs?
# 3. Put an LSTM beside a `torch.nn.Linear` in a module of your own, and import only the LSTM by
#    `import_weights(layer, state_dict, prefix="...")`. Write the linear layer in JAX: are the logits equal?
# 4. Train a classifier in torch for a few steps on MNIST's rows (`train.data.mnist`), go on with it in flaxrnn and optax, and
#    bring it back. Which accuracy has it in torch at the end?
# 5. Take an LSTM from a model of your own or one that you find published as safetensors, and compare it with flaxrnn in
#    float64 (`jax.config.update("jax_enable_x64", True)`). How small does the difference get, and where does it come from?

# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: from a digit to a trained GRU
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/flaxrnn/flaxrnn/blob/main/notebooks/quickstart.ipynb)
#
# After this notebook you can train a recurrent network on your own sequences with flaxrnn, in plain JAX or inside a
# Flax model (`linen` or `nnx`). The sequences here are MNIST's digits, read row by row: an image of 28 x 28 pixels is a
# sequence of 28 steps with 28 features each. You should know `jax.jit` and `jax.grad`. It takes about a minute on a CPU.

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

# %%
import os
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import flaxrnn
import flaxrnn.linen
import flaxrnn.nnx
from flaxrnn import cells, interop
from train.data import mnist

SMALL = "NOTEBOOK_SMALL" in os.environ  # the tests run it in a small size
print(jax.devices())

# %% [markdown]
# ## 1. The data
#
# MNIST comes with the repository. `mnist.batches` gives shuffled batches of images `[batch, 28, 28]` and their labels,
# without end.

# %%
data = mnist.load()
batch = next(iter(mnist.batches(data.train, batch_size=128, seed=0)))
print("images", batch.images.shape, batch.images.dtype, " labels", batch.labels.shape)

# %% [markdown]
# To a recurrent network an image is a sequence: at each time step it sees one row. On the right is what it is given for the
# first image, step by step.

# %%
image, label = batch.images[0], batch.labels[0]
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3), width_ratios=(1, 2), layout="constrained")
left.imshow(image, cmap="gray_r")
left.set_title(f"the digit {label}, as we see it")
for step in range(28):
    right.fill_between(range(28), step, step - 0.9 * image[step], color="#1f5fa8", lw=0)
right.invert_yaxis()
right.set_title("28 steps of 28 features")
right.set_xlabel("feature (pixel of the row)")
right.set_ylabel("time step (row)")
plt.show()

# %% [markdown]
# ## 2. A cell, scanned over time
#
# A cell says what happens in one step. It holds sizes and options, no arrays; its parameters are a plain dictionary, which
# `init` draws. `flaxrnn.scan` runs it over all steps of all sequences and returns the state after the last step and the
# outputs of all steps.

# %%
cell = cells.GRU(hidden_size=64)
params = cell.init(jax.random.key(0), input_size=28)
state, outputs = flaxrnn.scan(cell, params, batch.images)

for name, array in params.items():
    print(f"{name:17} {array.shape}")
print("outputs          ", outputs.shape, "[batch, time, features]")
print("the final state is the last output:", bool(jnp.all(state.hidden == outputs[:, -1])))

# %% [markdown]
# The 192 columns are 3 x 64: those of two gates and a candidate stand side by side (`understanding_lstm.ipynb` has the formulas).
#
# ## 3. A classifier
#
# What the GRU remembers after the last row goes through a dense layer, which gives ten logits, one for each digit. A
# network is two functions: one that draws the parameters, one that applies them.


# %%
def init(key):
    cell_key, dense_key = jax.random.split(key)
    kernel = jax.nn.initializers.lecun_normal()(dense_key, (64, 10))
    return {"gru": cell.init(cell_key, input_size=28), "kernel": kernel, "bias": jnp.zeros(10)}


def logits(params, images):
    state, _ = flaxrnn.scan(cell, params["gru"], images)
    return state.hidden @ params["kernel"] + params["bias"]


print("logits", logits(init(jax.random.key(0)), batch.images).shape)

# %% [markdown]
# ## 4. Training
#
# The loss is the cross entropy, the optimizer Optax's Adam, whose learning rate rises to 0.01 and then falls. One training step is one compiled function, gradient and update
# together.

# %%
steps = 20 if SMALL else 600
optimizer = optax.adam(optax.cosine_onecycle_schedule(steps, 1e-2))


def loss(params, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch.images), batch.labels).mean()


@jax.jit
def train_step(params, optimizer_state, batch):
    value, gradient = jax.value_and_grad(loss)(params, batch)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state)
    return optax.apply_updates(params, updates), optimizer_state, value


# %% [markdown]
# 600 steps of 128 images go through the training set 1.4 times.

# %%
params = init(jax.random.key(0))
optimizer_state = optimizer.init(params)
batches = iter(mnist.batches(data.train, batch_size=128, seed=0))
losses = []
for _ in range(steps):
    params, optimizer_state, value = train_step(params, optimizer_state, next(batches))
    losses.append(value)
losses = np.array(losses)

figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
axes.semilogy(losses, lw=0.8)
axes.axhline(np.log(10), color="gray", ls="--")
axes.text(len(losses), np.log(10), "guessing", ha="right", va="top", color="gray")
axes.set_xlabel("training step")
axes.set_ylabel("cross entropy")
plt.show()

# %% [markdown]
# The first steps bring little; then the loss falls quickly.
#
# ## 5. How good is it?
#
# On the 10,000 test images, which it has never seen:


# %%
@jax.jit
def accuracy(params, images, labels):
    return jnp.mean(jnp.argmax(logits(params, images), axis=-1) == labels)


images = mnist.to_float(data.test.images)
print(f"test accuracy {accuracy(params, images, data.test.labels):.2%}")

# %% [markdown]
# Because the network reads row by row, we can ask for its answer after each row: the outputs of all steps go through the
# same dense layer. Bright is likely. The network was taught to answer after the last row only, so on the way it is often sure
# and wrong: the top of a 2 passes for a 9 or a 7. The answer that counts may come only in the empty rows below the digit.

# %%
_, outputs = flaxrnn.scan(cell, params["gru"], images[:3])
answers = jax.nn.softmax(outputs @ params["kernel"] + params["bias"])

figure, axes = plt.subplots(1, 6, figsize=(12, 2.8), layout="constrained", sharey=True, width_ratios=[3, 2] * 3)
for number, (digit, answer) in enumerate(zip(axes[::2], axes[1::2], strict=True)):
    digit.imshow(images[number], cmap="gray_r", aspect="auto")
    digit.set_title(f"the digit {data.test.labels[number]}")
    answer.imshow(answers[number], cmap="viridis", aspect="auto", vmin=0, vmax=1)
    answer.set_xticks(range(10))
    answer.set_xlabel("digit")
    answer.set_title("its answer")
axes[0].set_ylabel("row (time step)")
plt.show()

# %% [markdown]
# Parameters are a tree of arrays; `interop.save` writes them to a safetensors file, a format that torch and others read too.
# They come back by the names of their branches.

# %%
with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "digits.safetensors"
    interop.save(file, params)
    loaded = interop.load(file)
for name, array in loaded.items():
    print(f"{name:22} {array.shape}")

# %% [markdown]
# ## 6. The same in a linen model
#
# `flaxrnn.linen.RNN` is a Flax module around the same cell. It returns state and outputs; the rest of the model is Flax as
# usual. Given the parameters that we have trained, it answers the same.


# %%
class LinenClassifier(nn.Module):
    @nn.compact
    def __call__(self, images):
        state, _ = flaxrnn.linen.RNN(cells.GRU(64), name="gru")(images)
        return nn.Dense(10, name="dense")(state.hidden)


model = LinenClassifier()
fresh = model.init(jax.random.key(0), images[:1])["params"]
print(jax.tree.map(jnp.shape, fresh))

trained = {"gru": params["gru"], "dense": {"kernel": params["kernel"], "bias": params["bias"]}}
difference = model.apply({"params": trained}, images[:100]) - logits(params, images[:100])
print(f"largest difference {jnp.max(jnp.abs(difference)):.1e}")

# %% [markdown]
# ## 7. The same in an nnx model
#
# In nnx a model holds its parameters, and `nnx.Optimizer` updates them in place. Here it learns from the beginning.


# %%
class NNXClassifier(nnx.Module):
    def __init__(self, rngs):
        self.gru = flaxrnn.nnx.RNN(cells.GRU(64), 28, rngs=rngs)
        self.dense = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images):
        state, _ = self.gru(images)
        return self.dense(state.hidden)


model = NNXClassifier(nnx.Rngs(1))
optimizer = nnx.Optimizer(model, optax.adam(optax.cosine_onecycle_schedule(steps, 1e-2)), wrt=nnx.Param)


@nnx.jit
def nnx_step(model, optimizer, batch):
    def loss(model):
        answers = model(batch.images)
        return optax.softmax_cross_entropy_with_integer_labels(answers, batch.labels).mean()

    value, gradient = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradient)
    return value


batches = iter(mnist.batches(data.train, batch_size=128, seed=0))
for _ in range(steps):
    nnx_step(model, optimizer, next(batches))
right = jnp.argmax(model(images), axis=-1) == data.test.labels
print(f"test accuracy {jnp.mean(right):.2%}")

# %% [markdown]
# ## Where to go on
#
# - `understanding_lstm.ipynb`: what happens inside an LSTM; `sequences.ipynb`: lengths, masks, stacks, streaming;
#   `your_own_cell.ipynb`: a new cell in twenty lines.
# - `python -m train.mnist --cell=gru` does what this notebook does with checkpoints, validation and pictures, and gets 99.3%
#   of the test images right in two minutes.
#
# ## Exercises
#
# 1. Put `cells.Elman(64)` and `cells.LSTM(64)` in place of the GRU. An LSTM's state has `state.hidden` and `state.cell`: which
#    does the dense layer see? How do the three compare after the same number of steps?
# 2. Read the images column by column: `images.swapaxes(1, 2)`. Does the accuracy change? Why?
# 3. Use `flaxrnn.Stack([flaxrnn.RNN(cells.GRU(64))] * 2)` in place of the single cell: its `init` and `apply` take the place of
#    `cell.init` and `flaxrnn.scan`. What is its state?
# 4. Let the network answer after 14 rows only (`lengths=jnp.full(len(images), 14)` in `flaxrnn.scan`), in training and test. How well can
#    half a digit be read?

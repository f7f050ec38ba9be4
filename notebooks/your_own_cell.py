# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own cell: write, test, train, time
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/flaxrnn/flaxrnn/blob/main/notebooks/your_own_cell.ipynb)
#
# After this notebook you can write a recurrent cell from a paper's equations in twenty lines, show that it computes
# what the paper says and that its gradients are right, train it on MNIST, and measure what a training step costs. The
# cell here is JANET (van der Westhuizen & Lasenby 2018), which flaxrnn does not have. You should know `jax.jit` and
# `jax.grad`, and the equations of a GRU. It takes about two minutes on a CPU.

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
import dataclasses
import functools
import os
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import flaxrnn
import flaxrnn.nnx
from flaxrnn import cells
from train.data import mnist
from train.pictures.style import BLUE, GREY, ORANGE, plain

SMALL = "NOTEBOOK_SMALL" in os.environ  # the tests run it in a small size
jax.config.update("jax_default_matmul_precision", "float32")  # numbers are compared below
print(jax.devices())

# %% [markdown]
# ## The equations
#
# JANET is an LSTM that has only its forget gate left ("just another network"; [The unreasonable effectiveness of the
# forget gate](https://arxiv.org/abs/1804.04849)). With input $x$, hidden state $h$ and a constant $\beta = 1$:
#
# $$s = x U_s + h W_s + b_s, \qquad n = \tanh(x U_n + h W_n + b_n)$$
# $$h' = \sigma(s) \cdot h + (1 - \sigma(s - \beta)) \cdot n$$
#
# The gate decides what is kept; with $\beta > 0$ a unit can take in the new without giving up the old. Without
# $\beta$ it is the UGRNN of [Collins et al. 2016](https://arxiv.org/abs/1611.09913).
#
# The paper begins the gate's bias at $\log$ of numbers drawn uniformly from $1$ to $T - 1$, where $T$ is how many
# steps the longest memory needs ([Tallec & Ollivier 2018](https://arxiv.org/abs/1804.11188)): a unit with
# $b_s = \log \tau$ keeps $\sigma(b_s) = \tau / (\tau + 1)$ of its state at each step, and so remembers for about $\tau$
# steps.
#
# ## The cell
#
# Most cells are of one kind: one matrix product of the input, one of the hidden state, a block of columns for each
# gate, and then arithmetic without matrix products. For these there is `cells.GatedCell`. Say what the gates are
# called, and what is done with them. A cell is a frozen dataclass that holds options and no arrays, and its options
# are fields.


# %%
@dataclasses.dataclass(frozen=True)
class Janet(cells.GatedCell):
    """An LSTM with a forget gate only (van der Westhuizen & Lasenby 2018)."""

    beta: float = 1.0
    longest: int = 28
    drops_candidate = True  # gate passes its candidate through drop_candidate

    gates = ("forget", "candidate")

    def gate(self, params, state, projected, recurrent):
        s, candidate = map(jnp.add, projected, recurrent)  # x U + b and h W, an array for each gate
        candidate = self.drop_candidate(params, jnp.tanh(candidate))
        kept, taken = jax.nn.sigmoid(s), 1 - jax.nn.sigmoid(s - self.beta)
        hidden = kept * state.hidden + taken * candidate
        return cells.HiddenState(hidden), hidden

    def init(self, key, input_size, dtype=jnp.float32):
        params = super().init(key, input_size, dtype)
        spans = jax.random.uniform(jax.random.fold_in(key, 0), [self.hidden_size], minval=1.0, maxval=self.longest - 1)
        params["bias"] = params["bias"].at[: self.hidden_size].set(jnp.log(spans))
        return params


# %% [markdown]
# `gate` is the arithmetic, and `init` is there for the bias alone. Parameters and initial state come with `GatedCell`:

# %%
for cell in (Janet(128), cells.GRU(128), cells.LSTM(128)):
    params = cell.init(jax.random.key(0), input_size=28)
    number = sum(leaf.size for leaf in jax.tree.leaves(params))
    shapes = ", ".join(f"{name} {leaf.shape}" for name, leaf in params.items())
    print(f"{type(cell).__name__}: {number:,} parameters: {shapes}")

# %% [markdown]
# ## Test 1: the paper's equations
#
# A second program, written from the equations and sharing nothing with the first, in NumPy, with float64 and a loop.
# It is slow and easy to read, which is what a reference should be.


# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(params, inputs, beta=1.0):
    """JANET over `inputs` `[batch, time, features]`, step by step."""
    gate_columns, candidate_columns = np.split(np.arange(params["bias"].size), 2)
    hidden = np.zeros([inputs.shape[0], len(gate_columns)])
    outputs = []
    for t in range(inputs.shape[1]):
        all_columns = inputs[:, t] @ params["kernel"] + hidden @ params["recurrent_kernel"] + params["bias"]
        s, n = all_columns[:, gate_columns], np.tanh(all_columns[:, candidate_columns])
        hidden = sigmoid(s) * hidden + (1 - sigmoid(s - beta)) * n
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


small = Janet(5, longest=12)
params = small.init(jax.random.key(0), input_size=3)
inputs = jax.random.normal(jax.random.key(1), [2, 12, 3])  # [batch, time, features]
wide_params, wide_inputs = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, inputs))

_, outputs = flaxrnn.scan(small, params, inputs)
difference = np.max(np.abs(outputs - reference(wide_params, wide_inputs)))
assert difference < 1e-4
print(f"largest difference from the reference: {difference:.1e}")

# %% [markdown]
# A test is worth something only if it fails when the cell is wrong. Here is a likely slip, the same gate for both terms
# (that is, no $\beta$):


# %%
class Slip(Janet):
    def gate(self, params, state, projected, recurrent):
        s, candidate = map(jnp.add, projected, recurrent)
        hidden = jax.nn.sigmoid(s) * state.hidden + (1 - jax.nn.sigmoid(s)) * jnp.tanh(candidate)
        return cells.HiddenState(hidden), hidden


_, wrong = flaxrnn.scan(Slip(5, longest=12), params, inputs)
difference = np.max(np.abs(wrong - reference(wide_params, wide_inputs)))
assert difference > 1e-2
print(f"largest difference with the slip: {difference:.1e}")

# %% [markdown]
# ## Test 2: finite differences
#
# For the gradient, too, the reference is independent: shift the parameters by $\pm\varepsilon$ along a random
# direction, and see how a loss of the reference's outputs changes. JAX's gradient, times that direction, must give
# the same slope.


# %%
def loss(params, inputs, **options):
    _, outputs = flaxrnn.scan(small, params, inputs, **options)
    return jnp.sum(jnp.sin(outputs) ** 2), outputs


def reference_loss(params):
    return np.sum(np.sin(reference(params, wide_inputs)) ** 2)


gradient, _ = jax.grad(loss, has_aux=True)(params, inputs)
generator, epsilon = np.random.default_rng(0), 1e-6
for name, value in wide_params.items():
    direction = generator.normal(size=value.shape)
    above, below = (wide_params | {name: value + sign * epsilon * direction} for sign in (1, -1))
    slope = (reference_loss(above) - reference_loss(below)) / (2 * epsilon)
    ours = np.sum(np.asarray(gradient[name], np.float64) * direction)
    assert abs(ours - slope) < 1e-3 * max(1, abs(slope))
    print(f"{name:17} finite differences {slope:9.5f}   gradient {ours:9.5f}")

# %% [markdown]
# ## Test 3: the strategies
#
# How the steps are run is a *strategy*. `plain` is `jax.lax.scan` over the cell's step, differentiated by JAX. `fused`
# has a backward pass of its own: it carries the state's gradient from step to step and makes the weights' gradients
# afterwards, in one matrix product over all steps. `checkpointed` keeps few states and computes the rest again.
# None of them may change the result, with lengths, masks and resets either, and in reverse:

# %%
marks = {
    "lengths": jnp.array([12, 7]),
    "mask": jax.random.bernoulli(jax.random.key(2), 0.8, [2, 12]),
    "resets": jax.random.bernoulli(jax.random.key(3), 0.2, [2, 12]),
}


def results(**options):
    """The gradients of parameters and inputs, and the outputs."""
    run = functools.partial(loss, **options)
    return jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))(params, inputs)


def largest_difference(left, right):
    differences = jax.tree.map(lambda one, other: jnp.max(jnp.abs(one - other)), left, right)
    return max(jax.tree.leaves(differences))


for reverse in (False, True):
    expected = results(strategy="plain", reverse=reverse, **marks)
    for strategy in ("fused", "checkpointed"):
        difference = largest_difference(results(strategy=strategy, reverse=reverse, **marks), expected)
        assert difference < 1e-4
        print(f"{strategy:12} {'backwards' if reverse else 'forwards':9} largest difference {difference:.1e}")

# %% [markdown]
# `fused` knows nothing of JANET. It works for any cell, since it derives what it needs from `gate` with `jax.vjp`.
#
# ## It works everywhere
#
# In layers, with what `GatedCell` has for every cell (layer normalisation, a learned initial state, dropout), and as a
# Flax module, here of `nnx`:

# %%
layer = flaxrnn.Bidirectional(Janet(8, layer_norm=True), Janet(6, beta=0.0, learn_initial_state=True))
layer_params = layer.init(jax.random.key(0), input_size=3)
_, outputs = layer.apply(layer_params, inputs, lengths=jnp.array([12, 7]))
print("both directions:", outputs.shape, "- parameters backwards:", ", ".join(layer_params["backward"]))

module = flaxrnn.nnx.RNN(Janet(8, recurrent_dropout=0.2), 3, rngs=nnx.Rngs(0))
_, outputs = module(inputs)
print("Flax module:", outputs.shape)

# %% [markdown]
# And without flaxrnn's loop: `cell.step` has the arguments that `jax.lax.scan` wants, for a loop of your own (a decoder
# that feeds on its own outputs, say). Time is the first axis there.

# %%
initial = small.initial_state(batch_shape=(2,))
bare_state, bare_outputs = jax.lax.scan(functools.partial(small.step, params), initial, inputs.swapaxes(0, 1))

state, outputs = flaxrnn.scan(small, params, inputs)
assert jnp.allclose(bare_outputs.swapaxes(0, 1), outputs, atol=1e-4)
assert jnp.allclose(bare_state.hidden, state.hidden, atol=1e-4)
print("bare lax.scan:", bare_state.hidden[0])
print("flaxrnn.scan: ", state.hidden[0])

# %% [markdown]
# ## Train it
#
# MNIST, a row of 28 pixels at each of 28 steps; what the cell knows after the last row goes through a dense layer.
# The same program trains the library's GRU of the same size beside it. (`python -m train.mnist` does the same with
# validation, checkpoints and pictures; the exercises say how it comes to know Janet.)

# %%
data = mnist.load()
steps, hidden_size, batch_size = (20, 32, 64) if SMALL else (1000, 128, 128)
test_size = 1000 if SMALL else 10_000
optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adam(optax.cosine_onecycle_schedule(steps, 8e-3, pct_start=0.2)),
)


def logits(cell, params, images):
    state, _ = flaxrnn.scan(cell, params["cell"], images)
    return state.hidden @ params["dense"] + params["bias"]


@functools.partial(jax.jit, static_argnames="cell")
def train_step(cell, params, optimizer_state, images, labels):
    def loss(params):
        scores = logits(cell, params, images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels))

    value, gradient = jax.value_and_grad(loss)(params)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state)
    return optax.apply_updates(params, updates), optimizer_state, value


def train(cell):
    """Trains on MNIST; gives the parameters and the loss of each step."""
    cell_params = cell.init(jax.random.key(0), input_size=28)
    params = {"cell": cell_params, "dense": jnp.zeros([hidden_size, 10]), "bias": jnp.zeros(10)}
    optimizer_state, losses = optimizer.init(params), []
    batches = iter(mnist.batches(data.train, batch_size, seed=0))
    for _ in range(steps):
        batch = next(batches)
        params, optimizer_state, value = train_step(cell, params, optimizer_state, batch.images, batch.labels)
        losses.append(value)
    return params, np.array(losses)


def accuracy(cell, params):
    """The share of the test images that it gets right."""
    predict = jax.jit(lambda images: jnp.argmax(logits(cell, params, images), axis=-1))
    starts = range(0, test_size, 1000)
    predictions = [predict(mnist.to_float(data.test.images[start : start + 1000])) for start in starts]
    return np.mean(np.concatenate(predictions) == data.test.labels[:test_size])


# %%
contestants = {"JANET": Janet(hidden_size), "GRU": cells.GRU(hidden_size)}
trained = {name: train(cell) for name, cell in contestants.items()}
for name, cell in contestants.items():
    params, _ = trained[name]
    print(f"{name}: {accuracy(cell, params):.2%} of {test_size:,} test images right")

# %%
_, axes = plt.subplots(figsize=(7, 3), layout="constrained")
size = min(20, steps)
for (name, (_, losses)), colour in zip(trained.items(), (BLUE, ORANGE), strict=True):
    smooth = np.convolve(losses, np.ones(size) / size, mode="valid")
    axes.plot(np.arange(len(smooth)) + size, smooth, color=colour, label=name)
axes.set(xlabel="training step", ylabel=f"cross entropy,\nmean of {size} steps", yscale="log")
axes.legend()
plain(axes)
plt.show()

# %% [markdown]
# With two thirds of the GRU's recurrent weights, JANET learns the digits about as well. A single run each does not
# say which is better; several seeds would.
#
# ## What the gate has learned
#
# The gate is easy to compute again: outputs are the hidden states, so all of the hidden states before a step are
# known at once, and `project` gives the input's part. Each line is a unit, sorted by how much it keeps.

# %%
cell, (params, _) = contestants["JANET"], trained["JANET"]
digit = mnist.to_float(data.test.images[:1])
_, outputs = flaxrnn.scan(cell, params["cell"], digit)
before = jnp.concatenate([jnp.zeros_like(outputs[:, :1]), outputs[:, :-1]], axis=1)
product = cells.MatrixProducts(cell, params["cell"])
s = cell.project(params["cell"], digit, product)[0] + product("recurrent_kernel", before, gates=slice(None))[0]
kept = jax.nn.sigmoid(s[0])  # [time, units]

_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", width_ratios=(1, 2))
left.imshow(digit[0].T, cmap="gray_r", aspect="auto")
left.set(title="the digit, turned", xlabel="time step: row", ylabel="feature: column", xticks=range(0, 28, 5))
image = right.imshow(kept[:, jnp.argsort(kept.mean(0))].T, aspect="auto", cmap="viridis", vmin=0, vmax=1)
right.set(title="how much each unit keeps: $\\sigma(s)$", xlabel="time step: row", ylabel="unit")
plt.colorbar(image, ax=right)
plt.show()

# %% [markdown]
# On blank paper the units keep most of what they have. Where the pen stroke begins, some give it up at once (dark),
# and some do so again and again while the stroke goes on; many keep what they have seen to the end, where the dense
# layer reads it.
#
# ## Fast without more work
#
# Now the time of a training step (loss and gradients), `plain` against `fused`, for JANET and the GRU, on long
# sequences. To be fair the four are run in turns, so that whatever else the machine does meets all of them, and the
# median counts; `block_until_ready` waits for the result, since JAX returns before it is there.

# %%
shape, size, rounds = ((4, 16, 8), 16, 3) if SMALL else ((8, 256, 64), 256, 15)
long_inputs = jax.random.normal(jax.random.key(0), shape)  # [batch, time, features]
print(flaxrnn.explain(Janet(size), long_inputs))


def make_step(cell, strategy):
    """A compiled function without arguments that computes a loss and its gradients."""
    params = cell.init(jax.random.key(0), shape[-1])

    def loss(params, inputs):
        _, outputs = flaxrnn.scan(cell, params, inputs, strategy=strategy)
        return jnp.mean(outputs**2)

    step = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(step(params, long_inputs))


timed = {
    f"{name}, {strategy}": make_step(cell, strategy)
    for name, cell in {"JANET": Janet(size), "GRU": cells.GRU(size)}.items()
    for strategy in ("plain", "fused")
}
seconds = {name: [] for name in timed}
for step in timed.values():
    step()  # compiles
for _ in range(rounds):
    for name, step in timed.items():
        start = time.perf_counter()
        step()
        seconds[name].append(time.perf_counter() - start)

medians = {name: 1000 * np.median(values) for name, values in seconds.items()}
for name, median in medians.items():
    print(f"{name:12} {median:6.1f} ms")

# %%
_, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
for place, (name, values) in enumerate(seconds.items()):
    colour = BLUE if "fused" in name else GREY
    axes.barh(place, medians[name], color=colour, alpha=0.5)
    axes.plot(1000 * np.array(values), np.full(rounds, place), "|", color=colour, markersize=9)
axes.set_yticks(range(len(timed)), timed)
axes.invert_yaxis()
axes.set(xlabel="milliseconds for a training step (bar: median, strokes: single runs)")
axes.set_xlim(0, 1.6 * max(medians.values()))
plain(axes)
axes.grid(False, axis="y")
plt.show()

# %% [markdown]
# On a CPU, `fused` takes two thirds of `plain`'s time or less. In `plain`, the backward pass adds to the gradient of
# the recurrent weights at each step, and goes through all of that matrix to do so; `fused` makes it once, from all
# steps. (With larger batches the step itself weighs more, and less is gained.) The cell that we wrote in twenty lines
# has this just as the library's GRU has, and with two gates for its three it takes less time. By default
# (`strategy="auto"`) flaxrnn chooses by cell, shape and backend; `explain`, above, says what it does and why.
#
# ## Exercises
#
# 1. Train with `beta=0.0` (the UGRNN), and with `longest=2`, which begins all biases at zero. Which of the two
#    matters more?
# 2. Break `init` or `gate` in a way that none of the three tests notices, and write a fourth test that does.
# 3. Put the cell into the trainer, with `cells.CELLS["janet"] = Janet`, and train it longer:
#    `mnist.run(mnist.Config(cell="janet"), Console())`, with `from train import mnist` and `from rich.console import
#    Console`. Mind that the last 5,000 training images are for choosing, and the test images for the end.
# 4. Write the minimal RNN of [Chen 2017](https://arxiv.org/abs/1711.06788), $h' = u \cdot h + (1 - u) \cdot z$ with
#    $z = \tanh(xU + b)$ and a gate $u$ that sees $h$ and $z$. Does it fit `GatedCell`? If not, define `init`,
#    `initial_state`, `recur` and `output_size` of a `cells.Cell`; `docs/own_cells.md` has an example.
# 5. Read each digit pixel by pixel, 784 steps (`images.reshape(-1, 784, 1)`), with `longest=784`. Compare with the
#    GRU, with several seeds each, in accuracy and in time.

# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Understanding the LSTM
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/flaxrnn/flaxrnn/blob/main/notebooks/understanding_lstm.ipynb)
#
# After this notebook you can say why a simple recurrent network forgets, what each gate of an LSTM is for, and what the
# forget bias, peepholes, coupled gates and the GRU change; and you have seen each of them as a formula, as code and at work.
# You should know what a recurrent network is and what `jax.grad` does. It takes about three minutes on a CPU.

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
import inspect
import os
import textwrap

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.nn import sigmoid

import flaxrnn
from flaxrnn import cells
from train import reading
from train.data import mnist

SMALL = "NOTEBOOK_SMALL" in os.environ  # the tests run it in a small size
jax.config.update("jax_default_matmul_precision", "float32")  # as exact on a TPU or GPU as on a CPU
print(jax.devices())

# %% [markdown]
# ## 1. Why the Elman network forgets
#
# The Elman network of 1990 has one formula: the new hidden state is `tanh(x U + h W + b)`. To learn that something early in a
# sequence matters at its end, a gradient must come back from the last hidden state to that early step. On its way it is
# multiplied, at each step, by `W` and by the slope of `tanh`, which is at most 1 and mostly less. Our `W` begins as an
# orthogonal matrix, which changes no length, so what shrinks the gradient here is the slope of `tanh`.
#
# How much of it arrives? We take random sequences and untrained networks, and measure how much the last hidden state, along a
# random direction, depends on the input of each step.

# %%
hidden_size, time = 32, 100


def influence(cell, params, inputs):
    """How much a random direction of the last hidden state depends on each step's input, `[time]`."""
    direction = jax.random.normal(jax.random.key(9), (len(inputs), hidden_size))

    def last(inputs):
        state, _ = flaxrnn.scan(cell, params, inputs)
        return jnp.sum(state.hidden * direction)

    return jnp.sqrt(jnp.mean(jnp.sum(jax.grad(last)(inputs) ** 2, axis=-1), axis=0))


inputs = jax.random.normal(jax.random.key(0), (64, time, 2))
NETWORKS = {
    "Elman": cells.Elman(hidden_size),
    "GRU": cells.GRU(hidden_size),
    "LSTM, forget bias 0": cells.LSTM(hidden_size, forget_bias=0.0),
    "LSTM, forget bias 1": cells.LSTM(hidden_size, forget_bias=1.0),
    "LSTM, forget bias 3": cells.LSTM(hidden_size, forget_bias=3.0),
}
COLORS = dict(zip(NETWORKS, ["#8a8f98", "#2a9d6f", "#f2b37d", "#d9730d", "#7a2e04"], strict=True))

# %%
figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
for name, cell in NETWORKS.items():
    norms = influence(cell, cell.init(jax.random.key(1), input_size=2), inputs)
    axes.semilogy(range(time), norms[::-1] / norms[-1], label=name, color=COLORS[name])
axes.set_xlabel("distance: steps between the input and the end")
axes.set_ylabel("gradient norm,\nrelative to distance 0")
axes.set_title("Before any training")
axes.set_ylim(1e-17, 30)
axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# The axis is logarithmic: straight lines are exponential decay. Next to nothing of the Elman network's gradient gets 100 steps
# back: it vanishes ([Hochreiter 1991](https://people.idsia.ch/~juergen/SeppHochreiter1991ThesisAdvisorSchmidhuber.pdf);
# [Bengio et al. 1994](https://doi.org/10.1109/72.279181)). In an LSTM the forget gate sets the pace: it keeps the share f of the
# memory in each step, and f begins near sigmoid(bias): 0.50 for bias 0, 0.73 for 1, 0.95 for 3. (The lines fall more slowly than f
# alone would make them, since some of the gradient comes back through h and the gates.) A GRU keeps the share z of its state, which
# begins near 0.50. So an LSTM with forget bias 0 and a GRU start out about as forgetful as the Elman network; but they can *learn* to
# keep, by moving a gate. Now we let them.
#
# ## 2. A test of memory
#
# In the adding problem ([Hochreiter & Schmidhuber 1997](https://doi.org/10.1162/neco.1997.9.8.1735); here as in
# [Arjovsky et al. 2016](https://arxiv.org/abs/1511.06464)) a sequence has random numbers between 0 and 1, of which one in each half is
# marked; after the last step the network is to say the sum of these two. The best answer without memory is the mean, 1, whose
# mean squared error is the variance of the sum, 2 · 1/12 = 1/6.

# %%
length = 60


def draw_adding(key):
    """64 sequences `[batch, time, 2]`, numbers and marks, and the sums `[batch]`."""
    number_key, first_key, second_key = jax.random.split(key, 3)
    numbers = jax.random.uniform(number_key, (64, length))
    first = jax.random.randint(first_key, (64,), 0, length // 2)
    second = jax.random.randint(second_key, (64,), length // 2, length)
    marks = jax.nn.one_hot(first, length) + jax.nn.one_hot(second, length)
    return jnp.stack([numbers, marks], axis=-1), jnp.sum(numbers * marks, axis=-1)


sequences, sums = draw_adding(jax.random.key(0))
numbers, marks = np.array(sequences[0]).T
figure, axes = plt.subplots(figsize=(7, 2), layout="constrained")
axes.bar(range(length), numbers, color=np.where(marks > 0, "#d9730d", "#c9ccd1"))
axes.set_title(f"one sequence; the marked numbers add up to {sums[0]:.2f}")
axes.set_xlabel("time step")
axes.set_ylabel("number")
plt.show()

# %% [markdown]
# Any of our networks, with a dense layer on its last hidden state, is trained by one function. All training steps run in a
# single compiled `lax.scan`.

# %%
steps = 30 if SMALL else 1000


def train_adding(cell, seed):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3))

    def loss(params, key):
        inputs, targets = draw_adding(key)
        state, _ = flaxrnn.scan(cell, params["cell"], inputs)
        return jnp.mean((state.hidden @ params["kernel"] + params["bias"] - targets) ** 2)

    def step(carry, key):
        params, optimizer_state = carry
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return (optax.apply_updates(params, updates), optimizer_state), value

    @jax.jit
    def run(key):
        cell_key, kernel_key, data_key = jax.random.split(key, 3)
        kernel = jax.random.normal(kernel_key, (hidden_size,)) / hidden_size**0.5
        params = {"cell": cell.init(cell_key, input_size=2), "kernel": kernel, "bias": jnp.zeros(())}
        keys = jax.random.split(data_key, steps)
        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return params, losses

    return run(jax.random.key(seed))


# %%
trained, losses = {}, {}
for name in ["Elman", "GRU", "LSTM, forget bias 0", "LSTM, forget bias 1"]:
    runs = [train_adding(NETWORKS[name], seed) for seed in range(1 if SMALL else 3)]
    trained[name] = runs[0][0]["cell"]
    losses[name] = np.array([values for _, values in runs])

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
window = 10
for name, runs in losses.items():
    means = runs[:, : steps // window * window].reshape(len(runs), -1, window).mean(axis=-1)
    where = np.arange(means.shape[1]) * window
    left.semilogy(where, np.median(means, axis=0), color=COLORS[name], label=name)
    left.fill_between(where, means.min(axis=0), means.max(axis=0), color=COLORS[name], alpha=0.2, lw=0)
    norms = influence(NETWORKS[name], trained[name], draw_adding(jax.random.key(5))[0])
    right.semilogy(range(length), norms[::-1] / norms[-1], color=COLORS[name])
left.axhline(1 / 6, color="gray", ls="--", lw=1)
left.text(steps, 1 / 6, "remembers nothing", ha="right", va="bottom", color="gray", fontsize=8)
left.set_xlabel("training step")
left.set_ylabel("mean squared error")
left.set_title("Learning to add: median and range of seeds")
left.legend(frameon=False, fontsize=8, loc="lower left")
right.set_xlabel("distance to the end")
right.set_ylabel("gradient norm,\nrelative to distance 0")
right.set_title("After training")
plt.show()

# %% [markdown]
# The GRU and the LSTMs solve it, the GRU soonest, and their gradient (right, first seed) now hardly falls with the distance. The
# Elman network hardly gets below the dashed line: training has lengthened its reach, but the gradient from the first steps is
# still about a thousand times smaller than that from the last. Forget bias 1 gives the LSTM a head start over bias 0, because it
# remembers a little before it has learned what to remember
# ([Jozefowicz et al. 2015](https://proceedings.mlr.press/v37/jozefowicz15.html)). To try 200 steps:
# `python -m train.memory --length=200 --cell=lstm`, and then `--cell=elman`.
#
# ## 3. The LSTM, formula by formula
#
# The idea of Hochreiter and Schmidhuber: a memory $c$ that is not multiplied by a matrix and not squashed at each step, but only
# *added to*, under the control of gates. A gate is a number between 0 and 1 for each feature, computed from the input $x$ and the
# last hidden state $h$. The forget gate was added later ([Gers et al. 2000](https://doi.org/10.1162/089976600300015015)):
#
# | | formula | what it does |
# |---|---|---|
# | input gate | $i = \sigma(x U_i + h W_i + b_i)$ | how much of the candidate is taken in |
# | forget gate | $f = \sigma(x U_f + h W_f + b_f)$ | how much of the memory is kept |
# | candidate | $g = \tanh(x U_g + h W_g + b_g)$ | what could be taken in |
# | output gate | $o = \sigma(x U_o + h W_o + b_o)$ | how much of the memory is shown |
# | memory | $c' = f \odot c + i \odot g$ | the old memory, partly kept, and something new |
# | hidden state | $h' = o \odot \tanh(c')$ | what the next step and the next layer see |
#
# And as code, line for line. The four blocks of $U$, $W$ and $b$ stand side by side in one array each, in the order i, f, g, o:


# %%
def lstm_step(params, h, c, x):
    U_i, U_f, U_g, U_o = jnp.split(params["kernel"], 4, axis=1)
    W_i, W_f, W_g, W_o = jnp.split(params["recurrent_kernel"], 4, axis=1)
    b_i, b_f, b_g, b_o = jnp.split(params["bias"], 4)
    i = sigmoid(x @ U_i + h @ W_i + b_i)  # input gate
    f = sigmoid(x @ U_f + h @ W_f + b_f)  # forget gate
    g = jnp.tanh(x @ U_g + h @ W_g + b_g)  # candidate
    o = sigmoid(x @ U_o + h @ W_o + b_o)  # output gate
    c = f * c + i * g  # memory
    h = o * jnp.tanh(c)  # hidden state
    return h, c


# %% [markdown]
# It computes what `cells.LSTM` computes, here over a sequence of 20 steps:

# %%
cell = cells.LSTM(hidden_size)
params = cell.init(jax.random.key(2), input_size=2)
h = c = jnp.zeros((64, hidden_size))
for t in range(20):
    h, c = lstm_step(params, h, c, inputs[:, t])
state, _ = flaxrnn.scan(cell, params, inputs[:, :20])
print(f"largest difference in h {jnp.max(jnp.abs(h - state.hidden)):.1e}, in c {jnp.max(jnp.abs(c - state.cell)):.1e}")

# %% [markdown]
# The library's own code is the same six formulas. It is given the products of all gates (`projected` is $x U + b$,
# `recurrent` is $h W$), an array for each gate. `peep` and `coupled` are explained in section 6;
# `drop_candidate` (dropout), `clip` and `normalize_cell` (layer normalisation) do nothing unless they are asked for.

# %%
print(textwrap.dedent(inspect.getsource(cells.LSTM.gate)))

# %% [markdown]
# Where does the gradient of the memory go? On the direct path, $c' = f \odot c + i \odot g$, it is multiplied by f alone, feature by
# feature: where f = 1 it passes unchanged over any distance. In the LSTM of 1997, without a forget gate, this factor was always 1:
# the *constant error carousel*.
#
# ## 4. The gates at work
#
# Now we train an LSTM to read digits row by row, and watch it. The same function will train its variants.

# %%
data = mnist.load()
digit_steps = 20 if SMALL else 400
test_images = mnist.to_float(data.test.images)


def train_on_digits(cell, hidden_size=32):
    optimizer = optax.adam(optax.cosine_onecycle_schedule(digit_steps, 1e-2))

    def logits(params, images):
        state, _ = flaxrnn.scan(cell, params["cell"], images)
        return state.hidden @ params["kernel"] + params["bias"]

    def loss(params, batch):
        answers = logits(params, batch.images)
        return optax.softmax_cross_entropy_with_integer_labels(answers, batch.labels).mean()

    @jax.jit
    def step(params, optimizer_state, batch):
        updates, optimizer_state = optimizer.update(jax.grad(loss)(params, batch), optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state

    kernel = jax.random.normal(jax.random.key(1), (hidden_size, 10)) / hidden_size**0.5
    params = {"cell": cell.init(jax.random.key(0), 28), "kernel": kernel, "bias": jnp.zeros(10)}
    optimizer_state = optimizer.init(params)
    batches = iter(mnist.batches(data.train, 128, seed=0))
    for _ in range(digit_steps):
        params, optimizer_state = step(params, optimizer_state, next(batches))
    right = jnp.argmax(jax.jit(logits)(params, test_images), axis=-1) == data.test.labels
    return params["cell"], float(jnp.mean(right))


lstm_params, accuracy = train_on_digits(cells.LSTM(32))
print(f"test accuracy {accuracy:.1%}")

# %% [markdown]
# `reading.read` gives every gate at every step while one image is read. Rows are time steps; each column is one of the 32
# features, sorted by when their hidden state is largest.

# %%
GATES = ("input", "forget", "output", "reset", "update")


def show_gates(cell, params, image):
    seen = {name: np.asarray(values) for name, values in reading.read(cell, params, image).items()}
    order = np.argsort(np.argmax(np.abs(seen["hidden"]), axis=0), kind="stable")
    figure, axes = plt.subplots(
        1, len(seen) + 1, figsize=(1.7 * len(seen) + 1.7, 3.4), sharey=True, layout="constrained"
    )
    axes[0].imshow(image, cmap="gray_r", aspect="auto")
    axes[0].set_title("the image", fontsize=10)
    axes[0].set_ylabel("row (time step)")
    for panel, (name, values) in zip(axes[1:], seen.items(), strict=True):
        limit = 4 if name == "cell" else 1
        style = dict(cmap="Blues", vmin=0, vmax=1) if name in GATES else dict(cmap="RdBu_r", vmin=-limit, vmax=limit)
        drawn = panel.imshow(values[:, order], aspect="auto", interpolation="nearest", **style)
        panel.set_title(
            {"cell": "memory c", "hidden": "hidden h"}.get(name, f"{name} {'gate' if name in GATES else ''}"),
            fontsize=10,
        )
        panel.set_xlabel("feature (sorted)", fontsize=8)
        figure.colorbar(drawn, ax=panel, location="bottom", shrink=0.8)
    plt.show()


show_gates(cells.LSTM(32), lstm_params, jnp.asarray(test_images[0]))

# %% [markdown]
# At the top there is no ink: gates and memory drift slowly. With the first stroke (row 8) the input gates part: some open, many
# close. Most of the memory is written along the stem. Streaks that run down the memory are things remembered: as long as the forget
# gate of a column is dark blue (near 1), what was written there stays. The hidden state shows only those parts of the memory
# whose output gate is open.
#
# One feature by itself makes it plainer. Here is the one whose memory is largest at the end:

# %%
seen = reading.read(cells.LSTM(32), lstm_params, jnp.asarray(test_images[0]))
feature = int(jnp.argmax(jnp.abs(seen["cell"][-1])))
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
lines = {"input": "#2a9d6f", "forget": "#1f5fa8", "output": "#8a8f98", "candidate": "#8e44ad", "cell": "#d9730d"}
for name, color in lines.items():
    label = {"cell": "memory c", "candidate": "candidate g"}.get(name, f"{name} gate")
    axes.plot(seen[name][:, feature], label=label, color=color, lw=3 if name == "cell" else 1.5)
axes.axhline(0, color="gray", lw=0.5)
axes.set_xlabel("row (time step)")
axes.set_title(f"feature no. {feature} while the digit {data.test.labels[0]} is read")
axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# Over the top rows little is taken in. Then the candidate keeps its sign while input and forget gate are open, so the memory
# adds up, row by row, and ends far outside of [-1, 1]: it counts. The output gate shows more and more of it towards the end.
#
# ## 5. Forget bias
#
# `cells.LSTM(forget_bias=1.0)` begins with $b_f = 1$. With all other weights at zero, a share $f^{27}$ of what was written
# in the first row of a digit would be left after the last:

# %%
biases = np.linspace(-1, 4, 100)
figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
axes.semilogy(biases, sigmoid(biases) ** 27)
for bias in (0, 1, 3):
    left = sigmoid(float(bias)) ** 27
    axes.plot(bias, left, "o", color="#d9730d")
    axes.annotate(f"bias {bias}: {left:.1g}", (bias, left), xytext=(8, -10), textcoords="offset points")
axes.set_xlabel("forget bias")
axes.set_ylabel("memory left\nafter 27 steps")
plt.show()

# %% [markdown]
# Even bias 1 leaves little, yet far more than bias 0. It is only where training begins: in section 2 it helped; on digits, as
# section 8 shows, it hardly matters.
#
# ## 6. Peepholes and coupled gates
#
# **Peepholes** ([Gers & Schmidhuber 2000](https://doi.org/10.1109/IJCNN.2000.861302)): the gates of an LSTM see the hidden state, which is the memory *behind the output gate*.
# Where that gate is closed they do not know what the memory holds. With peepholes they see it: i and f the old memory, o the
# new one, each feature its own, weighted by $p$:
#
# $i = \sigma(\dots + p_i \odot c) \qquad f = \sigma(\dots + p_f \odot c) \qquad o = \sigma(\dots + p_o \odot c')$
#
# **Coupled gates** ([Greff et al. 2015](https://arxiv.org/abs/1503.04069)): $i = 1 - f$. What is taken in is what was forgotten: one gate fewer, and a memory that is
# an average, $c' = f \odot c + (1 - f) \odot g$, so it cannot leave [-1, 1].


# %%
def peephole_step(params, h, c, x):
    i, f, g, o = jnp.split(x @ params["kernel"] + h @ params["recurrent_kernel"] + params["bias"], 4, axis=1)
    p_i, p_f, p_o = params["peephole"]
    i, f = sigmoid(i + p_i * c), sigmoid(f + p_f * c)
    c = f * c + i * jnp.tanh(g)
    return sigmoid(o + p_o * c) * jnp.tanh(c), c


def coupled_step(params, h, c, x):
    f, g, o = jnp.split(x @ params["kernel"] + h @ params["recurrent_kernel"] + params["bias"], 3, axis=1)
    f = sigmoid(f)
    c = f * c + (1 - f) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(c), c


# peepholes begin at zero, where there would be nothing to compare
peephole = cells.LSTM(32, peephole=True, peephole_init=jax.nn.initializers.normal(1.0))
for cell, by_hand in (peephole, peephole_step), (cells.LSTM(32, coupled=True), coupled_step):
    params = cell.init(jax.random.key(3), input_size=2)
    h = c = jnp.zeros((64, 32))
    for t in range(20):
        h, c = by_hand(params, h, c, inputs[:, t])
    state, _ = flaxrnn.scan(cell, params, inputs[:, :20])
    print(f"{by_hand.__name__:14} largest difference in h {jnp.max(jnp.abs(h - state.hidden)):.1e}")

# %% [markdown]
# What an average does to the memory, seen on an input that never changes: an LSTM can *count*, its memory grows for as long
# as both gates are open; a coupled one only settles at its candidate, here tanh(1) = 0.76.

# %%
settings = {  # all weights are zero, so that these biases alone hold the gates where they are
    "LSTM": (cells.LSTM(1), [6.0, 6.0, 1.0, 0.0]),  # i, f, g, o
    "coupled LSTM": (cells.LSTM(1, coupled=True), [2.0, 1.0, 0.0]),  # f, g, o
}
figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
for name, (cell, bias) in settings.items():
    zeros = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(4), input_size=1))
    seen = reading.read(cell, zeros | {"bias": jnp.array(bias)}, jnp.zeros((40, 1)))
    axes.plot(seen["cell"][:, 0], label=name)
axes.set_xlabel("time step")
axes.set_ylabel("memory c")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## 7. The GRU, in both conventions
#
# The gated recurrent unit ([Cho et al. 2014](https://arxiv.org/abs/1406.1078v3)) has no memory apart from its hidden state. The update gate z says how much of it is
# kept, the reset gate r how much of it the candidate sees:
#
# | | formula |
# |---|---|
# | reset gate | $r = \sigma(x U_r + h W_r + b_r)$ |
# | update gate | $z = \sigma(x U_z + h W_z + b_z)$ |
# | candidate, as in the published paper (`reset_after=False`) | $n = \tanh(x U_n + (r \odot h) W_n + b_n)$ |
# | candidate, as in cuDNN, torch, Flax (`reset_after=True`, the default) | $n = \tanh(x U_n + r \odot (h W_n + b_n') + b_n)$ |
# | hidden state | $h' = z \odot h + (1 - z) \odot n$ |
#
# In the second, all products with $h$ are one product, so it is faster. Beware of z: some papers and frameworks swap z and 1 - z.


# %%
def gru_step(params, h, x, reset_after):
    U_r, U_z, U_n = jnp.split(params["kernel"], 3, axis=1)
    W_r, W_z, W_n = jnp.split(params["recurrent_kernel"], 3, axis=1)
    b_r, b_z, b_n = jnp.split(params["bias"], 3)
    r = sigmoid(x @ U_r + h @ W_r + b_r)
    z = sigmoid(x @ U_z + h @ W_z + b_z)
    if reset_after:
        n = jnp.tanh(x @ U_n + r * (h @ W_n + params["recurrent_bias"]) + b_n)
    else:
        n = jnp.tanh(x @ U_n + (r * h) @ W_n + b_n)
    return z * h + (1 - z) * n


final = {}
for reset_after in (True, False):
    cell = cells.GRU(32, reset_after=reset_after)
    params = cell.init(jax.random.key(5), input_size=2)
    h = jnp.zeros((64, 32))
    for t in range(20):
        h = gru_step(params, h, inputs[:, t], reset_after)
    state, _ = flaxrnn.scan(cell, params, inputs[:, :20])
    print(f"reset_after={reset_after!s:5}  largest difference in h {jnp.max(jnp.abs(h - state.hidden)):.1e}")
    final[reset_after] = h
print(f"between the two, with the same weights: {jnp.max(jnp.abs(final[True] - final[False])):.2f}")

# %% [markdown]
# They are different functions of the same weights: weights that were trained in one convention are wrong in the other. Which is
# better as a network is hard to tell:
#
# ## 8. All of them on digits
#
# Each is trained for the same short time:

# %%
variants = {
    "Elman": cells.Elman(32),
    "LSTM": cells.LSTM(32),
    "LSTM, forget bias 0": cells.LSTM(32, forget_bias=0.0),
    "LSTM, peepholes": cells.LSTM(32, peephole=True),
    "LSTM, coupled gates": cells.LSTM(32, coupled=True),
    "GRU": cells.GRU(32),
    "GRU of the paper": cells.GRU(32, reset_after=False),
}
results = {name: train_on_digits(cell) for name, cell in variants.items()}

print(f"{'network':22}{'parameters':>10}{'test accuracy':>16}")
for name, (params, accuracy) in results.items():
    print(f"{name:22}{sum(array.size for array in params.values()):10,}{accuracy:16.1%}")

# %% [markdown]
# One run each: the table shows that gates help, but it cannot rank the gated networks, which lie close together. Note the
# parameters: the coupled LSTM and the GRU have a quarter fewer. `python -m train.compare` makes such a table from several seeds.
#
# The LSTM's gates above, and here the GRU's while it reads the same digit:

# %%
show_gates(cells.GRU(32), results["GRU"][0], jnp.asarray(test_images[0]))

# %% [markdown]
# Dark columns of the update gate keep their state over many rows: they are the GRU's memory.
#
# ## Exercises
#
# 1. Draw the first picture again with inputs ten times as large, and a tenth as large. What happens to the Elman network, and why?
# 2. Multiply the Elman network's `recurrent_kernel` by 1.5, then by 3, before measuring its gradients (take out `set_ylim`). With
#    which of them does the gradient explode, and why is 1.5 not enough?
# 3. Let the Elman network add over 20 steps, and the LSTM over 200. Where does each begin to fail in 1,000 training steps?
# 4. A GRU has no forget bias, but `bias_init` can set the bias of its update gate. Write one that begins with z near 0.95, and draw
#    its line into the first picture.
# 5. Find the feature of the trained LSTM that is best at telling whether a row with ink has come yet. When does its input gate open?

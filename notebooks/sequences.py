# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sequences: lengths, masks, packing, both directions, streams
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/flaxrnn/flaxrnn/blob/main/notebooks/sequences.ipynb)
#
# Real sequences differ in length, have gaps, come bit by bit, or never end. After this notebook you can
#
# - train on a batch of sequences of different lengths, and know that the padding does not count;
# - leave out steps anywhere, and pack many short sequences into a few rows;
# - read in both directions, and stack layers;
# - run a network over a stream, and carry its state from batch to batch (truncated backpropagation).
#
# You should know `jax.jit` and `jax.grad`, and what a recurrent network is. It takes about a minute on a CPU.

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

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import flaxrnn
from flaxrnn import RNN, Bidirectional, Stack, cells
from train.pictures.style import BLUE, GREY, ORANGE, plain

SMALL = "NOTEBOOK_SMALL" in os.environ  # the tests run it in a small size
jax.config.update("jax_default_matmul_precision", "float32")  # numbers are compared below
print(jax.devices())

# %% [markdown]
# ## A network that you can follow in your head
#
# For the pictures we use a network that adds up its inputs: an `Elman` cell computes $h' = f(xU + hW + b)$, and with
# $U = W = 1$, $b = 0$ and the identity for $f$ that is a running sum. `flaxrnn.scan` runs a cell over inputs
# `[batch, time, features]`, and gives back the final state and the output of each step.

# %%
adder = cells.Elman(1, activation=jax.nn.identity)
adder_params = {
    "kernel": jnp.ones([1, 1]),
    "recurrent_kernel": jnp.ones([1, 1]),
    "bias": jnp.zeros([1]),
}

state, outputs = flaxrnn.scan(adder, adder_params, jnp.array([[[1.0], [2.0], [3.0], [4.0]]]))
print("outputs:    ", outputs[0, :, 0])
print("final state:", state.hidden[0])

# %% [markdown]
# ## Lengths
#
# A batch is one array, so shorter sequences are padded. `lengths` says how many steps of each are valid. We pad with
# 99, to see whether it gets into the sums.

# %%
sequences = [[1, 2, 3, 4, 5, 6], [10, 20, 30, 40], [5, 5]]
lengths = jnp.array([len(sequence) for sequence in sequences])
padded = np.full([3, 6, 1], 99.0, np.float32)
for row, sequence in zip(padded, sequences, strict=True):
    row[: len(sequence), 0] = sequence

state, outputs = flaxrnn.scan(adder, adder_params, padded, lengths=lengths)
print("final state:", state.hidden[:, 0])

# %% [markdown]
# The final state of each sequence is its sum, without any 99: behind the last valid step the state is held, and the
# output is zero. The picture shows each step; colours are sequences, grey is padding.


# %%
COLOURS = [BLUE, ORANGE, "#2e8b57", "#8e44ad", "#b8860b", "#c0392b"]


def draw(axes, values, owners, title):
    """Draws `values` `[rows, time]` as numbers in boxes; `owners` says whose a box is, -1 that it is padding."""
    for (row, step), value in np.ndenumerate(np.asarray(values)):
        owner = owners[row, step]
        colour = COLOURS[owner % len(COLOURS)] if owner >= 0 else GREY
        box = plt.Rectangle((step, row), 0.94, 0.9, color=colour, alpha=0.25, linewidth=0)
        axes.add_patch(box)
        text_colour = "black" if owner >= 0 else GREY
        axes.text(step + 0.47, row + 0.47, f"{value:g}", ha="center", va="center", color=text_colour)
    rows, steps = np.shape(values)
    axes.set(xlim=(0, steps), ylim=(rows, 0), title=title, xlabel="time step", ylabel="row of the batch")
    axes.set_xticks(np.arange(steps) + 0.47, np.arange(steps))
    axes.set_yticks(np.arange(rows) + 0.47, np.arange(rows))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


owners = np.where(np.arange(6) < lengths[:, None], np.arange(3)[:, None], -1)
_, panels = plt.subplots(1, 2, figsize=(9, 2.4), layout="constrained")
draw(panels[0], padded[..., 0], owners, "inputs")
draw(panels[1], outputs[..., 0], owners, "outputs: running sums")
plt.show()

# %% [markdown]
# ## Padding never counts, not even NaN
#
# Padding may hold anything, and a NaN is the hardest test: `0 * nan` is `nan`, so a loss that is multiplied by zero in
# the padding still has NaN for its gradient. Here is a GRU with a loss over the valid steps, first in the way that
# suggests itself: run over everything, then leave out what lies in the padding.

# %%
gru = cells.GRU(hidden_size=8)
gru_params = gru.init(jax.random.key(0), input_size=3)
clean = jax.random.normal(jax.random.key(1), [3, 6, 3])  # [batch, time, features]
valid = jnp.arange(6) < lengths[:, None]
spoilt = jnp.where(valid[..., None], clean, jnp.nan)


def naive_loss(params, inputs):
    _, outputs = flaxrnn.scan(gru, params, inputs)
    return jnp.sum(jnp.where(valid[..., None], outputs**2, 0))


value, gradient = jax.value_and_grad(naive_loss)(gru_params, spoilt)
print(f"loss {value:.4f}, gradient of the bias: {gradient['bias'][:3]} ...")

# %% [markdown]
# The loss is right and the gradient is NaN: backwards, zero times NaN comes in. With `lengths`, loss and gradients are
# those of clean padding, to the last bit.


# %%
def loss(params, inputs):
    _, outputs = flaxrnn.scan(gru, params, inputs, lengths=lengths)
    return jnp.sum(outputs**2)


clean_results = jax.value_and_grad(loss, argnums=(0, 1))(gru_params, clean)
spoilt_results = jax.value_and_grad(loss, argnums=(0, 1))(gru_params, spoilt)
assert jax.tree.all(jax.tree.map(jnp.array_equal, clean_results, spoilt_results))
value, (gradient, input_gradient) = spoilt_results
print(f"loss {value:.4f}, gradient of the bias: {gradient['bias'][:3]} ...")
print("largest gradient of an input in the padding:", jnp.max(jnp.abs(input_gradient[~valid])))

# %% [markdown]
# ## What is known at the end
#
# A classifier reads the last *valid* output. `outputs[:, -1]` is not that; it is zero for the shorter sequences. Take
# the final state, or, where you have only outputs, `flaxrnn.last(outputs, lengths)`.

# %%
state, outputs = flaxrnn.scan(gru, gru_params, clean, lengths=lengths)
print("outputs[:, -1]:", outputs[:, -1, 0])
print("flaxrnn.last:  ", flaxrnn.last(outputs, lengths)[:, 0])
print("state.hidden:  ", state.hidden[:, 0])
assert jnp.allclose(flaxrnn.last(outputs, lengths), state.hidden, atol=1e-4)

# %% [markdown]
# ## Masks
#
# A `mask` leaves out any steps: a sensor that failed, a token to skip. It is the same as if those steps were not there.
# The state is held across them, and their outputs are zero.

# %%
mask = jnp.array([[True, False, True, True, False, True]])
steps = jnp.array([[1.0, 99.0, 3.0, 4.0, 99.0, 6.0]])
state, outputs = flaxrnn.scan(adder, adder_params, steps[..., None], mask=mask)
short_state, _ = flaxrnn.scan(adder, adder_params, steps[:, mask[0], None])
print("outputs:", outputs[0, :, 0])
print("final state:", state.hidden[0], "- without those steps:", short_state.hidden[0])
assert jnp.allclose(state.hidden, short_state.hidden)

# %% [markdown]
# ## Packed sequences
#
# Where lengths differ much, most of a padded batch is padding, and it is computed all the same. Instead, several
# sequences can stand one after the other in a row. This packs each into the first row that has room for it, the longest
# first.


# %%
def pack(lengths, row_size):
    """Puts sequences into rows; says for each row which ones are in it."""
    rows = []
    for number in np.argsort(-lengths):
        room = (row for row in rows if lengths[row].sum() + lengths[number] <= row_size)
        row = next(room, None)
        if row is None:
            rows.append([number])
        else:
            row.append(number)
    return rows


def owners_of(rows, lengths, row_size):
    """Whose each step of the rows is, `[rows, row_size]`; -1 for padding."""
    filled = [np.repeat(row, lengths[row]) for row in rows]
    return np.stack([np.pad(row, (0, row_size - len(row)), constant_values=-1) for row in filled])


row_size = 48
many_lengths = np.random.default_rng(3).geometric(1 / 12, 24).clip(3, row_size)
rows = pack(many_lengths, row_size)
padded_owners = owners_of([[number] for number in range(24)], many_lengths, row_size)
packed_owners = owners_of(rows, many_lengths, row_size)

# %%
colour_map = np.array([plt.matplotlib.colors.to_rgb(colour) for colour in [*COLOURS, "#e8e9eb"]])
_, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for axes, owners, name in zip(panels, (padded_owners, packed_owners), ("padded", "packed"), strict=True):
    axes.imshow(colour_map[np.where(owners < 0, -1, owners % len(COLOURS))], aspect="auto")
    share = np.mean(owners >= 0)
    axes.set(title=f"{name}: {len(owners)} rows, {share:.0%} used", xlabel="time step", ylim=(23.5, -0.5))
    axes.spines[:].set_visible(False)
panels[0].set_ylabel("row of the batch")
plt.show()

# %% [markdown]
# A coloured bar is a sequence, grey is padding that is computed for nothing. Without more, the network would carry
# what it remembers of one sequence into the next. `resets` marks the first step of each sequence, and there the state
# begins anew. With the adder:

# %%
few = np.array([[0, 0, 0, 1, 1, 2, 2, 2]])
resets = np.diff(few, axis=1, prepend=-1) != 0  # True where another sequence begins
values = jnp.array([[1.0, 2.0, 3.0, 10.0, 20.0, 5.0, 5.0, 5.0]])
_, outputs = flaxrnn.scan(adder, adder_params, values[..., None], resets=resets)
_, mixed = flaxrnn.scan(adder, adder_params, values[..., None])

_, panels = plt.subplots(1, 3, figsize=(11, 1.5), layout="constrained")
draw(panels[0], values, few, "inputs")
draw(panels[1], outputs[..., 0], few, "running sums with resets")
draw(panels[2], mixed[..., 0], few, "without")
for axes in panels:
    axes.set(ylabel="", yticks=[])
plt.show()

# %% [markdown]
# With resets each sum begins anew. For the 24 sequences above, the packed rows give what the padded ones give,
# sequence by sequence; lengths and resets go together, and `lengths` is now how much of each *row* is filled.

# %%
data = jax.random.normal(jax.random.key(2), [24, row_size, 3])  # [batch, time, features]
packed_inputs = np.zeros([len(rows), row_size, 3], np.float32)
for number, length in enumerate(many_lengths):
    packed_inputs[packed_owners == number] = data[number, :length]
marks = {
    "lengths": np.sum(packed_owners >= 0, axis=1),
    "resets": (np.diff(packed_owners, axis=1, prepend=-1) != 0) & (packed_owners >= 0),
}

_, padded_outputs = flaxrnn.scan(gru, gru_params, data, lengths=many_lengths)
_, packed_outputs = flaxrnn.scan(gru, gru_params, packed_inputs, **marks)


def compare_packed(padded_outputs, packed_outputs):
    """The largest difference between a sequence's outputs in its own row and among others."""
    padded_outputs, packed_outputs = np.asarray(padded_outputs), np.asarray(packed_outputs)
    return max(
        np.max(np.abs(packed_outputs[packed_owners == number] - padded_outputs[number, :length]))
        for number, length in enumerate(many_lengths)
    )


difference = compare_packed(padded_outputs, packed_outputs)
assert difference < 1e-4
print(f"{packed_inputs.shape} instead of {data.shape}, largest difference {difference:.1e}")

# %% [markdown]
# ## Both directions
#
# With `reverse=True` a cell reads from the end, and each sequence from *its own* last valid step. Outputs stay in the
# order of the inputs. A `Bidirectional` layer has a cell for each direction; with `merge=None` their outputs are a
# pair.
#
# A layer is used like a cell: `init` gives parameters, `apply` gives state and outputs, and takes `lengths`, `mask` and
# `resets` as `scan` does.

# %%
both = Bidirectional(adder, adder, merge=None)
both_params = {"forward": adder_params, "backward": adder_params}
(forward_state, backward_state), (forwards, backwards) = both.apply(both_params, padded, lengths=lengths)

owners = np.where(np.arange(6) < lengths[:, None], np.arange(3)[:, None], -1)
_, panels = plt.subplots(1, 2, figsize=(9, 2.4), layout="constrained")
draw(panels[0], forwards[..., 0], owners, "forwards: sum of all so far →")
draw(panels[1], backwards[..., 0], owners, "← backwards: sum from here to the end")
plt.show()
print("final states:", forward_state.hidden[:, 0], backward_state.hidden[:, 0])

# %% [markdown]
# Backwards, the first sequence begins with its 6, the second with its 40 and the third with its last 5: at each one's
# own end. What each direction knows at its end is in the two final states; a classifier reads those. (At the last
# step, the backward cell has read one input only.)
#
# In packed rows, each sequence is read from both of its ends as well. Two bidirectional layers, one on the other, in
# packed and padded rows:

# %%
deep = Stack([Bidirectional(cells.GRU(8), cells.LSTM(6)), Bidirectional(cells.GRU(8), cells.GRU(8))])
deep_params = deep.init(jax.random.key(3), input_size=3)
_, padded_outputs = deep.apply(deep_params, data, lengths=many_lengths)
_, packed_outputs = deep.apply(deep_params, packed_inputs, **marks)

difference = compare_packed(padded_outputs, packed_outputs)
assert difference < 1e-4
print(f"outputs {packed_outputs.shape}, largest difference {difference:.1e}")

# %% [markdown]
# ## Stacks
#
# A `Stack` runs layers one on the other, and its state is the tuple of theirs. `dropout` lies between the layers and
# is on where `apply` gets a key, without which nothing is random; with `residual` each layer but the first adds its
# input to its output. Lengths reach every layer: NaN in the padding gets nowhere.

# %%
stack = Stack([RNN(cells.GRU(8)), RNN(cells.GRU(8)), RNN(cells.GRU(8))], dropout=0.2, residual=True)
stack_params = stack.init(jax.random.key(4), input_size=3)
_, evaluated = stack.apply(stack_params, clean, lengths=lengths)
_, same = stack.apply(stack_params, spoilt, lengths=lengths)
_, trained = stack.apply(stack_params, clean, lengths=lengths, key=jax.random.key(5))

assert jnp.array_equal(evaluated, same)
print("parameters:", ", ".join(stack_params))
print("in evaluation:     ", evaluated[0, 0, :4])
print("in training:       ", trained[0, 0, :4])

# %% [markdown]
# The last line differs from the one above it: dropout is on.
#
# ## Streams
#
# Sound from a microphone or text from a user comes bit by bit. `layer.stream` takes the next chunk and the state that
# the chunk before gave (`None` at first). Chunks may have any size, and give what the whole sequence gives.

# %%
signal = jnp.cumsum(jax.random.normal(jax.random.key(6), [1, 60, 3]), axis=1) / 4
sizes = [1, 14, 3, 1, 22, 8, 11]
for strategy in ("plain", "auto"):
    _, whole = stack.apply(stack_params, signal, strategy=strategy)
    state, parts = None, []
    for chunk in jnp.split(signal, np.cumsum(sizes)[:-1], axis=1):
        state, outputs = stack.stream(stack_params, state, chunk, strategy=strategy)
        parts.append(outputs)
    difference = jnp.max(jnp.abs(jnp.concatenate(parts, axis=1) - whole))
    assert difference < 1e-4
    print(f"{strategy}: largest difference between stream and whole {difference:.1e}")

# %%
_, axes = plt.subplots(figsize=(8, 3), layout="constrained")
axes.plot(whole[0, :, 0], color=GREY, alpha=0.4, linewidth=7, label="whole sequence at once")
begin = 0
for number, part in enumerate(parts):
    steps = np.arange(begin, begin + part.shape[1])
    label = "chunk by chunk" if number == 0 else None
    axes.plot(steps, part[0, :, 0], ".-", color=COLOURS[number % 2], label=label)
    begin += part.shape[1]
axes.set(xlabel="time step", ylabel="output, first feature")
axes.legend()
plain(axes)
plt.show()

# %% [markdown]
# The colour changes where a chunk ends, and the values go on as if nothing had happened. A strategy is how the steps
# are run: `plain` does one after the other, whatever the chunk, so the stream gives the whole's numbers to the last
# bit; the default may do many steps in one matrix product, and there the last digits may differ.
#
# A layer that reads backwards cannot stream: its first output needs the last input. It says so.

# %%
try:
    deep.stream(deep_params, None, data)
except ValueError as error:
    print(error)

# %% [markdown]
# ## State carried between batches: truncated backpropagation
#
# Some sequences are too long to train on as a whole. One then trains on windows, one after the other, and begins each
# window with the final state of the one before, while the gradient ends at the window's border (Williams & Peng 1990).
#
# The task: hold a value. At each step comes a number and, now and then, a trigger. The target is the number that came
# with the last trigger. Triggers come every 40 steps on average, windows have 20 steps: often the network must know
# what came in an earlier window.

# %%
WINDOW = 20
windows = 30 if SMALL else 1500


def make_signals(seed, batch, steps):
    """Inputs `[batch, steps, 2]`, a number and a trigger, and targets `[batch, steps]`."""
    generator = np.random.default_rng(seed)
    numbers = generator.uniform(-1, 1, [batch, steps])
    triggers = generator.random([batch, steps]) < 1 / 40
    triggers[:, 0] = True
    last_trigger = np.maximum.accumulate(np.where(triggers, np.arange(steps), 0), axis=1)
    targets = np.take_along_axis(numbers, last_trigger, axis=1)
    return np.stack([numbers, triggers], axis=-1).astype(np.float32), targets.astype(np.float32)


inputs, targets = make_signals(seed=0, batch=32, steps=windows * WINDOW)
print("inputs", inputs.shape, "targets", targets.shape)

# %% [markdown]
# The training step takes the state and gives back the next one. That is all there is to it: `jax.grad` differentiates
# within one call, so the state that comes in is a constant, and the gradient is truncated.

# %%
holder = RNN(cells.GRU(32))
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(5e-3, windows)))


def predict(params, state, inputs):
    state, outputs = holder.apply(params["rnn"], inputs, initial_state=state)
    return state, (outputs @ params["dense"])[..., 0]


@jax.jit
def train_step(params, optimizer_state, state, inputs, targets):
    def loss(params):
        next_state, predictions = predict(params, state, inputs)
        return jnp.mean((predictions - targets) ** 2), next_state

    (value, next_state), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state)
    return optax.apply_updates(params, updates), optimizer_state, next_state, value


def train(carry):
    """Trains window by window; with `carry` each window begins with the state that the one before gave."""
    params = {"rnn": holder.init(jax.random.key(0), input_size=2), "dense": jnp.zeros([32, 1])}
    optimizer_state, losses = optimizer.init(params), []
    state = initial = holder.initial_state((32,))
    for begin in range(0, windows * WINDOW, WINDOW):
        window = slice(begin, begin + WINDOW)
        state = state if carry else initial
        params, optimizer_state, state, value = train_step(
            params, optimizer_state, state, inputs[:, window], targets[:, window]
        )
        losses.append(value)
    return params, np.array(losses)


carried_params, carried_losses = train(carry=True)
forgetful_params, forgetful_losses = train(carry=False)

# %%
size = min(50, windows)
_, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for losses, name, colour in (
    (forgetful_losses, "each window begins at zero", ORANGE),
    (carried_losses, "state carried", BLUE),
):
    smooth = np.convolve(losses, np.ones(size) / size, mode="valid")
    axes.plot(np.arange(len(smooth)) + size, smooth, color=colour, label=name)
axes.set(xlabel="window", ylabel=f"squared error,\nmean of {size} windows", ylim=(0, None))
axes.legend(loc="center right")
plain(axes)
plt.show()

# %% [markdown]
# Where each window begins at zero the error stays high: it is impossible to know the value before the window's first
# trigger. With carried state it goes on falling, although no gradient ever reached further back than 20 steps: what
# is learned within a window, to hold a value, works across windows too.
#
# The two networks on a new signal, in windows, as they were trained:

# %%
test_inputs, test_targets = make_signals(seed=237, batch=1, steps=10 * WINDOW)


def predict_windows(params, carry):
    state, parts = None, []
    for window in np.split(test_inputs, 10, axis=1):
        state, predictions = predict(params, state if carry else None, window)
        parts.append(predictions[0])
    return np.concatenate(parts)


_, axes = plt.subplots(figsize=(9, 3), layout="constrained")
for border in range(0, 10 * WINDOW + 1, WINDOW):
    axes.axvline(border, color=GREY, alpha=0.4, linewidth=0.8)
axes.plot(test_targets[0], color="black", alpha=0.25, linewidth=6, label="target")
axes.plot(predict_windows(forgetful_params, carry=False), color=ORANGE, label="begins at zero")
axes.plot(predict_windows(carried_params, carry=True), color=BLUE, label="state carried")
axes.set(xlabel="time step (vertical lines: where a window begins)", ylabel="value held", ylim=(-1.3, 1.3))
axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.2), frameon=False)
plain(axes)
axes.grid(False, axis="x")
plt.show()

# %% [markdown]
# The orange line falls to zero at each border and waits for the next trigger. The blue one holds.
#
# Carried state and resets go together: what `initial_state` brings belongs to the sequence that the row is in the
# midst of, and at a reset a new one begins. So an endless corpus can be read in windows, in which documents end where
# they may.

# %%
carried = cells.HiddenState(jnp.array([[100.0]]))  # the sum so far
values, resets = jnp.array([[1.0, 2.0, 3.0, 4.0]]), jnp.array([[False, False, True, False]])
state, outputs = flaxrnn.scan(adder, adder_params, values[..., None], initial_state=carried, resets=resets)
print("outputs:", outputs[0, :, 0], "- carried on:", state.hidden[0])

# %% [markdown]
# ## Exercises
#
# 1. Give `padded` a sequence of length zero. What are its outputs and its final state? What does `flaxrnn.last` give?
# 2. Predict what the adder gives for a row with a mask *and* a reset at a step that the mask leaves out. Then try it.
# 3. The final `state` of a packed row is that of its last sequence. Write a function that picks the final hidden
#    state of every packed sequence from the outputs. What must be done for the backward cell of a `Bidirectional`?
# 4. Time a training step (loss and gradient, under `jit`, with `block_until_ready`) of a `GRU(256)` on 200 sequences,
#    padded and packed. How much of the saved steps becomes saved time?
# 5. In the hold task, make the windows 5 steps long, or the triggers ten times as rare. When does truncated
#    backpropagation no longer learn to hold? Does a larger forget bias (an `LSTM` with `forget_bias=3.0`) help?

# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training on many devices
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/flaxrnn/flaxrnn/blob/main/notebooks/tpu_data_parallel.ipynb)
#
# After this notebook you can
#
# - train one network on all devices of a TPU host or a machine with GPUs, without a change to the training step,
# - check that the result is that of one device, and measure what each further device brings,
# - compute in bfloat16 with parameters in float32,
# - split the network itself where it is too large, here and with `python -m train.mnist`.
#
# You should know `jax.jit`, `jax.grad` and [optax](https://optax.readthedocs.io). It runs on any number of devices. Where
# there is only a CPU, JAX makes eight virtual devices of it: all is computed as on eight real ones, but on the same cores,
# so it gets hardly faster: the measurements of speed are meant for real devices. It takes one to two minutes on a CPU.

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
# The number of virtual devices must be set before JAX first looks for devices. Where JAX finds a TPU or a GPU the line does
# nothing.

# %%
import collections
import functools
import math
import os
import re
import time

import jax

jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import flaxrnn
from flaxrnn import cells
from train.data import mnist

SMALL = "NOTEBOOK_SMALL" in os.environ  # the tests run it in a small size
ON_CPU = jax.default_backend() == "cpu"
devices = jax.devices()
print(jax.devices())

# %% [markdown]
# ## A training step
#
# MNIST's digits are read row by row: `[batch, 28, 28]` is a batch of sequences of 28 steps with 28 features each. A real
# device is only busy with large batches and networks, a CPU is busy soon. A batch is to be cut into equal parts for 1, 2, 4 and
# so on up to all devices, so its size is rounded up to a multiple of these numbers.

# %%
hidden_size, batch_size = (64, 512) if ON_CPU else (512, 4096)
if SMALL:
    hidden_size, batch_size = 16, 64
counts = [2**k for k in range(len(devices).bit_length()) if 2**k < len(devices)] + [len(devices)]
batch_size = math.ceil(batch_size / math.lcm(*counts)) * math.lcm(*counts)
digits = mnist.load().train


def make_batch(number, size=batch_size):
    chosen = np.random.default_rng(number).integers(0, len(digits.labels), size)
    return mnist.to_float(digits.images[chosen]), digits.labels[chosen]


images, labels = make_batch(0)
print("images", images.shape, "labels", labels.shape, "numbers of devices", counts)

# %% [markdown]
# A GRU reads the rows, and a dense layer says from its final state which digit it was. `dtype` is what the network computes
# in; it comes up below, in the section on bfloat16.

# %%
layer = flaxrnn.RNN(cells.GRU(hidden_size))
optimizer = optax.adam(3e-3)


def begin(key):
    layer_key, dense_key = jax.random.split(key)
    kernel = jax.nn.initializers.lecun_normal()(dense_key, [hidden_size, 10])
    dense = {"kernel": kernel, "bias": jnp.zeros(10)}
    params = {"layer": layer.init(layer_key, input_size=28), "dense": dense}
    return params, optimizer.init(params)


def loss(params, batch, dtype):
    images, labels = batch
    params, images = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, images))
    state, _ = layer.apply(params["layer"], images)
    logits = state.hidden @ params["dense"]["kernel"] + params["dense"]["bias"]
    logits = logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# %% [markdown]
# The step knows nothing of devices. This is the whole of it, for one device and for a thousand.


# %%
@functools.partial(jax.jit, static_argnames="dtype")
def step(training_state, batch, dtype="float32"):
    params, moments = training_state
    value, gradient = jax.value_and_grad(loss)(params, batch, dtype)
    updates, moments = optimizer.update(gradient, moments, params)
    return (optax.apply_updates(params, updates), moments), value


# %% [markdown]
# First on one device, as a reference. GPUs and TPUs multiply matrices of float32 with fewer digits by default; where losses
# are compared, they are asked for all of them.


# %%
def train(training_state, steps, place, dtype="float32"):
    losses = []
    for number in range(steps):
        training_state, value = step(training_state, place(make_batch(number)), dtype)
        losses.append(float(value))
    return np.array(losses)


steps = 5 if SMALL else 40
begun = begin(jax.random.key(0))
with jax.default_matmul_precision("float32"):
    losses_of_one = train(begun, steps, jax.device_put)
print(f"loss {losses_of_one[0]:.3f} at first, {losses_of_one[-1]:.3f} after {steps} steps")

# %% [markdown]
# ## A mesh of all devices
#
# A mesh is a grid of devices with a name for each axis. Here it has one axis, "data". A `NamedSharding` says how an array lies
# on it: `PartitionSpec("data")` cuts the first axis of an array, the batch, into one part for each device;
# `PartitionSpec()` puts a whole copy on each. With `AxisType.Auto` the compiler decides how everything in between lies.


# %%
def data_mesh(count):
    axis_types = (AxisType.Auto,)
    return jax.make_mesh((count,), ("data",), axis_types, devices=devices[:count])


mesh = data_mesh(len(devices))
split = NamedSharding(mesh, PartitionSpec("data"))
copied = NamedSharding(mesh, PartitionSpec())

training_state = jax.device_put(begun, copied)
images, labels = jax.device_put(make_batch(0), split)
print("images:", images.shape, "on each device", images.addressable_shards[0].data.shape)

# %% [markdown]
# The first images of each part, as they lie on the first eight devices:

# %%
shards = images.addressable_shards[:8]
fig, axes = plt.subplots(len(shards), figsize=(6, 0.48 * len(shards) + 0.5), squeeze=False)
for ax, shard in zip(axes.flat, shards, strict=True):
    strip = np.concatenate(list(np.asarray(shard.data[:12])), axis=1)
    ax.imshow(strip, cmap="gray_r")
    ax.set(xticks=[], yticks=[])
    first, last = shard.index[0].start or 0, shard.index[0].stop or len(images)
    name = f"device {shard.device.id}: images {first} to {last - 1}"
    ax.set_ylabel(name, rotation=0, ha="right", va="center")
fig.suptitle("One batch, split over the axis data")
fig.tight_layout()
plt.show()

# %% [markdown]
# ## The same losses
#
# The same function now runs on all devices: it is compiled anew, since its arguments lie differently, and each device computes
# with its part of the batch.

# %%
with jax.default_matmul_precision("float32"):
    losses_of_all = train(training_state, steps, functools.partial(jax.device_put, device=split))
difference = np.abs(losses_of_all - losses_of_one).max()
assert difference < 1e-2
print(f"largest difference of a loss: {difference:.0e}")

# %%
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(losses_of_one, label="one device")
ax.plot(losses_of_all, "o", mfc="none", label=f"a mesh of all {len(devices)}")
ax.set(xlabel="training step", ylabel="loss", ylim=(0, None))
ax.legend(frameon=False)
fig.tight_layout()
plt.show()

# %% [markdown]
# The losses are equal but for rounding: sums over the batch are added in another order, and from step to step such differences
# grow a little.
#
# ## What the compiler added
#
# The loss is a mean over the batch, and so is its gradient. Each device can form the sum over its own part; then the sums of all
# must be added, an *all-reduce*. The compiler put it in. The compiled program shows where devices talk to each other:


# %%
def communication(training_state, batch):
    program = step.lower(training_state, batch).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    found = re.findall(rf" ({kinds})(?:-start)?\(", program)
    return dict(collections.Counter(found)) or "none"


among_all = communication(training_state, (images, labels))
print("one device: ", communication(begun, make_batch(0)))
print(f"mesh of {len(devices)}:  ", among_all)
size = sum(leaf.size for leaf in jax.tree.leaves(training_state[0]))
print(f"to be added in each step: the gradient, {size:,} numbers, and the loss")

# %% [markdown]
# What devices exchange does not depend on the size of the batch. So the larger the part of each device, the less it matters.
#
# ## What further devices bring
#
# Two questions, with two answers. *Strong scaling*: the batch stays as it is, and each device gets less of it; the training is
# the same, and ends sooner. *Weak scaling*: each device gets a batch as large as the one that a single device had; more images are
# read in the same time, but in larger batches, with which the learning rate usually has to change.


# %%
def images_per_second(count, size, dtype="float32", repeats=2 if SMALL else 5):
    mesh = data_mesh(count)
    training_state = jax.device_put(begun, NamedSharding(mesh, PartitionSpec()))
    batch = jax.device_put(make_batch(0, size), NamedSharding(mesh, PartitionSpec("data")))
    seconds = []
    for _ in range(repeats + 2):  # the first two compile and warm up
        start = time.perf_counter()
        training_state, _ = jax.block_until_ready(step(training_state, batch, dtype))
        seconds.append(time.perf_counter() - start)
    return size / min(seconds[2:])


measured = counts if not SMALL else sorted({1, len(devices)})
strong = [images_per_second(count, batch_size) for count in measured]
weak = [images_per_second(count, batch_size * count) for count in measured[1:]]
weak = [strong[0], *weak]  # on one device they are the same
for count, *rates in zip(measured, strong, weak, strict=True):
    print(f"{count:3} devices: strong {rates[0]:9,.0f}, weak {rates[1]:9,.0f} images/s")

# %%
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(measured, measured, "--", color="gray", label="ideal")
ax.plot(measured, np.array(weak) / weak[0], "o-", label=f"weak: {batch_size} images per device")
ax.plot(measured, np.array(strong) / strong[0], "s-", label=f"strong: {batch_size} images in all")
ax.set_xscale("log", base=2)
ax.set_yscale("log", base=2)
ax.set(xticks=measured, xticklabels=measured, yticks=measured, yticklabels=measured)
ax.set(xlabel="devices", ylabel="images per second\n(one device: 1)")
ax.set_title("virtual devices, all on one CPU" if ON_CPU else devices[0].device_kind)
ax.legend(frameon=False)
fig.tight_layout()
plt.show()
if ON_CPU:
    print(f"virtual devices share {os.cpu_count()} CPU cores: more devices add no speed beyond these")

# %% [markdown]
# What to expect on real devices (this page was made on a CPU): the weak curve lies near the ideal one as long as the all-reduce is short beside the rest of the step; the strong
# one leaves it earlier, since a small part of a batch no longer keeps a device busy. A recurrent network leaves it earlier than
# others, since its 28 steps in time wait for each other however few images there are. On virtual devices both show only what it
# costs to divide the work: what one of them leaves idle of the cores a second
# may use, and beyond that they share. The rest of the ups and downs is noise.
#
# ## bfloat16
#
# A number in bfloat16 has the range of float32 but only 8 bits of precision. TPUs and recent GPUs multiply matrices of such
# numbers several times as fast, and they take half the memory. (On TPUs JAX rounds the factors of a product of float32 to
# bfloat16 by default, so that what is left to gain there is memory.) Parameters stay in float32, because the small updates of an
# optimizer would be rounded away; the loss above casts them for each step. flaxrnn's gates are computed in float32 then too.

# %%
steps = 5 if SMALL else 80
place = functools.partial(jax.device_put, device=split)
losses = {dtype: train(training_state, steps, place, dtype) for dtype in ("float32", "bfloat16")}
speed = {dtype: images_per_second(len(devices), batch_size, dtype) for dtype in losses}

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3), width_ratios=[2, 1])
for (dtype, values), style in zip(losses.items(), ("-", "--"), strict=True):
    left.plot(values, style, label=dtype, linewidth=2)
left.set(xlabel="training step", ylabel="loss", ylim=(0, None))
left.legend(frameon=False)
right.bar(list(speed), list(speed.values()), color=["C0", "C1"])
right.set(ylabel="images per second")
fig.tight_layout()
plt.show()
print(f"loss at the end: {', '.join(f'{losses[dtype][-1]:.3f} in {dtype}' for dtype in losses)}")
print(f"bfloat16 is {speed['bfloat16'] / speed['float32']:.2f} times as fast as float32 here")
if ON_CPU:
    print("(a CPU without bfloat16 of its own emulates it, and is slower for that)")

# %% [markdown]
# The two losses hardly differ; the times are what the hardware makes of it.
#
# ## A second axis: splitting the network
#
# So far each device holds all parameters, and the two moments that Adam keeps of each. Where these do not fit, a second axis of the
# mesh, "model", splits the columns of each matrix. The step is still the same function; only where the arrays lie changes. With
# an odd number of devices, such as one GPU, the axis has size 1, and nothing is split.

# %%
model_parts = 2 if len(devices) % 2 == 0 else 1
grid_shape = len(devices) // model_parts, model_parts
grid = jax.make_mesh(grid_shape, ("data", "model"), (AxisType.Auto, AxisType.Auto))


def columns_split(leaf):
    if leaf.ndim and leaf.shape[-1] % model_parts == 0:
        return NamedSharding(grid, PartitionSpec(*[None] * (leaf.ndim - 1), "model"))
    return NamedSharding(grid, PartitionSpec())


shardings = jax.tree.map(columns_split, begun)
training_state_in_grid = jax.device_put(begun, shardings)
rows_split = NamedSharding(grid, PartitionSpec("data"))
print(f"mesh: {dict(grid.shape)}")

# %% [markdown]
# Which devices hold which part of the recurrent kernel, on the first mesh and on this one:

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 2.6))
for ax, state in zip(axes, (training_state, training_state_in_grid), strict=True):
    kernel = state[0]["layer"]["recurrent_kernel"]
    owners = collections.defaultdict(list)
    for device, (_, part) in kernel.sharding.devices_indices_map(kernel.shape).items():
        owners[part.indices(kernel.shape[1])[:2]].append(device.id)
    for color, ((first, last), ids) in enumerate(sorted(owners.items())):
        ax.axvspan(first, last, color=plt.get_cmap("Set2")(color))
        ids = ", ".join(map(str, sorted(ids)[:8])) + (" ..." if len(ids) > 8 else "")
        ax.text((first + last) / 2, len(kernel) / 2, f"devices\n{ids}", ha="center", va="center")
    shape = ", ".join(f"{axis}: {size}" for axis, size in kernel.sharding.mesh.shape.items())
    ax.set(title=f"mesh of {shape}", xlim=(0, kernel.shape[1]), ylim=(len(kernel), 0))
    ax.set(xlabel="column of the recurrent kernel", ylabel="row")
fig.tight_layout()
plt.show()

# %% [markdown]
# Again the losses are the same. What is new is how much each device holds, and how much devices talk. Operations within the loop
# over time are counted once below, and happen at each of the 28 steps.

# %%
with jax.default_matmul_precision("float32"):
    place = functools.partial(jax.device_put, device=rows_split)
    losses_in_grid = train(training_state_in_grid, len(losses_of_one), place)
difference = np.abs(losses_in_grid - losses_of_one).max()
assert difference < 1e-2
print(f"largest difference of a loss: {difference:.0e}")

batch = jax.device_put(make_batch(0), rows_split)
in_grid = communication(training_state_in_grid, batch)


def held(training_state):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(training_state))


print(f"data:            {held(training_state):9,} bytes on each device, {among_all}")
print(f"data and model:  {held(training_state_in_grid):9,} bytes on each device, {in_grid}")

# %% [markdown]
# The columns of a GRU's kernel are those of its gates, so each gate's part has to be brought to where the others are, at each step in
# time. For a network that fits on each device "data" alone is faster; "model" is for those that do not fit.
#
# ## The training program
#
# `python -m train.mnist` does the same. It always uses all devices, its `--mesh` is the grid, and its `train/devices.py` has the same few
# lines as this notebook:

# %%
from train import devices as program

program_mesh = program.make_mesh(f"data:{grid.shape['data']},model:{model_parts}", batch_size)
program_shardings = program.state_shardings(program_mesh, begun)
same = jax.tree.map(
    lambda ours, theirs, leaf: ours.is_equivalent_to(theirs, leaf.ndim),
    shardings,
    program_shardings,
    begun,
)
print("the shardings of all arrays are the same:", all(jax.tree.leaves(same)))

# %% [markdown]
# On eight devices, with the network split in two and computing in bfloat16:
#
#     python -m train.mnist --mesh=data:4,model:2 --precision=bfloat16
#
# Without `--mesh`, all devices are on "data". A CPU has eight devices there too after `export JAX_NUM_CPU_DEVICES=8`.
#
# Larger TPU slices and clusters have several hosts, each of which runs the same program in a process of its own and sees only its own
# devices directly. The command is the same on each, with a workdir that all of them see:
#
#     python -m train.mnist --distributed --workdir=SHARED_FOLDER
#
# `--distributed` calls `jax.distributed.initialize()`, after which `jax.devices()` has the devices of all hosts, and a mesh spans them. Two
# things then differ from this notebook. Each process reads only its own part of a batch, which
# `jax.make_array_from_process_local_data` puts together in place of `jax.device_put`; and only the first process writes and prints.
# `docs/training.md` says how to start it on TPU slices, with Slurm, and on one machine.

# %% [markdown]
# ## One kernel through all steps
#
# On a TPU, `strategy="pallas"` runs the whole sequence in one kernel, and its gradient in another, with the parameters and the state on
# the chip ([how it works](../docs/kernels_pallas.md)). It has been compiled for TPUs, and its numbers have been checked in Pallas's interpreter, but
# it has never run on a TPU. If this notebook runs on one, the next cell compares it with the plain loop and times both in a minute: please send
# what it prints. On other devices it runs a tiny network in the interpreter.

# %%
ON_TPU = jax.default_backend() == "tpu"
kernel = flaxrnn.strategies.Pallas(interpret=not ON_TPU)
cell = cells.LSTM(256 if ON_TPU else 8)
sequences = jax.random.normal(jax.random.key(0), [32, 256, 64] if ON_TPU else [2, 6, 3])
params = cell.init(jax.random.key(1), input_size=sequences.shape[-1])


def gradient(strategy):
    def loss(params, sequences):
        return jnp.sum(jnp.sin(flaxrnn.scan(cell, params, sequences, strategy=strategy)[1]))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def milliseconds(strategy):
    run, seconds = gradient(strategy), []
    for _ in range(12):
        start = time.perf_counter()
        jax.block_until_ready(run(params, sequences))
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds[2:])


with jax.default_matmul_precision("float32"):
    pairs = zip(*(jax.tree.leaves(gradient(one)(params, sequences)) for one in (kernel, "plain")), strict=True)
    difference = max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)
print(f"largest difference from plain: {difference:.0e} on {devices[0].device_kind}{'' if ON_TPU else ', interpreted'}")
assert difference < 1e-3
if ON_TPU:
    print({str(name): round(milliseconds(name), 2) for name in ("plain", "fused", "pallas")}, "ms a training step")

# %% [markdown]
# ## Exercises
#
# 1. On how many devices could a batch of 96 be split evenly? What does `jax.device_put` say to another number?
# 2. Add dropout (`cells.GRU(hidden_size, recurrent_dropout=0.2)`, and a `key` that `loss` passes on to `layer.apply`). Are the losses
#    on the mesh still those of one device?
# 3. Double `hidden_size` until the weak curve of your devices comes near the ideal one. How does the time of a step grow?
# 4. Split only `kernel` over "model", and leave a copy of `recurrent_kernel` on each device. What does `communication` show now, and
#    which of it is left within the loop over time?
# 5. Make `step` pass each device's gradient in bfloat16 (`jax.shard_map` and `jax.lax.pmean`). Does it get faster, and does the loss
#    suffer?

"""`scan`: a cell over a whole sequence, with lengths, masks and resets, under any strategy."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp

from flaxrnn import checks, run_time_checks
from flaxrnn.axes import Axes
from flaxrnn.carry import shard_batch_like, shard_like_next, vary_like
from flaxrnn.cells.base import Cell, State, check_cell
from flaxrnn.reverse_mode import reverse_mode_only
from flaxrnn.strategies.auto import check_strategy, choose
from flaxrnn.strategies.base import Sequence, Steps, Strategy, select


def scan(
    cell: Cell,
    params: Any,
    inputs: jax.Array,
    *,
    initial_state: State | None = None,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    resets: jax.Array | None = None,
    reverse: bool = False,
    time_major: bool = False,
    strategy: str | Strategy = "auto",
    unroll: int = 1,
    key: jax.Array | None = None,
    check_at_run_time: bool = False,
) -> tuple[State, jax.Array]:
    """Runs a cell over a sequence.

    Args:
      cell: what happens in one time step.
      params: the cell's parameters.
      inputs: `[*batch, time, features]` with any number of batch axes, none included; any number of time steps,
        zero included. For a convolutional cell `[*batch, time, *spatial, channels]`.
      initial_state: the state before the first step; by default the cell's own, `cell.begin`.
      lengths: `[*batch]` integers, how many steps of each sequence are valid, counted from its beginning. The rest
        is padding. A length above the number of steps counts as that number, one below zero as zero; where the
        values are at hand when the call is made, outside `jit`, either is an error.
      mask: `[*batch, time]` booleans, False at the steps to leave out, anywhere in the sequence. With `lengths` a
        step must be valid by both. At a step left out the state is held and the output is zero. What lies in
        the padding never reaches an output, a state or a gradient, not even as NaN. (There the cell runs on zeros. One
        of your own whose derivative at zero is not finite, as that of a square root, must see to that itself.)
      resets: `[*batch, time]` booleans, True at the first step of each sequence, for sequences packed one after
        the other: there the state begins again as it does by default (what `initial_state` brought from an earlier
        call belongs to the first sequence alone). In reverse, too, no state crosses that border. A reset at a
        step that is left out does nothing.
      reverse: whether to read from the end, each sequence from its own last valid step. The outputs stay in
        the order of the inputs.
      time_major: whether `inputs`, `mask`, `resets` and the outputs have time as their first axis:
        `[time, *batch, features]`.
      strategy: how the steps are run. A name in `flaxrnn.STRATEGIES`: "plain", "fused" (faster, above all in the
        backward pass), "native" (fastest on the CPU, for gated cells) or "checkpointed" (least memory); an object with
        options, such as `flaxrnn.strategies.Checkpointed(segments=8)`; or "auto", which chooses one.
        `flaxrnn.explain` shows the choice. It affects speed and memory, not the result. Forward-mode derivatives
        (`jax.jvp`, `jax.jacfwd`) need "plain".
      unroll: how many steps XLA puts into one turn of its loop. It changes the speed and the compile time.
      key: where dropout and zoneout come from, in training; None turns them off, for evaluation. A cell without
        either does the same with a key as without.
      check_at_run_time: whether lengths out of range are an error under `jit` too, by `jax.experimental.checkify`. The
        function that `jit` compiles must then go through `checkify.checkify`, as in the second example.

    Returns:
      `(state, outputs)`, in the order of `jax.lax.scan`: the state after the last valid step of each sequence, and
      the outputs, `[*batch, time, cell.output_size]`, with the spatial axes of the inputs before the last.

    Raises:
      TypeError, ValueError: if an argument does not fit the others; the message says what to pass.

    Example: two sequences, of which the second has three valid steps.

      >>> import jax, flaxrnn
      >>> import jax.numpy as jnp
      >>> cell = flaxrnn.cells.LSTM(hidden_size=4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> inputs = jax.random.normal(jax.random.key(1), [2, 5, 3])
      >>> state, outputs = flaxrnn.scan(cell, params, inputs, lengths=jnp.array([5, 3]))
      >>> outputs.shape
      (2, 5, 4)
      >>> bool(jnp.array_equal(state.hidden[1], outputs[1, 2])), bool(jnp.all(outputs[1, 3:] == 0))
      (True, True)

    Example: lengths that are known only at run time, checked.

      >>> from jax.experimental import checkify
      >>> def run(lengths):
      ...     return flaxrnn.scan(cell, params, inputs, lengths=lengths, check_at_run_time=True)
      >>> error, _ = jax.jit(checkify.checkify(run))(jnp.array([5, 6]))
      >>> error.get().split(" (")[0]
      'lengths has 6 in it, but inputs has 5 time steps: pass lengths from 0 to 5'

    How it differs from other frameworks:
      The result does not depend on what lies in the padding, where Flax's and Haiku's scans compute on. Outputs in
      the padding are zero, as in TF1's `dynamic_rnn`, where Keras repeats the last one. With `reverse` the outputs
      are in the order of the inputs, where Keras's `go_backwards` and Flax's `reverse` turn them round. The state
      is always returned, and before the outputs.
    """
    check_cell(cell)
    axes = Axes(cell.feature_axes, bool(time_major))
    checks.check_inputs(inputs, axes)
    checks.check_lengths(lengths, inputs.shape, axes)
    checks.check_marks("mask", mask, inputs.shape, axes)
    checks.check_marks("resets", resets, inputs.shape, axes)
    checks.check_unroll(unroll)
    check_strategy(strategy)
    checks.check_leaves(params)
    if key is not None:
        checks.check_key(key)
    return _scan(
        cell,
        params,
        inputs,
        initial_state,
        lengths,
        mask,
        resets,
        key,
        axes=axes,
        reverse=bool(reverse),
        strategy=strategy,
        unroll=unroll,
        check_at_run_time=check_at_run_time,
    )


@functools.partial(jax.jit, static_argnames=("cell", "axes", "reverse", "strategy", "unroll", "check_at_run_time"))
def _scan(
    cell: Cell,
    params: Any,
    inputs: jax.Array,
    initial_state: State | None,
    lengths: jax.Array | None,
    mask: jax.Array | None,
    resets: jax.Array | None,
    key: jax.Array | None,
    *,
    axes: Axes,
    reverse: bool,
    strategy: str | Strategy,
    unroll: int,
    check_at_run_time: bool,
) -> tuple[State, jax.Array]:
    """`scan`, compiled once for a cell and its shapes, so that a second call outside `jit` compiles nothing."""
    time_axis = axes.time(inputs.shape)
    inputs = jnp.moveaxis(inputs, time_axis, 0)
    mask, resets = (marks if marks is None else jnp.moveaxis(marks, time_axis, 0) for marks in (mask, resets))
    checks.check_params(cell, params, inputs.shape[-1])
    batch_shape = inputs.shape[1:-1]
    reset_state = cell.begin(params, batch_shape, jnp.result_type(inputs, *jax.tree.leaves(params)))
    state = reset_state if initial_state is None else initial_state
    checks.check_state("initial_state", state, reset_state, batch_shape, f"; inputs is taken as {axes}")
    checks.check_state_dtypes(state, reset_state)
    reset_state, state = vary_like((params, inputs), (reset_state, state))
    reset_state, state = shard_batch_like(inputs, slice(1, -1), (reset_state, state))
    checks.check_step(cell, params, state, jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype))

    if check_at_run_time and lengths is not None:
        run_time_checks.check_lengths(lengths, inputs.shape[0])
    mask = _valid_steps(inputs.shape[0], lengths, mask)
    if mask is not None:
        inputs = select(mask, inputs, jnp.zeros_like(inputs))
    if resets is not None and reverse:
        resets = _resets_from_the_end(resets, mask)
    if key is not None:
        params, inputs = cell.perturb(key, params, inputs)
    steps = Steps(inputs, mask, resets)
    reset_state, state = shard_like_next(functools.partial(_next_states, cell, params, steps), (reset_state, state))
    sequence = Sequence(cell, params, state, reset_state, steps, time_axis, reverse, unroll)
    chosen = choose(strategy, sequence).strategy
    if not chosen.forward_mode:
        params, state, reset_state, steps = reverse_mode_only((params, state, reset_state, steps), chosen.name)
        sequence = sequence._replace(params=params, state=state, reset_state=reset_state, steps=steps)
    final, outputs = chosen.run(sequence)
    chex.assert_trees_all_equal_shapes_and_dtypes(final, state)
    return final, outputs


def _next_states(cell: Cell, params: Any, steps: Steps, states: tuple[State, State]) -> tuple[State, State]:
    """What a step makes of the reset state and of the initial state."""
    inputs = jax.tree.map(lambda leaf: leaf[0], steps.inputs)
    after = functools.partial(cell.step, params, inputs=inputs)
    return after(states[0])[0], after(states[1])[0]


def _valid_steps(time: int, lengths: jax.Array | None, mask: jax.Array | None) -> jax.Array | None:
    """Which steps are valid by both `lengths` and `mask`, `[time, *batch]`; None if all are."""
    if lengths is None:
        return mask
    steps = jnp.arange(time).reshape(time, *(1,) * jnp.ndim(lengths))
    within = steps < lengths
    return within if mask is None else within & mask


def _resets_from_the_end(resets: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Moves each reset, `[time, *batch]`, to the step that is read right after it when reading from the end.

    A reset stands at the first step of a sequence. From the end that step is read last, and the state must begin
    again at the valid step that follows in reading order: the one before it in time.
    """
    time = resets.shape[0]
    if not time:
        return resets
    steps = jnp.arange(time).reshape(time, *(1,) * (resets.ndim - 1))
    valid = jnp.where(jnp.ones_like(resets) if mask is None else mask, steps, time)
    following = jax.lax.cummin(jnp.concatenate([valid, jnp.full_like(valid[:1], time)]), axis=0, reverse=True)[1:]
    resets = jnp.concatenate([resets, jnp.zeros_like(resets[:1])])
    return jnp.take_along_axis(resets, following, axis=0)

"""What must hold for any cell and any sequence."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from tests.compare import assert_close, assert_equal, normal, random_params, random_state
from tests.every import ALL, FEW, SOME
from tests.tiers import tiers

I = 3
seeds = st.integers(0, 2**31 - 1)
# few different shapes, since each is compiled anew
shapes = st.sampled_from([(1, 1), (2, 4), (3, 6)])


def drawn(seed, cell, shape):
    """Parameters, an initial state and inputs `[batch, time, features]`."""
    return random_params(cell, I, seed), random_state(cell, shape[:1], seed), jnp.asarray(normal(seed, *shape, I))


@pytest.mark.parametrize("name", tiers(ALL, FEW))
@hypothesis.given(seeds, st.integers(0, 6), st.booleans())
def test_a_sequence_split_in_two_and_carried_over_equals_the_whole(name, seed, at, reverse):
    cell = ALL[name]
    params, initial, inputs = drawn(seed, cell, (3, 6))
    resets = np.random.default_rng(seed).random((3, 6)) < 0.3
    if reverse:
        resets[:, at : at + 1] = False  # from the end, this reset would fall between the two calls
    run = functools.partial(flaxrnn.scan, cell, params, reverse=reverse)
    expected = run(inputs, initial_state=initial, resets=resets)
    beginning, end = slice(None, at), slice(at, None)
    first, second = (end, beginning) if reverse else (beginning, end)
    middle, first_outputs = run(inputs[:, first], initial_state=initial, resets=resets[:, first])
    final, second_outputs = run(inputs[:, second], initial_state=middle, resets=resets[:, second])
    parts = [second_outputs, first_outputs] if reverse else [first_outputs, second_outputs]
    assert_close((final, jnp.concatenate(parts, axis=1)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", tiers(ALL, SOME))
def test_padding_of_any_content_changes_nothing(name):
    cell = ALL[name]
    params, initial, inputs = drawn(7, cell, (4, 6))
    lengths = jnp.array([6, 3, 1, 0])
    valid = jnp.arange(6) < lengths[:, None]
    cotangent = normal(1, 4, 6, cell.output_size)

    @jax.jit
    def run(params, initial, inputs, cotangent, options):
        def loss(params, initial, inputs):
            state, outputs = flaxrnn.scan(cell, params, inputs, initial_state=initial, **options)
            ends = jax.tree.map(lambda s: jnp.sum(s**2), state)
            return jnp.sum(outputs * cotangent) + sum(ends), (state, outputs)

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(params, initial, inputs)

    clean = jnp.where(valid[..., None], inputs, 0)
    for options in ({"lengths": lengths}, {"mask": valid}):
        expected = run(params, initial, clean, cotangent, options)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(expected))
        for filler in (np.nan, np.inf, 1e30):
            dirty = jnp.where(valid[..., None], inputs, filler)
            assert_equal(run(params, initial, dirty, cotangent, options), expected)
    (_, (state, outputs)), _ = expected
    assert_equal(outputs * ~valid[..., None], jnp.zeros_like(outputs))
    assert_equal(jax.tree.map(lambda s: s[3], state), jax.tree.map(lambda s: s[3], initial))


@pytest.mark.parametrize("name", tiers(ALL, FEW))
@hypothesis.given(seeds, shapes)
def test_reversed_twice_is_the_identity(name, seed, shape):
    cell = ALL[name]
    params, state, inputs = drawn(seed, cell, shape)
    run = functools.partial(flaxrnn.scan, cell, params, initial_state=state)
    final, outputs = run(inputs)
    backwards_final, backwards = run(inputs[:, ::-1], reverse=True)
    assert_equal((backwards_final, backwards[:, ::-1]), (final, outputs))


@pytest.mark.parametrize("name", tiers(ALL, FEW))
@hypothesis.given(seeds, st.booleans())
def test_reverse_with_lengths_reads_each_sequence_from_its_own_end(name, seed, reverse):
    cell = ALL[name]
    params, state, inputs = drawn(seed, cell, (4, 5))
    lengths = [5, 2, 1, 0]
    final, outputs = flaxrnn.scan(
        cell, params, inputs, initial_state=state, lengths=jnp.array(lengths), reverse=reverse
    )
    for row, length in enumerate(lengths):
        alone = jax.tree.map(lambda s, row=row: s[row], state)
        expected = flaxrnn.scan(cell, params, inputs[row, :length], initial_state=alone, reverse=reverse)
        ours = jax.tree.map(lambda s, row=row: s[row], final), outputs[row, :length]
        assert_close(ours, expected, rtol=1e-6)


@pytest.mark.parametrize("name", tiers(ALL, FEW))
@hypothesis.given(seeds, shapes)
def test_a_batch_equals_its_members_one_by_one(name, seed, shape):
    cell = ALL[name]
    params, state, inputs = drawn(seed, cell, shape)
    expected = flaxrnn.scan(cell, params, inputs, initial_state=state)
    run = functools.partial(flaxrnn.scan, cell, params)
    one_by_one = [run(x, initial_state=jax.tree.map(lambda s, n=n: s[n], state)) for n, x in enumerate(inputs)]
    assert_close(jax.tree.map(lambda *members: jnp.stack(members), *one_by_one), expected, rtol=1e-6)
    mapped = jax.vmap(lambda x, s: run(x, initial_state=s))(inputs, state)
    assert_close(mapped, expected, rtol=1e-6)


@pytest.mark.parametrize("name", tiers(ALL, FEW))
@hypothesis.given(seeds, st.booleans())
def test_a_mask_equals_deleting_the_masked_steps(name, seed, reverse):
    cell = ALL[name]
    params, state, inputs = drawn(seed, cell, (3, 6))
    random = np.random.default_rng(seed)
    keep = random.permutation(6) < 4
    resets = random.random((3, 6)) < 0.3
    run = functools.partial(flaxrnn.scan, cell, params, initial_state=state, reverse=reverse)
    final, outputs = run(inputs, mask=np.broadcast_to(keep, (3, 6)), resets=resets)
    expected = run(inputs[:, keep], resets=resets[:, keep])
    assert_close((final, outputs[:, keep]), expected, rtol=1e-6)


@pytest.mark.parametrize("name", tiers(ALL, FEW))
@hypothesis.given(seeds, st.integers(0, 5), st.booleans())
def test_a_reset_equals_two_sequences(name, seed, at, reverse):
    cell = ALL[name]
    params, state, inputs = drawn(seed, cell, (3, 6))
    resets = np.broadcast_to(np.arange(6) == at, (3, 6))
    run = functools.partial(flaxrnn.scan, cell, params, reverse=reverse)
    final, outputs = run(inputs, initial_state=state, resets=resets)
    fresh = cell.begin(params, (3,))
    if at == 0:
        expected = run(inputs, initial_state=state if reverse else fresh)
        assert_close((final, outputs), expected, rtol=1e-6)
        return
    first_state, first = run(inputs[:, :at], initial_state=fresh if reverse else state)
    second_state, second = run(inputs[:, at:], initial_state=state if reverse else fresh)
    expected = first_state if reverse else second_state, jnp.concatenate([first, second], axis=1)
    assert_close((final, outputs), expected, rtol=1e-6)


@pytest.mark.parametrize("name", tiers(ALL, FEW))
@hypothesis.given(seeds, st.sampled_from([(), (2,), (2, 1, 3)]), st.booleans())
def test_any_number_of_batch_axes_in_either_layout(name, seed, batch_shape, time_major):
    cell = ALL[name]
    params, state = random_params(cell, I, seed), random_state(cell, batch_shape, seed)
    inputs = jnp.asarray(normal(seed, *batch_shape, 4, I))
    mask = jnp.asarray(np.random.default_rng(seed).random((*batch_shape, 4)) < 0.7)
    flat = jax.tree.map(lambda s: s.reshape(-1, s.shape[-1]), state)
    expected, wanted = flaxrnn.scan(
        cell, params, inputs.reshape(-1, 4, I), initial_state=flat, mask=mask.reshape(-1, 4)
    )
    if time_major:
        inputs, mask = jnp.moveaxis(inputs, -2, 0), jnp.moveaxis(mask, -1, 0)
    final, outputs = flaxrnn.scan(cell, params, inputs, initial_state=state, mask=mask, time_major=time_major)
    outputs = jnp.moveaxis(outputs, 0, -2) if time_major else outputs
    assert outputs.shape == (*batch_shape, 4, cell.output_size)
    assert_close(outputs.reshape(-1, 4, cell.output_size), wanted, rtol=1e-6)
    assert_close(jax.tree.map(lambda s: s.reshape(-1, s.shape[-1]), final), expected, rtol=1e-6)

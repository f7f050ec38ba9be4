"""The training loop that all programs share: steps, reports, validation, checkpoints, and an end when it must end."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from train import devices
from train.checkpoints import Checkpoints
from train.errors import UserError
from train.stopping import StopRequest

PROFILED = 10
"""How many steps a profile is of, and after how many it begins."""


class Task(Protocol):
    """What is learned."""

    def init(self, key: jax.Array) -> Any:
        """Draws the parameters."""

    def carry(self) -> Any:
        """What the first batch begins with, where one batch hands something on to the next, `[batch, ...]`; else ()."""

    def loss(self, params: Any, carry: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, tuple[Any, dict[str, Any]]]:
        """The loss of a batch, what it hands on, and further metrics."""


class Reporter(Protocol):
    """Who is told how the training goes."""

    def resumed(self, step: int) -> None:
        """Takes the step of the checkpoint from which the training goes on."""

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the means of the steps since the last call, the learning rate, and the seconds since the start."""

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Takes what the validation gave."""


class State(NamedTuple):
    """All that changes in training, but for the position in the data."""

    params: Any
    optimizer: Any
    carry: Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, and how often to do what.

    Attributes:
      steps: how many steps.
      learning_rate: the highest.
      log_every, validate_every, checkpoint_every: numbers of steps; the last step is always included.
      profile: where to write a profile of ten steps, or None.
    """

    steps: int
    learning_rate: float
    log_every: int
    validate_every: int
    checkpoint_every: int
    profile: str | None = None

    def due(self, every: int, step: int) -> bool:
        """Whether something that is done so often is done after this step."""
        return step % every == 0 or step == self.steps


def make_optimizer(learning_rate: float, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Adam, with gradients clipped to a norm of 1, and a learning rate that goes up and down once (Smith & Topin 2017).

    Args:
      learning_rate: the highest.
      steps: for how many steps. The highest is reached after a fifth of them; it begins at a 25th, and ends near zero.
    """
    schedule = optax.cosine_onecycle_schedule(max(steps, 2), learning_rate, pct_start=0.2)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99)), schedule


def train(
    task: Task,
    batches: grain.IterDataset,
    plan: Plan,
    *,
    seed: int,
    mesh: Mesh,
    checkpoints: Checkpoints,
    validate: Callable[[Any], dict[str, float]],
    reporter: Reporter,
) -> Any:
    """Trains, from the beginning or from the last checkpoint, and returns the parameters.

    Raises:
      UserError: if the loss becomes infinite or not a number, if a checkpoint cannot be written, or if the run is asked
        to stop; what was saved before is kept.
    """
    optimizer, schedule = make_optimizer(plan.learning_rate, plan.steps)
    state, shardings = begin(task, optimizer, seed, mesh)
    step = make_step(task, optimizer, shardings)
    iterator, key = iter(batches), jax.random.fold_in(jax.random.key(seed), 1)
    first, window = 1, Window(state.params)
    found = checkpoints.latest(_like(state, shardings))
    if found is not None:
        done, state, position = found
        iterator.set_state(position)
        first = done + 1
        reporter.resumed(done)
    start = time.perf_counter()
    with StopRequest() as stop, _Profile(plan.profile) as profile:
        for number in range(first, plan.steps + 1):
            profile.before_step(number - first)
            state, report = step(state, devices.to_devices(mesh, next(iterator)), key, number)
            window.add(number, report)
            stopping = stop.requested(number)
            if plan.due(plan.log_every, number):
                metrics = window.means(checkpoints) | {"learning_rate": float(schedule(number - 1))}
                seconds = (time.perf_counter() - start) / (number - first + 1) * number
                reporter.train(number, metrics | {"seconds": seconds})
            validation = None
            if plan.due(plan.validate_every, number):
                window.check(checkpoints)
                validation = validate(to_host(state.params))
                reporter.validation(number, validation)
            if plan.due(plan.checkpoint_every, number) or stopping:
                window.check(checkpoints)
                checkpoints.save(number, state, iterator.get_state(), validation)
            if stopping:
                checkpoints.wait()
                raise UserError(
                    f"stopped after step {number}, which is saved: start again with the same --workdir to go on"
                )
    checkpoints.wait()
    return to_host(state.params)


def begin(task: Task, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh) -> tuple[State, State]:
    """The state before the first step, and how it lies on the devices."""

    def draw(key: jax.Array) -> State:
        params = task.init(key)
        return State(params, optimizer.init(params), task.carry())

    key = jax.random.key(seed)
    shapes = jax.eval_shape(draw, key)
    shardings = devices.state_shardings(mesh, shapes)
    carry = jax.tree.map(lambda leaf: devices.batch_sharding(mesh), shapes.carry)
    shardings = shardings._replace(carry=carry)
    return jax.jit(draw, out_shardings=shardings)(key), shardings


def _like(state: State, shardings: State) -> State:
    return jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), state, shardings)


def make_step(task: Task, optimizer: optax.GradientTransformation, shardings: State) -> Callable[..., Any]:
    """One step of training, compiled, from `(state, batch, key, number)` to `(state, report)`; the state is donated."""

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(shardings, None))
    def step(state: State, batch: Any, key: jax.Array, number: int) -> tuple[State, Any]:
        value_and_grad = jax.value_and_grad(task.loss, has_aux=True)
        step_key = jax.random.fold_in(key, number)
        (loss, (carry, metrics)), gradient = value_and_grad(state.params, state.carry, batch, step_key)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        report = {"loss": loss, **metrics}, _finite(gradient), _finite(params)
        return State(params, optimizer_state, carry), report

    return step


def _finite(tree: Any) -> jax.Array:
    """For each leaf of a tree whether all of it is finite."""
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)])


class Window:
    """The steps since the last report, and whether everything in them was finite."""

    def __init__(self, params: Any) -> None:
        self.names = [
            jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(params)
        ]
        self.steps: list[tuple[int, Any]] = []
        self.unchecked = 0

    def add(self, number: int, report: Any) -> None:
        """Takes what a step reports, which may not be computed yet."""
        self.steps.append((number, report))
        self.unchecked += 1

    def check(self, checkpoints: Checkpoints) -> None:
        """Raises a `UserError` if anything was not finite; it names the first."""
        for number, report in jax.device_get(self.steps[len(self.steps) - self.unchecked :]):
            metrics, gradient, params = report
            if np.isfinite(metrics["loss"]) and gradient.all() and params.all():
                continue
            what = "the loss itself"
            if not gradient.any():
                what = "the loss itself, and with it every gradient"
            elif not gradient.all():
                what = f"the gradient of {self.names[int(np.argmin(gradient))]}"
            elif not params.all():
                what = f"the parameter {self.names[int(np.argmin(params))]}"
            checkpoints.wait()
            raise UserError(
                f"the loss is {metrics['loss']} at step {number}, and the first that is not finite is {what}: pass a "
                f"lower --learning-rate, and another --workdir{checkpoints.kept()}"
            )
        self.unchecked = 0

    def means(self, checkpoints: Checkpoints) -> dict[str, float]:
        """The mean of each metric, and a new beginning."""
        self.check(checkpoints)
        metrics = [metrics for _, (metrics, *_) in jax.device_get(self.steps)]
        self.steps = []
        names = ["loss", *sorted(metrics[0].keys() - {"loss"})]
        return {name: float(np.mean([one[name] for one in metrics])) for name in names}


def to_host(tree: Any) -> Any:
    """Arrays from all devices and all processes, as NumPy's."""
    return multihost_utils.process_allgather(tree, tiled=True) if jax.process_count() > 1 else jax.device_get(tree)


class _Profile:
    """A context that profiles ten steps once all is compiled, fewer if it is left before."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def before_step(self, done: int) -> None:
        """To be called before each step, with how many have been done since the start."""
        if self._folder and done == PROFILED:
            jax.profiler.start_trace(self._folder)
            self._open = True
        if done == 2 * PROFILED:
            self._close()

    def _close(self) -> None:
        if self._open:
            self._open = False
            jax.profiler.stop_trace()

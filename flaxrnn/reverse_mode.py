"""Values that have reverse-mode derivatives only, and an error that says what to do where another kind is asked for."""

from typing import Any, NoReturn

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def reverse_mode_only(tree: Any, strategy: str) -> Any:
    """`tree` itself; differentiating it in forward mode is an error that names the strategy, under `jit` too.

    JAX itself raises one where a `custom_vjp` is differentiated in forward mode, but that cannot say what to pass.
    """
    return jax.tree.map(lambda leaf: _value.bind(leaf, strategy=strategy), tree)


_value = Primitive("reverse_mode_only")
_tangent = Primitive("reverse_mode_only_tangent")


def _refuse(strategy: str) -> NoReturn:
    raise TypeError(
        f"the {strategy} strategy has no forward-mode derivative: pass strategy='plain' for jax.jvp, jax.jacfwd and "
        "jax.linearize"
    )


def _differentiate(primals: tuple, tangents: tuple, *, strategy: str) -> tuple[Any, Any]:
    (primal,), (tangent,) = primals, tangents
    if isinstance(tangent, ad.Zero):
        return primal, tangent
    return primal, _tangent.bind(tangent, strategy=strategy)


_value.def_impl(lambda value, *, strategy: value)
_value.def_abstract_eval(lambda value, *, strategy: value)
ad.primitive_jvps[_value] = _differentiate
mlir.register_lowering(_value, lambda ctx, value, *, strategy: [value])
batching.primitive_batchers[_value] = lambda args, dims, *, strategy: (_value.bind(*args, strategy=strategy), dims[0])

# only transposed: evaluating it means that the derivative is taken in forward mode
_tangent.def_impl(lambda tangent, *, strategy: _refuse(strategy))
_tangent.def_abstract_eval(lambda tangent, *, strategy: tangent)
ad.deflinear2(_tangent, lambda cotangent, tangent, *, strategy: [cotangent])
mlir.register_lowering(_tangent, lambda ctx, tangent, *, strategy: _refuse(strategy))
batching.primitive_batchers[_tangent] = lambda args, dims, *, strategy: _refuse(strategy)

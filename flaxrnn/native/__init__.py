"""C++ kernels for gated cells on the CPU, generated from their own arithmetic and compiled where they run.

    translate.py   jaxprs of elementwise arithmetic -> a graph of C++ expressions
    plan.py        a cell's `recur` and its `jax.vjp` -> one such graph, without the matrix products
    generate.py    that graph -> C++ loop bodies, and the layout of a row's numbers
    build.py       C++ -> a library, in the user's cache folder
    call.py        JAX primitives that call it: derivatives, batching, lowering

    kernel.h       vectors, tanh and the like, matrix products      threads.h      work on XLA's threads
    forward.h, backward.h   the loop over time, for any cell        memory.h       scratch memory, kept between calls
    pass.h         what both directions share                       shim.cc        what XLA calls
    loop.h         a kernel's two calls

`python -m flaxrnn.native` builds the kernels of the library's own cells ahead of their first use.
"""

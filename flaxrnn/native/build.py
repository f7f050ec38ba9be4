"""Compiles libraries on the user's machine, each once, into a folder that nobody else can write to.

There are two kinds of library. The shim is what XLA calls; it needs XLA's headers and is compiled once per version of
JAX. A kernel holds the loop for one kind of cell behind a plain C interface, and the shim finds it by name.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import pathlib
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterator

import jax
import jaxlib

logger = logging.getLogger("flaxrnn.native")

SOURCES = pathlib.Path(__file__).parent
HEADERS = ("kernel.h", "memory.h", "threads.h", "pass.h", "forward.h", "backward.h", "loop.h")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-w", "-pthread")
TARGET = "flaxrnn_native"
"""The name under which XLA knows the shim."""
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 120
"""The timeout of a compiler run."""

_lock = threading.RLock()
_failures: dict[str, str] = {}  # by the text of a kernel; "" for the shim


class BuildError(Exception):
    """Why there is no library, as half a sentence."""


def why_not() -> str | None:
    """Why kernels cannot be built here, as half a sentence, as far as can be told without building one."""
    if os.environ.get("FLAXRNN_NATIVE") == "0":
        return "FLAXRNN_NATIVE is 0"
    if sys.platform not in ("linux", "darwin"):
        return f"kernels are not built on {sys.platform}"
    if "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or ""):
        return "kernels are not built on musl systems"
    if failure():
        return failure()
    if compiler() is None:
        return f"no C++ compiler was found (looked for {', '.join(COMPILERS)}; CXX names another)"
    return None


def compiler() -> str | None:
    """The path of the C++ compiler; None if there is none."""
    return _find(os.environ.get("CXX"), os.environ.get("PATH"))


@functools.cache
def _find(chosen: str | None, path: str | None) -> str | None:
    if chosen:
        return shutil.which(chosen, path=path)
    return next((found for name in COMPILERS if (found := shutil.which(name, path=path))), None)


def folder() -> pathlib.Path:
    """Where libraries are kept: a folder that only this user can write to."""
    cache = os.environ.get("XDG_CACHE_HOME")
    path = (pathlib.Path(cache) if cache else pathlib.Path.home() / ".cache") / "flaxrnn" / "native"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"the folder {path} cannot be created ({error.strerror})") from None
    about = path.stat()
    if about.st_uid != os.getuid():
        raise BuildError(f"the folder {path} belongs to another user: set XDG_CACHE_HOME to a folder of your own")
    if stat.S_IMODE(about.st_mode) & 0o022:
        raise BuildError(f"others can write to the folder {path}: run chmod 700 {path}")
    return path


def load(text: str) -> str:
    """Builds a kernel from generated C++, unless it is built already, and registers it with the shim.

    Returns:
      The name under which the shim knows it, followed by ".forward" or ".backward".

    Raises:
      BuildError: if it cannot be built or does not run. From then on `failure` gives the reason.
    """
    with _lock:
        if reason := failure(text):
            raise BuildError(reason)
        try:
            shim = _shim()
        except BuildError as error:
            _failures[""] = str(error)
            raise
        try:
            return _load(shim, text)
        except BuildError as error:
            _failures[text] = str(error)
            raise


def failure(text: str = "") -> str | None:
    """Why the last attempt to build this kernel failed; without `text`, why any kernel would."""
    return _failures.get("") or _failures.get(text)


def forget() -> None:
    """Forgets what was loaded and what failed, so that `load` looks again."""
    _failures.clear()
    _load.cache_clear()
    _shim.cache_clear()


@functools.cache
def _load(shim: ctypes.CDLL, text: str) -> str:
    library = built("kernel", text, {name: (SOURCES / name).read_text() for name in HEADERS}, ())
    loaded = _open(library)
    for direction in ("forward", "backward"):
        name = f"{library.stem}.{direction}".encode()
        shim.register_kernel(name, ctypes.cast(getattr(loaded, f"run_{direction}"), ctypes.c_void_p))
    return library.stem


@functools.cache
def _shim() -> ctypes.CDLL:
    """The shim, known to XLA as `TARGET`."""
    text = (SOURCES / "shim.cc").read_text()
    headers = f"-I{jax.ffi.include_dir()}"
    shim = _open(built("shim", text, {"jaxlib": jaxlib.__version__}, (headers,), probe=_probe))
    shim.register_kernel.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(shim.run), platform="cpu")
    return shim


def _open(library: pathlib.Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise BuildError(f"{library} cannot be loaded ({error})") from None


def built(
    kind: str, text: str, parts: dict[str, str], flags: tuple[str, ...], probe: Callable | None = None
) -> pathlib.Path:
    """The library of a C++ text, compiled if it is not in the folder.

    Args:
      kind: what its name begins with.
      text: the C++ text.
      parts: what else the library depends on, by name: headers, versions.
      flags: further flags for the compiler.
      probe: called with a new library before it is installed; raises `BuildError` if it does not run.
    """
    command = compiler()
    if command is None:
        raise BuildError(why_not() or "no C++ compiler was found")
    where = folder()
    flags = (*FLAGS, *_processor_flags(), *flags)
    identity = [text, *parts, *parts.values(), *flags, _version(command), processor(), jaxlib.__version__]
    name = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:24]
    library = where / f"{kind}-{name}.so"
    if not library.exists():
        with _alone(where / f"{kind}-{name}.lock"):
            if not library.exists():
                _compile(command, text, parts, flags, library, probe)
    return library


def _compile(
    command: str,
    text: str,
    parts: dict[str, str],
    flags: tuple[str, ...],
    library: pathlib.Path,
    probe: Callable | None,
) -> None:
    logger.warning("compiling %s with %s, once; this takes a few seconds", library, command)
    with tempfile.TemporaryDirectory(dir=library.parent) as made:
        for header in parts:
            if header.endswith(".h"):
                pathlib.Path(made, header).write_text(parts[header])
        source, output = pathlib.Path(made, "source.cc"), pathlib.Path(made, "library.so")
        source.write_text(text)
        try:
            done = subprocess.run(
                [command, *flags, "-shared", "-fPIC", str(source), "-o", str(output)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"the compiler {command} failed ({error})") from None
        if done.returncode or not output.exists():
            first = next((line for line in done.stderr.splitlines() if line.strip()), f"status {done.returncode}")
            raise BuildError(f"the compiler {command} failed ({first.strip()[:200]})")
        if probe:
            probe(output)
        os.replace(output, library)


def _probe(library: pathlib.Path) -> None:
    """Calls a new shim from XLA in a separate process, since it may crash."""
    program = (
        "import ctypes, jax, numpy as np, sys; lib = ctypes.CDLL(sys.argv[1]);"
        "jax.ffi.register_ffi_target('probe', jax.ffi.pycapsule(lib.probe), platform='cpu');"
        "call = jax.ffi.ffi_call('probe', jax.ShapeDtypeStruct((3,), np.float32));"
        "assert (np.asarray(jax.jit(call)(np.arange(3, dtype=np.float32))) == [1, 2, 3]).all()"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(library)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise BuildError(f"a call to a new library failed ({last[:200]})")


@functools.cache
def _version(command: str) -> str:
    try:
        done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"the compiler {command} failed ({error})") from None
    return done.stdout


def _processor_flags() -> tuple[str, ...]:
    return ("-mcpu=native",) if platform.machine() in ("aarch64", "arm64") else ("-march=native",)


@functools.cache
def processor() -> str:
    """The processor's model and features, since machines may share a folder."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kinds = ("model name", "flags", "Features", "CPU part")
    found = {line.split(":")[0].strip(): line for line in reversed(lines) if line.startswith(kinds)}
    return "\n".join([platform.machine(), *found.values()])


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
    """Lets one process in at a time."""
    import fcntl  # Windows has no such module

    try:
        file = open(path, "w")  # noqa: SIM115
    except OSError as error:
        raise BuildError(f"the folder {path.parent} cannot be written to ({error.strerror})") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

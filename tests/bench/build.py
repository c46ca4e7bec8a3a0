"""Build the floor, the load generator and the peers, each once, into a cache directory outside the tree.

* A peer whose toolchain or libraries are not there is left out with the reason: `Missing`.
* What is built is named by a hash of its sources, so that a change builds anew.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).resolve().parent
_HEADERS: Final = (Path("/usr/include"), Path("/usr/local/include"))
_BUILD_SECONDS: Final = 1800.0
# Lua's directories as Debian packages it.
_NGINX_MODULES: Final = Path("/usr/lib/nginx/modules")


class Missing(Exception):
    """What cannot be built or started here; the message says why."""


def cache() -> Path:
    """Return the directory of all that is built."""
    directory = Path(os.environ.get("BACKHAUL_CACHE") or Path.home() / ".cache" / "backhaul") / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def floor() -> Path:
    """Build the floor; it needs a C++ compiler, ISA-L and simdjson."""
    _need_header("isa-l/igzip_lib.h", "libisal-dev")
    _need_header("simdjson.h", "libsimdjson-dev")
    return _cpp("floor", "-lisal", "-lsimdjson")


def load() -> Path:
    """Build the load generator."""
    return _cpp("load")


def go() -> Path:
    """Build the Go peer."""
    _need("go")
    built = _place("go") / "peer"
    if not built.exists():
        _run(["go", "build", "-o", str(built), "."], SOURCES / "go")
    return built


def otelcol() -> Path:
    """Build the OpenTelemetry Collector with the parts that this takes; two minutes, the first time."""
    _need("go")
    built = _place("otelcol") / "peer"
    if not built.exists():
        _run(["nice", "go", "build", "-trimpath", "-o", str(built), "."], SOURCES / "otelcol")
    return built


def rust() -> Path:
    """Build the Rust peer, with both of its ways to inflate; it compiles librdkafka too."""
    _need("cargo")
    _need_header("isa-l/igzip_lib.h", "libisal-dev")
    place = _place("rust")
    built = place / "target" / "release" / "bench-peer"
    if not built.exists():
        shutil.copytree(SOURCES / "rust", place, dirs_exist_ok=True)
        _run(["cargo", "build", "--release", "--features", "isal"], place)
    return built


def node() -> Path:
    """Install the Node peer's Kafka client beside a copy of it; return its program."""
    _need("node")
    _need("npm")
    place = _place("node")
    if not (place / "node_modules").is_dir():
        shutil.copytree(SOURCES / "node", place, dirs_exist_ok=True)
        _run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"], place)
    return place / "server.js"


def nginx() -> Path:
    """Check that nginx has Lua with cjson and zlib; return the template of its configuration."""
    _need("nginx")
    if not (_NGINX_MODULES / "ngx_http_lua_module.so").exists():
        raise Missing("nginx has no Lua here (Debian: libnginx-mod-http-lua)")
    for module, package in (("cjson.so", "lua-cjson"), ("zlib.so", "lua-zlib")):
        if not list(Path("/usr/lib").glob(f"*/lua/5.1/{module}")):
            raise Missing(f"{package} is not installed")
    return SOURCES / "nginx" / "nginx.conf"


def _cpp(name: str, *libraries: str) -> Path:
    _need("g++")
    source = SOURCES / "floor" / f"{name}.cpp"
    built = _place("floor") / name
    if not built.exists():
        _run(["g++", "-std=c++20", "-O3", "-march=native", "-o", str(built), str(source), *libraries], SOURCES)
    return built


def _place(name: str) -> Path:
    """Return the directory for what is built of these sources, which is new when they have changed."""
    sources = sorted(path for path in (SOURCES / name).rglob("*") if path.is_file())
    digest = sha256(b"".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()[:12]
    place = cache() / f"{name}-{digest}"
    place.mkdir(exist_ok=True)
    return place


def _need(program: str) -> None:
    if shutil.which(program) is None and not Path("/usr/sbin", program).exists():
        raise Missing(f"{program} is not installed")


def _need_header(name: str, package: str) -> None:
    if not any((directory / name).exists() for directory in _HEADERS):
        raise Missing(f"{name} is not there (Debian: {package})")


def _run(command: Sequence[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS)
    if done.returncode:
        raise Missing(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-400:]}")

"""onnxruntime-web as it lies in `vendor/`: unpacked, and compared with its SHA-256."""

import hashlib
import json
import lzma
from pathlib import Path

VENDOR = Path(__file__).parent / "vendor"


class RuntimeFileError(OSError):
    """A file of the runtime is missing or is not the one that was released."""


def about():
    """What `vendor/runtime.json` says: package, version, files and their SHA-256."""
    return json.loads((VENDOR / "runtime.json").read_text(encoding="utf-8"))


def unpacked(name):
    """A file of the runtime, as bytes.

    Raises
    ------
    RuntimeFileError
    """
    file = VENDOR / f"{name}.xz"
    try:
        found = lzma.decompress(file.read_bytes())
    except (FileNotFoundError, lzma.LZMAError, EOFError) as error:
        raise RuntimeFileError(
            f"{file} is missing or cut short ({error}). Get it back with `git checkout -- {file.name}` in "
            "its folder."
        ) from error
    if hashlib.sha256(found).hexdigest() != about()["files"][name]:
        raise RuntimeFileError(
            f"{file} is not the file of {about()['package']} {about()['version']}: its SHA-256 differs from "
            f"runtime.json. Get it back with `git checkout -- {file.name}` in its folder."
        )
    return found


def scripts():
    """What the page needs: texts ``ort`` and ``mjs``, bytes ``wasm``.

    The module's text looks for the WebAssembly beside its own address.  In the page it has none that serves:
    it comes from a blob and is given the bytes.
    """
    mjs = unpacked("ort-wasm-simd-threaded.mjs").decode()
    address = '(new URL("ort-wasm-simd-threaded.wasm",import.meta.url)).href'
    if address not in mjs:
        raise RuntimeFileError(
            "ort-wasm-simd-threaded.mjs looks for its WebAssembly in another way than 1.20.1 does."
        )
    return {
        "ort": unpacked("ort.wasm.min.js").decode(),
        "mjs": mjs.replace(address, '"not used"'),
        "wasm": unpacked("ort-wasm-simd-threaded.wasm"),
    }

"""Run chapters through papermill into a folder: `run_notebooks.py --profile smoke --out FOLDER [00 01]`.

PROFILE (and, where given, DEVICE and SEED) reach the chapter as papermill parameters, PROFILE and DEVICE also
as the environment variables STORYDIFF_PROFILE and STORYDIFF_DEVICE. Exit status 1 when a chapter fails; the
others still run.

With a report, each chapter's peak memory is measured too, and nbval runs the committed chapter on the same
device: what its checked cells (nbval-check-output) print must be what it was.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import chapters
import nbformat
from chapters import NOTEBOOKS, ROOT

# Runs last in the kernel of a chapter. What the allocator of the GPU has reserved is counted, because a
# chapter that measures memory itself sets the other counters back.
METER = """\
import json, resource, sys
_torch = sys.modules.get("torch")
_gpu = _torch is not None and _torch.cuda.is_initialized()
print(json.dumps({
    "peak_gpu_bytes": _torch.cuda.max_memory_reserved() if _gpu else None,
    "peak_cpu_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""
SANITIZE = ROOT / "tests" / "notebooks" / "nbval_sanitize.cfg"


def run(path: Path, out: Path, parameters: dict, bar: bool = False, meter: bool = False) -> dict:
    """Run one chapter; say how long it took, and what went wrong if anything did.

    With ``meter``, also how much memory it took, and which cells nbval fails.
    """
    import papermill

    warnings.filterwarnings("ignore", module="papermill|nbclient|jupyter_client|traitlets")
    if "PROFILE" in parameters:
        os.environ["STORYDIFF_PROFILE"] = parameters["PROFILE"]
    if "DEVICE" in parameters:
        os.environ["STORYDIFF_DEVICE"] = parameters["DEVICE"]
    source = with_meter(path, out) if meter else path
    started, error = time.perf_counter(), None
    try:
        papermill.execute_notebook(
            str(source),
            str(out),
            parameters,
            cwd=str(NOTEBOOKS),
            progress_bar=bar,
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=40"],  # else each start warns about local TCP
        )
    except papermill.PapermillExecutionError as e:
        error = str(e).strip()
    except Exception as e:  # a dead kernel, a notebook that is no notebook
        error = f"{type(e).__name__}: {e}"
    result = {"chapter": path.stem, "seconds": round(time.perf_counter() - started, 1), "error": error}
    if meter:
        source.unlink()
        if out.exists():
            result |= read_meter(out)
        result["differs"] = nbval(path)
    return result


def with_meter(path: Path, out: Path) -> Path:
    """A copy of a chapter, beside where it goes, with a last cell that tells its peak memory."""
    nb = chapters.read(path)
    nb.cells.append(nbformat.v4.new_code_cell(METER, id="meter"))
    source = out.with_suffix(".metered")
    nbformat.write(nb, source)
    return source


def read_meter(out: Path) -> dict:
    """What the last cell told; takes the cell out of the run chapter. Empty where it was not reached."""
    nb = chapters.read(out)
    if nb.cells[-1].get("id") != "meter":
        return {}
    told = nb.cells.pop()
    chapters.write(nb, out)
    texts = [o.text for o in told.outputs if o.get("name") == "stdout"]
    return json.loads(texts[-1]) if texts else {}


def nbval(path: Path, timeout: int = 600) -> list[str]:
    """Cells of a chapter that nbval fails, and why, with the profile and the device of the environment."""
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "nbval.xml"
        options = ["-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-sanitize-with", str(SANITIZE)]
        options += ["--nbval-cell-timeout", str(timeout), f"--junitxml={xml}"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(path)], cwd=ROOT, capture_output=True, text=True
        )
        if not xml.exists():
            return [f"nbval did not run: {(done.stdout + done.stderr).strip()[-300:]}"]
        return failures(xml.read_text(encoding="utf-8"))


def failures(xml: str) -> list[str]:
    """``cell: why`` for each test of a JUnit report that failed; one line where it holds no test at all."""
    cases = list(ElementTree.fromstring(xml).iter("testcase"))
    if not cases:
        return ["nbval found no cell"]
    bad = [(c.get("name"), f) for c in cases for f in c if f.tag in ("failure", "error")]
    return [f"{name}: {(f.text or f.get('message') or '').strip()[:400]}" for name, f in bad]


def warned(path: Path) -> list[str]:
    """First lines that a run chapter printed to stderr."""
    nb = chapters.read(path)
    texts = [o.text for c in nb.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    return [t.strip().splitlines()[0][:160] for t in texts if t.strip()]


def machine(device: str) -> dict:
    import torch

    known = {"date": datetime.now(UTC).date().isoformat(), "python": platform.python_version()}
    known |= {n: importlib.metadata.version(n) for n in ("torch", "diffusers", "transformers", "peft")}
    known["cpus"] = os.cpu_count()
    if device == "cuda" and torch.cuda.is_available():
        known |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return known


def write_report(base: Path, results: list[dict], facts: dict) -> None:
    """REPORT.json and REPORT.md, each whole or not at all."""

    def write(suffix: str, text: str) -> None:
        part = base.with_suffix(".part")
        part.write_text(text + "\n")
        part.replace(base.with_suffix(suffix))

    base.parent.mkdir(parents=True, exist_ok=True)
    write(".json", json.dumps({"machine": facts, "chapters": results}, indent=1))
    lines = ["# Every chapter, run", "", *(f"- {k}: {v}" for k, v in facts.items()), ""]
    lines += [
        "| chapter | seconds | peak GPU memory, MB | peak memory, MB | result |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        said = "passed"
        if r.get("differs"):
            said = "differs: " + "; ".join(r["differs"])
        if r["error"]:
            said = "failed: " + r["error"].splitlines()[-1][:120]
        said = said.replace("|", "/").replace("\n", " ")
        sizes = (r.get("peak_gpu_bytes"), r.get("peak_cpu_bytes"))
        gpu, cpu = (f"{n / 1e6:.0f}" if n else "" for n in sizes)
        lines.append(f"| {r['chapter']} | {r['seconds']} | {gpu} | {cpu} | {said} |")
    write(".md", "\n".join(lines))


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("chapter", nargs="*", help="begin of a chapter's file name, such as 00 (default: all)")
    p.add_argument("--profile", default="cpu", choices=["smoke", "cpu", "gpu"])
    p.add_argument("--device", help="torch device for the chapters (default: what each chapter says)")
    p.add_argument("--seed", type=int)
    p.add_argument("--out", type=Path, default=ROOT / "_build/executed")
    p.add_argument("--jobs", type=int, default=1, help="chapters run at once, each on one thread")
    p.add_argument("--report", type=Path, help="write REPORT.md and REPORT.json")
    p.add_argument("--strict", action="store_true", help="fail where a chapter prints to stderr")
    args = p.parse_args()

    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.exit(
                f"DEVICE=cuda was asked for, but torch {torch.__version__} sees no GPU. Run on a machine "
                "with an NVIDIA GPU and a CUDA build of torch (RUN_PYTHON=... names another Python), or use "
                "`make book`."
            )

    parameters = {"PROFILE": args.profile}
    if args.device:
        parameters["DEVICE"] = args.device
    if args.seed is not None:
        parameters["SEED"] = args.seed

    todo = chapters.find(args.chapter)
    if not args.chapter and args.out.exists():
        shutil.rmtree(args.out)  # a copy of a chapter that is no more must not stay
    args.out.mkdir(parents=True, exist_ok=True)

    done, facts = {}, {}
    if args.report:
        facts = machine(args.device or "cpu") | {"profile": args.profile, "chapters at once": args.jobs}
    bar = args.jobs == 1 and sys.stderr.isatty()
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # inherited by the kernels; two teams of threads stall each other
    with ProcessPoolExecutor(max_workers=args.jobs) as pool:
        meter = bool(args.report)
        runs = {pool.submit(run, p, args.out / p.name, parameters, bar, meter): p for p in todo}
        for future in as_completed(runs):
            path, r = runs[future], future.result()
            r["warned"] = warned(args.out / path.name) if (args.out / path.name).exists() else []
            done[path] = r
            state = "FAILED" if r["error"] else "DIFFER" if r.get("differs") else "ok"
            print(f"{state:6} {r['chapter']:45} {r['seconds']:6.1f} s", flush=True)
            for line in r["warned"]:
                print(f"       on stderr: {line}", flush=True)
            for line in r.get("differs", []):
                print(f"       printed: {line}", flush=True)
            if args.report:  # after each chapter, so that a run that is stopped leaves what it found
                write_report(args.report, [done[p] for p in todo if p in done], facts)

    results = [done[p] for p in todo]
    for r in results:
        if r["error"]:
            print(f"\n{r['chapter']} failed:\n{r['error']}", file=sys.stderr)
    if args.report:
        print(f"report: {args.report.with_suffix('.md')}")
    noisy = [r["chapter"] for r in results if r["warned"]] if args.strict else []
    if noisy:
        print(
            f"\nChapters must print nothing to stderr, and these did: {', '.join(noisy)}. "
            "Mend what warned, or silence that one warning in the chapter, saying why.",
            file=sys.stderr,
        )
    return int(any(r["error"] or r.get("differs") for r in results) or bool(noisy))


if __name__ == "__main__":
    sys.exit(main())

"""Run chapters through papermill into a folder: `run_notebooks.py --profile smoke --out FOLDER [00 01]`.

PROFILE (and, where given, DEVICE and SEED) reach the chapter as papermill parameters and PROFILE also as the
environment variable STORYDIFF_PROFILE. Exit status 1 when a chapter fails; the others still run.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import chapters
from chapters import NOTEBOOKS, ROOT


def run(path: Path, out: Path, parameters: dict, bar: bool = False) -> dict:
    """Run one chapter; say how long it took, and what went wrong if anything did."""
    import papermill

    warnings.filterwarnings("ignore", module="papermill|nbclient|jupyter_client|traitlets")
    if "PROFILE" in parameters:
        os.environ["STORYDIFF_PROFILE"] = parameters["PROFILE"]
    started, error = time.perf_counter(), None
    try:
        papermill.execute_notebook(
            str(path),
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
    return {"chapter": path.stem, "seconds": round(time.perf_counter() - started, 1), "error": error}


def warned(path: Path) -> list[str]:
    """First lines that a run chapter printed to stderr."""
    nb = chapters.read(path)
    texts = [o.text for c in nb.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    return [t.strip().splitlines()[0][:160] for t in texts if t.strip()]


def machine(device: str) -> dict:
    import torch

    known = {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}
    if device == "cuda" and torch.cuda.is_available():
        known["gpu"] = torch.cuda.get_device_name()
    return known


def write_report(base: Path, results: list[dict], facts: dict) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    base.with_suffix(".json").write_text(json.dumps({"machine": facts, "chapters": results}, indent=1) + "\n")
    lines = ["# Every chapter, run", "", *(f"- {k}: {v}" for k, v in facts.items()), ""]
    lines += ["| chapter | seconds | result |", "|---|---|---|"]
    for r in results:
        said = "failed: " + r["error"].splitlines()[-1][:120].replace("|", "/") if r["error"] else "passed"
        lines.append(f"| {r['chapter']} | {r['seconds']} | {said} |")
    base.with_suffix(".md").write_text("\n".join(lines) + "\n")


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

    results = []
    bar = args.jobs == 1 and sys.stderr.isatty()
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # inherited by the kernels; two teams of threads stall each other
    with ProcessPoolExecutor(max_workers=args.jobs) as pool:
        runs = [pool.submit(run, path, args.out / path.name, parameters, bar) for path in todo]
        for path, future in zip(todo, runs, strict=True):
            r = future.result()
            r["warned"] = warned(args.out / path.name) if (args.out / path.name).exists() else []
            results.append(r)
            print(f"{'FAILED' if r['error'] else 'ok':6} {r['chapter']:45} {r['seconds']:6.1f} s", flush=True)
            for line in r["warned"]:
                print(f"       on stderr: {line}", flush=True)

    for r in results:
        if r["error"]:
            print(f"\n{r['chapter']} failed:\n{r['error']}", file=sys.stderr)
    if args.report:
        write_report(args.report, results, machine(args.device or "cpu"))
        print(f"report: {args.report.with_suffix('.md')}")
    noisy = [r["chapter"] for r in results if r["warned"]] if args.strict else []
    if noisy:
        print(
            f"\nChapters must print nothing to stderr, and these did: {', '.join(noisy)}. "
            "Mend what warned, or silence that one warning in the chapter, saying why.",
            file=sys.stderr,
        )
    return int(any(r["error"] for r in results) or bool(noisy))


if __name__ == "__main__":
    sys.exit(main())

"""Papermill made safe: `python -m nat_lib.nbrun NOTEBOOK OUT --params FILE.json [--timeout S]`.

    nbrun           checks parameters, watches the clock, checks the result, puts OUT in place
     `- papermill   one process in a session of its own
         `- guard   leads the kernel's process group and kills all of it when papermill is gone
             `- kernel, and whatever the notebook starts

On Linux each of them asks to be killed when the one above it dies, so that no kernel outlives its
run, however the run
ends. Exit code 0: OUT is complete. 1: the notebook failed, what was done of it is OUT with the
                   suffix .failed.ipynb.
2: refused, nothing was run.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from nat_lib.errors import Refusal
from nat_lib.files import ROOT, atomic, read_json, write_json, write_text
from nat_lib.run.params import cells_until, parameters_cell

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
KERNEL = "nat"
# in a notebook's metadata: true where a copy to be mailed is wanted, OUT with the suffix .html
PAGE = "nat_page"
ORPHANED = signal.SIGUSR1


class Failure(Exception):
    """The notebook ran and failed: one line."""


# --------------------------------------------------------------------------------------- parameters


def check_params(notebook, params):
    """Every given parameter is known to the parameters cell and has the type of its default (None
    fits any)."""
    cell = parameters_cell(notebook)
    problems = [
        f"unknown parameter {name!r}; the parameters cell knows {', '.join(cell)}"
        for name in params
        if name not in cell
    ]
    problems += [
        f"{name}: {params[name]!r} does not have the type of its default {cell[name]!r}"
        for name in cell
        if name in params and not _fits(params[name], cell[name])
    ]
    if problems:
        raise Refusal("\n".join(f"{Path(notebook).name}: {line}" for line in problems))


def _fits(given, default):
    if given is None or default is None:
        return True
    if isinstance(default, list | tuple):
        return isinstance(given, list | tuple) and (
            not default or all(any(_fits(g, d) for d in default) for g in given)
        )
    if isinstance(default, dict):
        return isinstance(given, dict) and (
            not default or all(any(_fits(g, d) for d in default.values()) for g in given.values())
        )
    if isinstance(default, float):
        return type(given) in (int, float)
    return type(given) is type(default)


# ------------------------------------------------------------------------------------------ the run


def run(notebook, output, params, timeout=None, until=None):
    """Execute a notebook into `output`, up to the code cell tagged `until` if there is one.

    Returns the folders of the cells it opened. Raises Refusal (nothing was run) or Failure.
    """
    notebook, output = Path(notebook).resolve(), Path(output).resolve()
    check_params(notebook, params)
    failed = output.with_suffix(".failed.ipynb")
    paged = read_json(notebook)["metadata"].get(PAGE) and not until
    output.parent.mkdir(parents=True, exist_ok=True)
    for leftover in output.parent.glob(f".tmp-*-{output.name}"):  # of a run that was killed
        leftover.unlink(missing_ok=True)
    partial = output.with_name(f".tmp-{os.getpid()}-{output.name}")
    with TemporaryDirectory(prefix="nat-", ignore_cleanup_errors=True) as folder:
        folder = Path(folder)
        _write_kernel(folder)
        write_json(
            folder / notebook.name, read_json(notebook) | {"cells": cells_until(notebook, until)}
        )
        write_json(
            folder / "request.json",
            {
                "notebook": folder / notebook.name,
                "cwd": notebook.parent,
                "output": partial,
                "params": params,
                "folder": folder,
                "result": folder / "result.json",
            },
        )
        try:
            _papermill(folder, params, timeout, ["nat_lib.report.page"] if paged else [])
            _check(partial)
        except Failure as failure:
            kept = ""
            if _is_notebook(partial):
                with atomic(failed) as temporary:
                    os.replace(partial, temporary)
                kept = f" (see {failed})"
            raise Failure(f"{notebook.stem}: {failure}{kept}") from None
        else:
            executed = read_json(partial)
            executed["metadata"]["papermill"] |= {
                "input_path": notebook.name,
                "output_path": output.name,
            }
            write_text(output, json.dumps(executed, indent=1, ensure_ascii=False) + "\n")
            failed.unlink(missing_ok=True)
            if paged:
                from nat_lib.report import page

                page.write(output, output.with_suffix(".html"))
        finally:
            partial.unlink(missing_ok=True)
        opened = folder / "cells.txt"
        return (
            [Path(line) for line in dict.fromkeys(opened.read_text().splitlines())]
            if opened.exists()
            else []
        )


def _write_kernel(folder):
    """A kernel specification for this very interpreter, whatever is installed elsewhere."""
    write_json(
        folder / "kernels" / KERNEL / "kernel.json",
        {
            "argv": [
                sys.executable,
                "-m",
                "nat_lib.nbrun",
                "--guard",
                "-f",
                "{connection_file}",
                "--log-level=50",
            ],
            "display_name": "Python 3 (nat-kit)",
            "language": "python",
        },
    )


def _papermill(folder, params, timeout, meanwhile=()):
    """Run papermill on folder/request.json until it ends or the time is up. Failure unless it says
    that all is well.

    meanwhile : modules that this process will need afterwards and has the time to import now
    """
    threads = (params | params.get("sizes", {})).get("threads")
    environment = os.environ | {
        "NAT_BATCH": "1",
        "NAT_CELLS": str(folder / "cells.txt"),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "NAT_TMP": str(folder),
        "TMPDIR": str(folder),
        "JUPYTER_PATH": str(folder),
        "JUPYTER_RUNTIME_DIR": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),
        # figures in the notebook, whatever the shell says
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        **({name: str(threads) for name in THREADS} if threads else {}),
    }
    worker = subprocess.Popen(
        [sys.executable, "-m", "nat_lib.nbrun", "--papermill", str(folder / "request.json")],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    try:
        for module in meanwhile:
            import_module(module)
        code = worker.wait(timeout)
    except subprocess.TimeoutExpired:
        raise Failure(
            f"stopped after {timeout:.0f} s, its limit; finished cells are kept: start it again to go on, "
            "or raise job_hours in the profile"
        ) from None
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    try:
        result = read_json(folder / "result.json")
    except Refusal:
        raise Failure(
            f"papermill ended with code {code} and without a result: out of memory? try fewer jobs at a time "
            "(--jobs), finished cells are kept"
        ) from None
    if result["error"] or code:
        raise Failure(result["error"] or f"papermill ended with code {code}: see the log above it")


def _check(path):
    """Papermill's word is not enough: every code cell of the written notebook must have run without
    an error."""
    if not _is_notebook(path):
        raise Failure(
            "papermill left no readable notebook: is the disk full? free some space and start again"
        )
    for cell in read_json(path)["cells"]:
        if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
            continue
        errors = [o for o in cell["outputs"] if o["output_type"] == "error"]
        if errors:
            raise Failure(
                f"In [{cell['execution_count']}]: {_one_line(errors[0]['ename'], errors[0]['evalue'])}"
            )
        if cell["execution_count"] is None:
            raise Failure("a cell was not run, though papermill says that all is well")


def _is_notebook(path):
    try:
        return isinstance(read_json(path)["cells"], list)
    except (Refusal, KeyError, TypeError):
        return False


def _one_line(name, text):
    """An exception as one line; a Refusal already says what to do."""
    text = "; ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines())
    return text if name == "Refusal" else f"{name}: {text}"


def die_with_parent(sig=signal.SIGKILL):
    """Ask Linux to send `sig` to this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, sig, 0, 0, 0)  # PR_SET_PDEATHSIG


# ------------------------------------------------------------------------------ the other processes


def papermill_process(request_file):
    """`--papermill FILE`: execute the request and leave result.json = {"error": line or None}."""
    import logging

    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("papermill").setLevel(logging.INFO)  # what the notebook prints, while it runs
    request, error = read_json(request_file), None
    try:
        execute_notebook(
            request["notebook"],
            request["output"],
            request["params"],
            kernel_name=KERNEL,
            language="python",
            progress_bar=False,
            log_output=True,
            start_timeout=300,
            # Whatever a cell keeps is on disk when it ends: nothing is gained by a farewell of
            # seconds.
            cwd=request["cwd"],
            shutdown_kernel="immediate",
            # Sockets in the run's own folder: kernels started side by side compete for TCP ports.
            config=Config(
                {"KernelManager": {"transport": "ipc", "ip": f"{request['folder']}/socket"}}
            ),
        )
    except PapermillExecutionError as raised:
        error = f"In [{raised.exec_count}]: {_one_line(raised.ename, raised.evalue)}"
    except Exception as raised:
        dead = type(raised).__name__ == "DeadKernelError"
        error = (
            "the kernel was killed: out of memory? try fewer jobs at a time (--jobs), finished cells are kept"
            if dead
            else _one_line(type(raised).__name__, str(raised))
        )
    write_json(request["result"], {"error": error})
    return 1 if error else 0


def guard_process(arguments):
    """`--guard ...`: start the kernel, wait for it, and leave nothing of the process group
    behind."""
    guard, papermill, kernel = os.getpid(), int(os.environ["JPY_PARENT_PID"]), None

    def end(sig, _):
        if (
            sig == ORPHANED
        ):  # papermill was killed, most likely with all above it: nobody else tidies up
            if kernel:
                os.kill(kernel, signal.SIGKILL)
            shutil.rmtree(os.environ["NAT_TMP"], ignore_errors=True)
        os.killpg(guard, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    signal.signal(ORPHANED, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is meant for the kernel
    die_with_parent(ORPHANED)
    if os.getppid() != papermill:  # it died before the line above
        end(ORPHANED, None)
    kernel = os.fork()
    if kernel == 0:
        for sig in (signal.SIGTERM, ORPHANED, signal.SIGINT):
            signal.signal(sig, signal.SIG_DFL)
        die_with_parent()
        os.environ["JPY_PARENT_PID"] = str(guard)
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *arguments])
    os.waitpid(kernel, 0)
    os.killpg(guard, signal.SIGKILL)


# ------------------------------------------------------------------------------------- command line


def write_record(path, key, output, params, cells, seconds):
    """What `plan.finished` asks for: the job's key, the files and finished cells it leaves
    (relative to `out`)."""
    out = ROOT / params["out"]
    figures = ROOT / params.get("figures", out / output.stem)
    made = (
        [output, output.with_suffix(".html")] if output.with_suffix(".html").exists() else [output]
    )
    files = [
        *made,
        *(p for p in sorted(figures.rglob("*")) if p.is_file() and not p.name.startswith(".tmp-")),
    ]
    reports = {cell: cell / "report.json" for cell in cells if cell.is_relative_to(out)}
    write_json(
        path,
        {
            "key": key,
            "seconds": round(seconds, 1),
            "files": [p.relative_to(out) for p in files],
            "cells": {
                str(c.relative_to(out)): read_json(r)["hash"]
                for c, r in reports.items()
                if r.exists()
            },
        },
    )


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--guard"]:
        return guard_process(argv[1:])
    if argv[:1] == ["--papermill"]:
        return papermill_process(argv[1])
    parser = ArgumentParser(
        prog="python -m nat_lib.nbrun", description="Run one notebook, safely, without a browser."
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path, help="where the executed notebook goes")
    parser.add_argument(
        "--params", type=Path, metavar="FILE.json", help="parameters that replace the defaults"
    )
    parser.add_argument("--timeout", type=float, metavar="S", help="wall-clock limit in seconds")
    parser.add_argument(
        "--until", metavar="TAG", help="stop after the code cell that carries this tag"
    )
    parser.add_argument(
        "--record", type=Path, help="also write here, last, what the run left (for the driver)"
    )
    parser.add_argument("--key", default="", help="hash that the record carries")
    args = parser.parse_args(argv)
    die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _stop)
    began = time.monotonic()
    try:
        params = read_json(args.params) if args.params else {}
        if not isinstance(params, dict):
            raise Refusal(f"{args.params}: must be a JSON object of parameters")
        cells = run(args.notebook, args.out, params, args.timeout, args.until)
        if args.record:
            write_record(
                args.record, args.key, args.out.resolve(), params, cells, time.monotonic() - began
            )
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 2
    except (Failure, KeyboardInterrupt) as failure:
        print(f"failed: {failure or 'interrupted'}", file=sys.stderr)
        return 1
    print(f"{args.out}: done in {time.monotonic() - began:.0f} s")
    return 0


def _stop(*_):
    raise KeyboardInterrupt("stopped from outside; start it again to go on")

"""Papermill made safe: `python -m nat_lib.nbrun NOTEBOOK OUT --params FILE.json [--timeout S]`.

Exit code 0: OUT is complete. 1: the notebook failed, what was done of it is OUT with the suffix
.failed.ipynb. 2: refused, nothing was run. The processes are those of `nat_lib.run.guard`: no
kernel outlives its run.
"""

import json
import logging
import os
import re
import signal
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from nat_lib.errors import Refusal
from nat_lib.files import atomic, read_json, write_json, write_text
from nat_lib.run import guard
from nat_lib.run.guard import Failure
from nat_lib.run.params import Values, parameters_cell

# in a notebook's metadata: true where a copy to be mailed is wanted, OUT with the suffix .html
PAGE = "nat_page"


# --------------------------------------------------------------------------------------- parameters


def check_params(notebook: str | Path, params: Values) -> None:
    """Every given parameter is known to the parameters cell and has the type of its default.

    None fits any type, and any type fits None.
    """
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


def _fits(given: Any, default: Any) -> bool:
    if given is None or default is None:
        return True
    if isinstance(default, list | tuple):
        return isinstance(given, list | tuple) and _all_fit(given, default)
    if isinstance(default, dict):
        return isinstance(given, dict) and _all_fit(given.values(), default.values())
    if isinstance(default, float):
        return type(given) in (int, float)
    return type(given) is type(default)


def _all_fit(given: Any, defaults: Any) -> bool:
    """Each of the given values fits one of the defaults, if there are any."""
    return not defaults or all(any(_fits(value, d) for d in defaults) for value in given)


# ------------------------------------------------------------------------------------------ the run


def execute(notebook: Path, output: Path, params: Values, folder: Path) -> None:
    """Execute a notebook into `output`, which is replaced only if all of it ran.

    folder : temporary, for the kernel's files

    To be called in a worker. Raises Refusal (nothing was run) or Failure.
    """
    check_params(notebook, params)
    output.parent.mkdir(parents=True, exist_ok=True)
    for leftover in output.parent.glob(f".tmp-*-{output.name}"):  # of a run that was killed
        leftover.unlink(missing_ok=True)
    partial = output.with_name(f".tmp-{os.getpid()}-{output.name}")
    failed = output.with_suffix(".failed.ipynb")
    try:
        _papermill(notebook, partial, params, folder)
        check_executed(partial)
    except Failure as failure:
        kept = ""
        if _is_notebook(partial):
            with atomic(failed) as temporary:
                os.replace(partial, temporary)
            kept = f" (see {failed})"
        raise Failure(f"{failure}{kept}") from None
    else:
        executed = read_json(partial)
        executed["metadata"]["papermill"] |= {
            "input_path": notebook.name,
            "output_path": output.name,
        }
        write_text(output, json.dumps(executed, indent=1, ensure_ascii=False) + "\n")
        failed.unlink(missing_ok=True)
        if executed["metadata"].get(PAGE):
            from nat_lib.report import page

            page.write(output, output.with_suffix(".html"))
    finally:
        partial.unlink(missing_ok=True)


def _papermill(notebook: Path, output: Path, params: Values, folder: Path) -> None:
    """Run papermill in this process, with a fork of it as the kernel."""
    from nat_lib.run import kernel

    write_json(folder / "kernels" / kernel.NAME / "kernel.json", kernel.SPECIFICATION)
    forked = kernel.prepare()  # before anything below makes threads

    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("papermill").setLevel(logging.INFO)  # what the notebook prints, while it runs
    try:
        execute_notebook(
            _literal(notebook),
            _literal(output),
            params,
            kernel_name=kernel.NAME,
            language="python",
            progress_bar=False,
            log_output=True,
            start_timeout=300,
            cwd=notebook.parent,
            # Whatever a cell keeps is on disk when it ends: nothing is gained by a farewell of
            # seconds.
            shutdown_kernel="immediate",
            # Sockets in the run's own folder: kernels started side by side compete for TCP ports.
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/socket"}}),
        )
    except PapermillExecutionError as error:
        said = _one_line(error.ename, error.evalue)
        raise Failure(f"In [{error.exec_count}]: {said}") from None
    except Exception as error:
        if type(error).__name__ == "DeadKernelError":
            code = forked.poll()
            ended = guard.death(-code) if code and code < 0 else f"it ended with code {code}"
            raise Failure(f"the kernel is gone: {ended}; {guard.AGAIN}") from None
        raise Failure(_one_line(type(error).__name__, str(error))) from error


def _literal(path: Path) -> str:
    """A path as papermill shall read it, which fills in names in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def check_executed(path: Path) -> None:
    """Papermill's word is not enough: every code cell must have run without an error."""
    if not _is_notebook(path):
        raise Failure(
            "papermill left no readable notebook: is the disk full? free some space and start again"
        )
    for cell in read_json(path)["cells"]:
        if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
            continue
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                said = _one_line(output["ename"], output["evalue"])
                raise Failure(f"In [{cell['execution_count']}]: {said}")
        if cell["execution_count"] is None:
            raise Failure("a cell was not run, though papermill says that all is well")


def _is_notebook(path: Path) -> bool:
    try:
        return isinstance(read_json(path)["cells"], list)
    except (Refusal, KeyError, TypeError):
        return False


def _one_line(name: str, text: str) -> str:
    """An exception as one line; a Refusal already says what to do."""
    text = "; ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines())
    return text if name == "Refusal" else f"{name}: {text}"


# ------------------------------------------------------------------------------------- command line


def main(argv: list[str] | None = None) -> int:
    """Run one notebook, safely, without a browser."""
    parser = ArgumentParser(prog="python -m nat_lib.nbrun", description=main.__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path, help="where the executed notebook goes")
    parser.add_argument(
        "--params", type=Path, metavar="FILE.json", help="parameters that replace the defaults"
    )
    parser.add_argument("--timeout", type=float, metavar="S", help="wall-clock limit in seconds")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)
    began = time.monotonic()
    try:
        params = read_json(args.params) if args.params else {}
        if not isinstance(params, dict):
            raise Refusal(f"{args.params}: must be a JSON object of parameters")
        check_params(args.notebook, params)
        code = guard.run(args.notebook.stem, _work(args, params), args.timeout)
    except Refusal as refusal:
        guard.say(str(refusal))
        return guard.REFUSED
    except KeyboardInterrupt:
        guard.say("failed: stopped from outside; start it again to go on")
        return guard.FAILED
    if code == guard.DONE:
        print(f"{args.out}: done in {time.monotonic() - began:.0f} s")
    return code


def _work(args: Any, params: Values):
    def work(folder: Path) -> None:
        from nat_lib.run import worker

        worker.set_environment(folder, params)
        execute(args.notebook.resolve(), args.out.resolve(), params, folder)

    return work


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt

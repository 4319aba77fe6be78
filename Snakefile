# One rule per job of plan.json, which nat_lib.run.drive writes into the outputs folder (the working directory here).
# A job's record is its only output; the driver removes records that no longer hold, so nothing depends on file times.
import json
import shlex
from pathlib import Path

PLAN = json.loads(Path("plan.json").read_text())
RECORD = {job["id"]: job["record"] for job in PLAN["jobs"]}
PYTHON = shlex.quote(PLAN["python"])


rule all:
    input: list(RECORD.values())


for job in PLAN["jobs"]:
    rule:
        name: job["id"]
        input: [RECORD[need] for need in job["needs"]]
        output: job["record"]
        log: job["log"]
        threads: job["threads"]
        priority: round(10 * job["chain"])
        params:
            # exec: nbrun is then Snakemake's own child and notices its death
            command = (f"exec {PYTHON} -m nat_lib.nbrun {shlex.quote(str(Path(PLAN['root'], job['notebook'])))} "
                       f"{shlex.quote(job['output'])} --params {job['params_file']} --timeout {job['timeout']} "
                       f"--record {job['record']} --key {job['key']}" + (f" --until {job['until']}" if job["until"] else ""))
        shell: "{params.command} > {log} 2>&1"

# One rule per job of plan.json, which the driver (nat_lib/run/drive.py) writes into the outputs folder, the working
# directory here. A job's record is its only output; the driver removes records that no longer hold, so nothing depends
# on file times. Paths come from the environment: Snakemake would fill in their braces.
import json

with open("plan.json", encoding="utf-8") as file:
    PLAN = json.load(file)
RECORD = {job["id"]: job["record"] for job in PLAN["jobs"]}


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
        params: id = job["id"]
        shell: 'exec "$NAT_INTERPRETER" -m nat_lib job {params.id} > {log} 2>&1'

import json
from dataclasses import replace

import pytest
import yaml
from PIL import Image
from tiny import write_profile

from nat_lib import plans
from nat_lib.data import catalogue
from nat_lib.errors import Refusal
from nat_lib.files import ROOT, write_json
from nat_lib.run import code
from nat_lib.run import jobs as jobs_run
from nat_lib.run import params as params_run
from nat_lib.run.engine import prepare
from nat_lib.run.jobs import due, plan_jobs
from nat_lib.run.params import (
    RUN_KEYS,
    assignments,
    load_experiment,
    load_params,
    load_profile,
    parameters_cell,
)
from nat_lib.studies import STUDIES
from nat_lib.studies.models import DATASETS, Posting, Profile
from nat_lib.studies.parts import WORK

PROFILES, EXPERIMENTS = (
    sorted(p.stem for p in (ROOT / "params" / kind).glob("*.yaml"))
    for kind in ("profiles", "experiments")
)


# --------------------------------------------------------------------------------------- parameters


def test_every_parameter_file_is_valid_and_has_a_model():
    assert PROFILES == ["laptop", "own", "paper", "smoke"] and EXPERIMENTS == sorted(STUDIES)
    for profile in set(PROFILES) - {"own"}:
        assert load_profile(profile)["profile"] == profile
        for study in EXPERIMENTS:
            assert load_params(profile, study)["profile"] == profile


def pictures(folder, side):
    """A folder of two classes of three grey images, `side` pixels high and twice as wide."""
    for name in ("apple", "pear"):
        (folder / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (2 * side, side)).save(folder / name / f"{i}.png")
    return str(folder)


@pytest.mark.parametrize(
    ("side", "sizes"), [(10, [20, 24, 28]), (67, [44, 52, 64]), (300, [64, 80, 96])]
)
def test_a_profile_for_own_images_takes_its_sizes_from_them(tmp_path, side, sizes):
    changes = {"data_dir": pictures(tmp_path / "images", side)}
    params = load_params("own", "ofav2_eps", changes)
    assert params["train_resolutions"] == params["eval_resolutions"] == sizes
    assert params["curriculum"] == "one_stage"
    assert load_params("own", "ofav2_eps", changes | {"curriculum": "eps"})["curriculum"] == "eps"
    stems = {job.id for job in plan_jobs("own", changes, out=tmp_path)}
    numbers = {stem.partition("_")[0] for stem in stems}
    assert numbers == {"02", "04", "05", "06", "10"}


def test_sizes_of_no_images_are_refused(tmp_path):
    with pytest.raises(Refusal, match="give --data-dir"):
        load_profile("own")
    with pytest.raises(Refusal, match="holds no images"):
        load_profile("own", {"data_dir": str(tmp_path)})


def test_unknown_switches_of_a_profile_are_refused(tmp_path):
    path = write_profile(tmp_path / "mine.yaml", switches={"curiculum": "eps"})
    with pytest.raises(Refusal, match=r"switches: curiculum: unknown key; did you mean"):
        load_profile(path)


@pytest.mark.parametrize("plan", ["tiny", "none.yaml"])
def test_a_plan_that_is_none_is_refused(plan):
    with pytest.raises(Refusal, match=r"plan: .* is no plan"):
        load_params("smoke", "ofav2_eps", {"plan": plan})


def test_a_plan_can_be_a_file(tmp_path):
    path = tmp_path / "flat.yaml"
    path.write_text("strides: [1, 2, 2, 1, 2]\nkernels: [3, 5]\n")
    assert plans.named(str(path)) == replace(
        plans.THESIS, name="flat", strides=(1, 2, 2, 1, 2), kernels=(3, 5)
    )
    for text, said in [
        ("stride: 1", "unknown key stride; the keys are name, channels"),
        ("strides: 2", r"strides = 2, give something like \[2, 2"),
        ("channels: [8, wide, 8]", "channels = .* give something like"),
        ("strides: [1, 2]", "channels has 6 values for 2 stages"),
        ("- 3", "must be lines of 'key: value'"),
        ("a: [", "cannot be read as YAML"),
    ]:
        path.write_text(text)
        with pytest.raises(Refusal, match=said):
            plans.named(str(path))


@pytest.mark.parametrize("key", ["plan", "start"])
def test_jobs_are_due_when_the_content_of_a_file_that_they_name_changes(tmp_path, key):
    path = tmp_path / {"plan": "mine.yaml", "start": "best.safetensors"}[key]
    text = str(path) if key == "plan" else f"cell:{tmp_path}"
    path.write_text("strides: [1, 2, 2, 1, 2]\n")
    before = plan_jobs("smoke", {key: text}, ["02"], tmp_path)
    path.write_text("strides: [2, 1, 2, 1, 2]\n")
    after = plan_jobs("smoke", {key: text}, ["02"], tmp_path)
    assert all(
        one.params == two.params and one.why["files"] != two.why["files"]
        for one, two in zip(before, after, strict=True)
    )


def test_profile_and_experiment_keys_do_not_overlap():
    for row in STUDIES.values():
        assert not set(row.switches.model_fields) & {*Profile.model_fields, *RUN_KEYS}


def test_the_paper_profile_runs_everything_at_full_size():
    paper = load_profile("paper")
    assert paper["base_channels"] == [16, 24, 40, 80, 112, 160] and paper["batch_size"] == 200
    assert paper["epoch_fraction"] == paper["lr_factor"] == 1.0 and paper["val_subnets"] == 32
    assert all(
        paper[key] is None
        for key in (
            "train_images",
            "val_images",
            "test_images",
            "grid_subnets",
            "max_steps_per_epoch",
        )
    )
    assert all(len(names) == 8 and "SE_B" not in names for names in paper["supernets"].values())


def test_data_sets_are_those_of_the_data_module():
    assert set(DATASETS) == set(catalogue.DATASETS)


def test_overrides_win_and_whole_numbers_serve_as_numbers():
    params = load_params("smoke", "ofav2_eps", {"lr_factor": 2, "seeds": [0, 1]})
    assert (
        params["lr_factor"] == 2.0
        and isinstance(params["lr_factor"], float)
        and params["seeds"] == [0, 1]
    )


REFUSED = [
    ("lr_factor=1e-3", "command line: lr_factor: '1e-3' is text, not a number: write 0.001"),
    ("lr_factor=1e-5", "lr_factor: '1e-5' is text, not a number: write 1.0e-05"),
    ("batch_size=1e2", "batch_size: '1e2' is text, not a number: write 100"),
    ("batch_size=many", "batch_size: 'many' must be a whole number"),
    ("batch_size=1.5", "batch_size: 1.5 must be a whole number"),
    ("batch_size=true", "batch_size: True must be a whole number"),
    ("batch_size=0", "batch_size: 0 must be greater than or equal to 2"),
    ("epoch_fraction=1.5", "epoch_fraction: 1.5 must be less than or equal to 1"),
    ("lr_factor=.nan", "lr_factor: nan must be a finite number"),
    ("val_subnets=33", "val_subnets: 33 must be less than or equal to 32"),
    ("mix=[0, 0]", "mix: [0, 0] give the weights of labels and of the teacher"),
    ("sampler=best", "sampler: 'best' is not one of 'uniform', 'largest_first', 'sandwich'"),
    ("stale_exits=1", "stale_exits: 1 must be true or false"),
    ("pet_lag=true", "pet_lag: True must be a whole number"),
    ("seeds=3", "seeds: 3 must be a list"),
    ("seeds=[1, 1]", "seeds: [1, 1] names a value twice"),
    ("seeds=[-1]", "seeds[0]: -1 must be greater than or equal to 0"),
    ("widths=[1.1]", "widths[0]: 1.1 is not one of 1.0, 1.2"),
    ("teachers=[pet, cat]", "teachers[1]: 'cat' is not one of 'fixed', 'pet'"),
    ("dataset=imagenet", "dataset: 'imagenet' is not one of 'digits', 'digits_turned'"),
    ("dataset=folder", "data_dir: folder needs the folder its images lie in (--data-dir DIR)"),
    ('supernets={"1.0": [EE_X]}', "supernets[1.0][0]: 'EE_X' is not one of 'BASE', 'SE_B'"),
    (
        "supernets={1.0: [EE_D]}",
        "supernets[1.0]: 1.0 is not one of '1.0', '1.2'; write it in quotes",
    ),
    ("train_resolutions=[32, 16]", "train_resolutions: [32, 16] must be ascending"),
    ("train_resolutions=[18]", "train_resolutions[0]: 18 must be a multiple of 4"),
    ("lr_factr=2", "--set lr_factr: unknown key; did you mean lr_factor?"),
    ("colour=red", "--set colour: unknown key; the keys are profile, data_dir"),
    ("aep_networks=[LeNet]", "aep_networks[0]: 'LeNet' is not one of 'ResNet50', 'VGG16'"),
    ("aep_scenarios={TR-32: 32}", "aep_scenarios[TR-32]: 'TR-32' is not one of 'TR-224'"),
    (
        "aep_datasets=[cifar10]",
        "data_dir: cifar10 needs the folder its images lie in (--data-dir DIR)",
    ),
    ("lr_factor", "--set lr_factor: write key=value"),
    ("lr_factor=[", "--set lr_factor=[: write key=value"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_bad_values_are_refused_with_key_and_legal_values(text, message):
    with pytest.raises(Refusal) as refusal:
        load_params("smoke", "ofav2_eps", assignments([text]))
    assert message in str(refusal.value)


def test_all_mistakes_of_a_file_are_told_one_line_each(tmp_path):
    values = yaml.safe_load((ROOT / "params" / "profiles" / "smoke.yaml").read_text())
    values |= {"batch_size": "1e2", "colour": "red"}
    del values["threads"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(Refusal) as refusal:
        load_profile(path)
    lines = str(refusal.value).splitlines()
    assert len(lines) == 3 and all(line.startswith(f"{path}: ") for line in lines)
    assert "threads: must be given: it is missing" in str(refusal.value)
    assert "colour: unknown key; the keys are profile, data_dir" in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile: [", "line 1: not valid YAML"),
        ("- a", "must be lines of 'key: value'"),
        ("a: " + 5000 * "[", "not valid YAML"),
        ("a: " + 1_000_001 * "x", "is larger than 1000000 bytes"),
        (b"profile: gr\xfcn", "is not UTF-8 text: save it in that encoding"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path, text, message):
    if text is not None:
        blob = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "mine.yaml").write_bytes(blob)
    with pytest.raises(Refusal, match=message):
        load_profile(tmp_path / "mine.yaml")


def test_unknown_profiles_and_experiments_are_refused():
    with pytest.raises(Refusal, match="profile: 'big' is not one of laptop, own, paper, smoke"):
        load_profile("big")
    with pytest.raises(Refusal, match="experiment: 'ofa' is not one of start_here"):
        load_params("smoke", "ofa")


# ---------------------------------------------------------------------------------------- notebooks


@pytest.fixture
def notebooks(tmp_path, make_notebook):
    """Three notebooks with the parameters they would have, and nothing to do."""
    run = {"profile": "smoke", "out": "outputs/smoke"}
    make_notebook(tmp_path / "nb" / "00_start_here.ipynb", load_experiment("start_here") | run, "1")
    make_notebook(
        tmp_path / "nb" / "02_ofav2_eps.ipynb",
        load_experiment("ofav2_eps") | run | {"figures": "", "supernets": {}, "grid_subnets": 9},
        "2",
        "3",
    )
    make_notebook(
        tmp_path / "nb" / "07_thesis_report.ipynb", load_experiment("thesis_report") | run, "4"
    )
    return tmp_path / "nb"


def test_a_parameters_cell_holds_literals_only(tmp_path, make_notebook):
    assert parameters_cell(make_notebook(tmp_path / "a.ipynb", {"a": -1, "b": [1.5, None]})) == {
        "a": -1,
        "b": [1.5, None],
    }
    path = tmp_path / "b.ipynb"
    for source in ("a = f()", "import os", "a, b = 1, 2", "a ="):
        path.write_text(
            (tmp_path / "a.ipynb")
            .read_text()
            .replace(json.dumps("a = -1\n"), json.dumps(source + "\n"))
        )
        with pytest.raises(Refusal, match="only lines of 'name = literal'"):
            parameters_cell(path)


def test_one_cell_must_be_tagged(tmp_path, make_notebook):
    path = make_notebook(tmp_path / "a.ipynb", {"a": 1})
    path.write_text(path.read_text().replace('"parameters"', '"params"'))
    with pytest.raises(Refusal, match="one code cell must carry the tag 'parameters', 0 do"):
        parameters_cell(path)


def test_parameters_cells_and_files_must_agree(notebooks, make_notebook):
    make_notebook(
        notebooks / "07_thesis_report.ipynb",
        {"profile": "", "out": "", "noise_seed": 0, "colour": "red"},
    )
    with pytest.raises(Refusal) as refusal:
        plan_jobs("smoke", notebooks=notebooks)
    assert "colour: the parameters cell knows a name that no file in params/ has" in str(
        refusal.value
    )
    assert "noise_copies: missing from the parameters cell" in str(refusal.value)


# --------------------------------------------------------------------------------------------- jobs


def test_jobs_of_smoke(notebooks, tmp_path):
    jobs = {job.id: job for job in plan_jobs("smoke", out=tmp_path / "out", notebooks=notebooks)}
    smoke = load_profile("smoke")
    cells = [(name, width) for width, names in smoke["supernets"].items() for name in names]
    parts = [job for job in jobs.values() if job.id.startswith("02_ofav2_eps-")]
    assert {job.id for job in parts} == {
        f"02_ofav2_eps-{name}_w{width}_s0" for name, width in cells
    }
    assert len(jobs) == 3 + len(cells)
    assert [job.weight for job in parts] == sorted((job.weight for job in parts), reverse=True)
    one = jobs["02_ofav2_eps-EE_D_w1.2_s0"]
    assert one.params["supernets"] == {"1.2": ["EE_D"]} and one.params["widths"] == [1.2]
    assert one.params["teachers"] == ["fixed", "pet"] and one.study == "ofav2_eps"
    assert one.notebook is None and one.params["grid_subnets"] == smoke["grid_subnets"]
    whole = jobs["02_ofav2_eps"]
    assert whole.params["supernets"] == smoke["supernets"] and set(whole.needs) == {
        job.id for job in parts
    }
    assert (
        whole.output == "02_ofav2_eps.ipynb"
        and whole.notebook.endswith("nb/02_ofav2_eps.ipynb")
        and whole.params["figures"].endswith(whole.id)
    )
    assert set(jobs["07_thesis_report"].needs) == {"00_start_here", "02_ofav2_eps"}
    seen = set()
    for job in jobs.values():  # an order that Snakemake and `due` can follow
        assert seen >= set(job.needs)
        seen.add(job.id)


def test_chains_end_with_the_report_and_long_ones_come_first(tmp_path):
    jobs = {job.id: job for job in plan_jobs("smoke", out=tmp_path / "out")}
    chains = jobs_run.chains(list(jobs.values()))

    def longest(id):
        return jobs[id].weight + max(
            (longest(other) for other, job in jobs.items() if id in job.needs), default=0.0
        )

    assert chains == pytest.approx({id: longest(id) for id in jobs})
    assert min(chains, key=chains.get) == "07_thesis_report"
    first = max((id for id in jobs if not jobs[id].needs), key=chains.get)
    assert first == "02_ofav2_eps-EE_D_w1.2_s0"  # whose searches and post-processing follow


def test_longest_first_as_measured():
    order = sorted(WORK, key=WORK.get, reverse=True)
    assert order == ["EE_DP", "EE_P", "EE_D", "EE_B", "SE_DP", "SE_P", "SE_D", "SE_B", "BASE"]


def test_seeds_are_parts_of_their_own_and_one_part_is_no_part(notebooks, tmp_path):
    one = {"supernets": {"1.0": ["SE_D"]}}
    made = plan_jobs("smoke", one | {"seeds": [0, 1]}, ["02"], tmp_path, notebooks)
    assert [job.id for job in made] == [
        "02_ofav2_eps-SE_D_w1.0_s0",
        "02_ofav2_eps-SE_D_w1.0_s1",
        "02_ofav2_eps",
    ]
    assert [job.id for job in plan_jobs("smoke", one, ["02"], tmp_path, notebooks)] == [
        "02_ofav2_eps"
    ]


def test_only_names_notebooks_that_exist(notebooks, tmp_path):
    assert [job.id for job in plan_jobs("smoke", only=["07"], notebooks=notebooks)] == [
        "07_thesis_report"
    ]
    with pytest.raises(Refusal, match="there is no notebook 04; there are 00, 02, 07"):
        plan_jobs("smoke", only=["04"], notebooks=notebooks)
    with pytest.raises(Refusal, match="no notebook such as"):
        plan_jobs("smoke", notebooks=tmp_path)


def test_images_must_be_there_before_anything_starts(notebooks, tmp_path):
    with pytest.raises(Refusal, match=r"data_dir: there is no folder .*put cifar10 there"):
        plan_jobs(
            "smoke", {"dataset": "cifar10", "data_dir": str(tmp_path / "none")}, notebooks=notebooks
        )
    plan_jobs("smoke", {"dataset": "cifar10", "data_dir": str(tmp_path)}, notebooks=notebooks)


def keys(notebooks, out, **overrides):
    return {job.id: job.key for job in plan_jobs("smoke", overrides, out=out, notebooks=notebooks)}


def changed(before, after):
    return {id for id in before if before[id] != after[id]}


def test_a_key_changes_with_what_the_job_gets_and_with_nothing_else(notebooks, tmp_path):
    before = keys(notebooks, tmp_path)
    assert keys(notebooks, tmp_path) == before
    assert (
        changed(before, keys(notebooks, tmp_path, aep_epochs=5)) == set()
    )  # none of these asks for it
    assert changed(before, keys(notebooks, tmp_path, samples=7)) == {
        "00_start_here",
        "07_thesis_report",
    }
    everything = {id for id in before if id[:2] in ("02", "07")}
    assert changed(before, keys(notebooks, tmp_path, grid_subnets=17)) == everything


def test_a_key_changes_with_the_notebook_but_the_cells_of_its_parts_do_not(notebooks, tmp_path):
    before = keys(notebooks, tmp_path)
    path = notebooks / "02_ofav2_eps.ipynb"
    path.touch()
    assert keys(notebooks, tmp_path) == before
    text = path.read_text()
    for old, new in (('"Prose."', '"Other prose."'), ('"2"', '"22"'), ('"3"', '"33"')):
        assert old in text
        path.write_text(text.replace(old, new))
        assert changed(before, keys(notebooks, tmp_path)) == {"02_ofav2_eps", "07_thesis_report"}


def test_images_that_change_under_their_names_make_their_jobs_stale(notebooks, tmp_path):
    images = tmp_path / "images"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        (images / name / "1.png").write_bytes(b"1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.png").write_bytes(b"2")
    (images / "c").symlink_to(tmp_path / "elsewhere")
    own = {"dataset": "folder", "data_dir": str(images)}

    def now():
        code.fingerprint.cache_clear()
        return keys(notebooks, tmp_path, **own)

    stale = {id for id in keys(notebooks, tmp_path) if id[:2] in ("02", "07")}
    before = now()
    assert now() == before
    for path in (images / "a" / "1.png", tmp_path / "elsewhere" / "2.png"):  # also behind a link
        path.write_bytes(b"another picture")
        after = now()
        assert changed(before, after) == stale
        before = after
    (images / "a" / "loop").symlink_to(images)
    assert set(now()) == set(before)  # a link that leads back ends, too


TOGETHER = [
    ({"supernets": {"1.0": ["BASE"]}}, ["03"], "predictor_supernets: EE_B is trained at no width"),
    ({"supernets": {"1.0": ["BASE"]}}, ["04"], "nat_supernets: EE_D is trained at no width"),
    ({"archive_sizes": [2, 12]}, ["04"], "archive_sizes[0]: 2 must be greater than or equal to 3"),
    ({"teachers": ["fixed"]}, ["02", "04"], "teachers: the searches of version 4 start from"),
    ({"widths": [1.2]}, ["02", "03"], "predictor_supernets: EE_B is trained at no width"),
    ({"post_searches": {"1": ["acc"], "4": ["acc"]}}, ["05"], "post_searches[4]: acc is not among"),
    ({"nat_supernets": {4: ["BASE"]}}, ["04"], "is not one of '1', '2', '3', '4'; write it in"),
]


@pytest.mark.parametrize(("changes", "only", "message"), TOGETHER)
def test_what_a_later_notebook_would_refuse_is_refused_before_anything_runs(changes, only, message):
    with pytest.raises(Refusal) as refusal:
        plan_jobs("smoke", changes, only)
    assert message in str(refusal.value)


def test_searches_run_on_each_target_as_in_the_thesis(tmp_path):
    """METHODS: eleven data sets; on eight of them version 1 alone, without parallel supernets."""
    images = {"data_dir": str(tmp_path)}
    jobs = plan_jobs("paper", images, ["04", "05"], tmp_path / "out")
    parts = [job for job in jobs if job.study == "natv2_phases" and not job.notebook]
    on = {}
    for job in parts:
        for version, names in job.params["nat_supernets"].items():
            on.setdefault((job.params["target"], version), []).extend(names)
    assert len({job.id for job in jobs}) == len(jobs)
    assert len({target for target, names in on.items() if names}) == 3 * 4 + 8
    every = ["BASE", "EE_B", "EE_D", "EE_DP", "EE_P", "SE_B", "SE_D", "SE_DP", "SE_P"]
    every.remove("SE_B")
    assert sorted(on["cifar100", "1"]) == every
    assert sorted(on["cifar100", "4"]) == ["BASE", "EE_B", "EE_D", "SE_D"]
    assert sorted(on["pets", "1"]) == ["BASE", "EE_B", "EE_D", "SE_D"] and not on["pets", "4"]
    posts = [job for job in jobs if job.study == "post_processing" and not job.notebook]
    studied = {job.params["target"] for job in posts if job.params["post_searches"]["1"]}
    assert studied == {"cifar100"}  # the strategies, section 6.3.2
    one = plan_jobs("paper", images | {"target": "pets", "targets": None}, ["04"], tmp_path)
    assert {job.params["target"] for job in one if not job.notebook} == {"pets"}
    with pytest.raises(Refusal, match="targets: cifar10, the target, is not among them"):
        load_profile("paper", images | {"targets": ["pets"]})


def test_one_key_alone_is_enough_for_the_notebooks_that_read_it():
    assert plan_jobs("smoke", {"supernets": {"1.0": ["BASE"]}}, ["02", "07"])


# ------------------------------------------------------------------------------------- what is left


def test_due_is_what_lacks_a_valid_record_and_what_needs_it(notebooks, tmp_path):
    out, report = tmp_path / "out", {"hash": "abc", "params": {}, "metrics": {}}
    jobs = plan_jobs("smoke", out=out, notebooks=notebooks)
    everything = {job.id for job in jobs}
    assert due(jobs, out) == dict.fromkeys(everything, "not run yet")
    prepare(jobs, out, everything)
    (out / "cell").mkdir()
    for job in jobs:
        if job.notebook:
            (out / job.output).write_text("")
        cells = {"cell": "abc"} if job.id == "00_start_here" else {}
        (out / job.record).write_text(
            json.dumps(
                {"why": job.why, "files": [job.output] if job.notebook else [], "cells": cells}
            )
        )
    write_json(out / "cell/report.json", report)
    assert due(jobs, out) == {}
    write_json(out / "cell/report.json", report | {"hash": "other"})
    assert due(jobs, out) == {
        "00_start_here": "cell was made anew",
        "07_thesis_report": "after 00_start_here",
    }
    write_json(out / "cell/report.json", report)
    (out / jobs[1].record).write_text("{")
    part = jobs[1].id
    left = {part, "02_ofav2_eps", "07_thesis_report"}
    assert set(due(jobs, out)) == left
    (out / jobs[1].record).unlink()
    assert due(jobs, out)[part] == "not run yet"
    prepare(jobs, out, left)
    assert not any((out / job.record).exists() for job in jobs if job.id in left)
    others = plan_jobs("smoke", {"samples": 7}, out=out, notebooks=notebooks)
    assert set(due(others, out)) == left | {"00_start_here"}
    assert due(others, out)["00_start_here"] == "parameters changed"


def test_the_plan_is_written_only_when_it_changes(notebooks, tmp_path):
    jobs = plan_jobs("smoke", out=tmp_path, notebooks=notebooks)
    prepare(jobs, tmp_path, set())
    first = (tmp_path / "plan.json").stat()
    prepare(jobs, tmp_path, set())
    assert (tmp_path / "plan.json").stat().st_ino == first.st_ino
    listed = json.loads((tmp_path / "plan.json").read_text())["jobs"]
    assert [job["id"] for job in listed] == [job.id for job in jobs] and listed[0][
        "params"
    ] == jobs[0].params


def test_a_notebook_takes_its_sizes_from_the_profile_unless_told_otherwise():
    what = load_experiment("post_processing")
    plain = params_run.given("post_processing", what | {"profile": "smoke", "sizes": {}})
    assert (
        plain["post_epochs"] == load_profile("smoke")["post_epochs"]
        and "epoch_fraction" not in plain
    )
    assert params_run.given(
        "post_processing", what | {"profile": "smoke", "sizes": {"post_epochs": 7}}
    ) == (plain | {"post_epochs": 7})
    whole = {k: v for k, v in plain.items() if k in Posting.model_fields and k != "job_hours"}
    mine = {"profile": "mine"}  # no such file: not looked for
    given = params_run.given("post_processing", what | mine | {"sizes": whole | mine})
    assert given == plain | mine | {"job_hours": 1.0}
    for sizes, line in (
        ({"post_epoch": 7}, "post_epoch: unknown key"),
        ({"post_epochs": "7"}, "is text, not a number"),
    ):
        with pytest.raises(Refusal, match=line):
            params_run.given("post_processing", what | {"profile": "smoke", "sizes": sizes})

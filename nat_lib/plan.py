"""params/ -> parameters -> jobs, and the driver behind run_all.sh that has Snakemake run them.

A profile says how much (images, epochs, subnets), an experiment says what (teachers, seeds, switches); a notebook gets
both, flat. A notebook loops over its cells and skips the finished ones, so a job is the same notebook told to do a part
of its cells; a last run of it finds all of them finished and draws tables and figures.
"""

import ast
import hashlib
import sys
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from nat_lib.arch import NETWORKS
from nat_lib.runs import ROOT, Refusal, hash_of, plain, read_json, write_json
from nat_lib.stages import BACKBONES, baseline_of

PARAMS = ROOT / "params"
EMBEDDED = ("digits", "digits_turned")                      # need no folder
DATASETS = (*EMBEDDED, "folder", "tiny_imagenet", "cifar10", "cifar100", "cinic10", "stl10", "food101", "cars",
            "aircraft", "dtd", "pets", "flowers102", "eurosat", "fashion_mnist", "gtsrb")   # as data.py, without torch


# ---------------------------------------------------------------------------------------------- what may be asked for

def _distinct(values):
    if len(set(values)) != len(values):
        raise ValueError("names a value twice")
    return values


def _ascending(values):
    if list(values) != sorted(set(values)):
        raise ValueError("must be ascending, each value once")
    return values


Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Channels = Annotated[int, Field(ge=8, le=4096)]
Side = Annotated[int, Field(ge=8, le=512, multiple_of=4)]
Sides = Annotated[list[Side], Field(min_length=1), AfterValidator(_ascending)]
Width = Literal["1.0", "1.2"]
Names = Annotated[list[Literal[*NETWORKS]], AfterValidator(_distinct)]
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1), AfterValidator(_distinct)]


AepNames = Annotated[list[Literal[*BACKBONES]], AfterValidator(_distinct)]
Scenario = Literal["TR-224", "FT-224", "TR-64", "FT-64"]      # thesis 4.2.1: from scratch or fine-tuned, pixels
OTHERS = "others"                   # in aep_proxy: every data set that has no line of its own

PhaseName = Literal["1", "2", "3", "4"]
Pair = Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=2, max_length=2)]
PREDICTORS = ("rbf", "rbfs", "mlp", "e2epp", "carts", "gp", "svr", "ridge", "knn", "bayesian", "lgb", "catboost")
COSTS = ("params", "macs", "latency")       # objectives beside accuracy, in their order


def _objectives(text):
    names = text.split("+")
    if "acc" not in names or len(set(names)) < len(names) or not set(names) <= {"acc", *COSTS}:
        raise ValueError(f"is not acc alone or joined by + with some of {', '.join(COSTS)}, such as acc+macs")
    return text


Sets = Annotated[list[Annotated[str, AfterValidator(_objectives)]], AfterValidator(_distinct)]


def _width(value):
    if value not in (1.0, 1.2):
        raise ValueError("is not one of 1.0, 1.2")
    return value


class Strict(BaseModel):
    """Every key is required, no other key exists, and text is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Machine(Strict):
    """What every study needs."""

    profile: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    data_dir: str | None                    # relative to the repository; digits need none
    threads: Annotated[int, Field(ge=1, le=256)]
    workers: Annotated[int, Field(ge=0, le=256)]
    job_hours: Annotated[float, Field(gt=0)]    # a job that takes longer is stopped; read by the driver alone


class Pruning(Machine):
    """How much of chapter 4. None (null) means all of it."""

    aep_datasets: Annotated[list[Literal[*DATASETS]], AfterValidator(_distinct)]
    aep_networks: AepNames
    aep_scenarios: dict[Scenario, Side]     # which, and at how many pixels here
    aep_proxy: dict[Literal[*DATASETS, OTHERS], Literal[*DATASETS]]     # fine-tuned on this: pre-trained on that
    aep_train_images: Count | None
    aep_val_images: Count | None
    aep_test_images: Count | None
    aep_batch_size: Annotated[int, Field(ge=2)]
    aep_eval_batch_size: Count
    aep_epochs: Count
    aep_patience: Count
    aep_max_steps: Count | None             # per epoch
    aep_lr_factor: Annotated[float, Field(gt=0, le=1000)]
    aep_bn_momentum: Share | None           # None: as torchvision builds the network
    aep_latency_runs: Count

    @model_validator(mode="after")
    def _data_sets_lie_somewhere(self):
        for name in self.aep_datasets:
            if name not in EMBEDDED and not self.data_dir:
                raise ValueError(f"data_dir: {name} needs the folder its images lie in (--data-dir DIR)")
        return self


class Common(Machine):
    """How much, in every study of chapters 5 and 6. None (null) means all of it."""

    dataset: Literal[*DATASETS]             # on which supernets are trained
    base_channels: Annotated[list[Channels], Field(min_length=2, max_length=6)]
    train_resolutions: Sides
    eval_resolutions: Sides
    calibration_images: Count | None
    supernets: dict[Width, Names]

    @model_validator(mode="after")
    def _images_lie_somewhere(self):
        if self.dataset not in EMBEDDED and not self.data_dir:
            raise ValueError(f"data_dir: {self.dataset} needs the folder its images lie in (--data-dir DIR)")
        return self


class Shrinking(Common):
    """How much of chapter 5."""

    train_images: Count | None
    val_images: Count | None
    test_images: Count | None
    batch_size: Annotated[int, Field(ge=2)]
    eval_batch_size: Count
    epoch_fraction: Share                   # of the epochs in thesis Table 5.2
    min_epochs: Count
    min_full_epochs: Count                  # of the Full phase, which starts from random weights
    max_steps_per_epoch: Count | None
    learning_rates: Literal["thesis", "code"]   # Table 5.2, or the published training scripts
    lr_factor: Annotated[float, Field(gt=0, le=1000)]
    val_subnets: Annotated[int, Field(ge=1, le=32)]
    grid_subnets: Count | None


class Target(Common):
    """The data set that chapter 6 works on."""

    target: Literal[*DATASETS]              # to which the supernets are moved
    target_dir: str | None                  # None: data_dir
    target_train_images: Count | None
    target_val_images: Count | None
    target_test_images: Count | None
    nat_eval_batch_size: Count

    @model_validator(mode="after")
    def _target_lies_somewhere(self):
        if self.target not in EMBEDDED and not (self.target_dir or self.data_dir):
            raise ValueError(f"target_dir: {self.target} needs the folder its images lie in (--target-dir DIR)")
        return self


class Moving(Target):
    """How much of warm-up and adaptation."""

    nat_batch_size: Annotated[int, Field(ge=2)]
    nat_epoch_fraction: Share               # of the epochs of the warm-up
    nat_min_epochs: Count
    nat_max_steps: Count | None             # per epoch
    nat_lr_factor: Annotated[float, Field(gt=0, le=1000)]
    nat_val_subnets: Annotated[int, Field(ge=1, le=32)]


class Comparing(Moving):
    """How much of the comparison of predictors."""

    predictor_supernets: Names
    predictors: Annotated[list[Literal[*PREDICTORS]], Field(min_length=1), AfterValidator(_distinct)]
    predictor_sizes: Annotated[list[Annotated[int, Field(ge=10)]], Field(min_length=1), AfterValidator(_ascending)]
    predictor_repeats: Count
    predictor_tests: Annotated[int, Field(ge=3)]


class Searching(Moving):
    """How much of the searches. Pairs are (NAT, NATv2): phase 1, and phases 2 to 4."""

    nat_supernets: dict[PhaseName, Names]
    searches: dict[PhaseName, Sets]
    iterations: Count
    adaptation_epochs: Count                # per iteration
    archive_sizes: Pair
    candidates: Pair                        # measured per iteration
    multiplier: Count                       # of the archive size that pre-processing samples in phases 3 and 4
    top: Count                              # subnets that the distributions of the adaptation are fitted to
    distribution_families: Literal["short", "all"]
    latency_runs: Count


class Posting(Target):
    """How much of post-processing."""

    nat_supernets: dict[PhaseName, Names]
    post_searches: dict[PhaseName, Sets]
    post_subnets: Count                     # of each search
    post_epochs: Count
    post_patience: Count
    post_batch_size: Annotated[int, Field(ge=2)]
    post_max_steps: Count | None


class Profile(Pruning, Shrinking, Comparing, Searching, Posting):
    """How much of everything."""


class StartHere(Strict):
    show_supernet: Literal[*NETWORKS]
    show_width: Annotated[float, AfterValidator(_width)]
    samples: Count
    sample_seed: Annotated[int, Field(ge=0)]


class AepStudy(Strict):
    seeds: Seeds
    hidden: Literal["measured", "proportional"]
    keep_stem: bool
    ties: Literal["smaller", "published"]
    weights_dir: str | None                 # folder of ImageNet weights; None: torch's own
    download: bool
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]


class Ofav2Eps(Strict):
    widths: Annotated[list[Annotated[float, AfterValidator(_width)]], Field(min_length=1), AfterValidator(_distinct)]
    teachers: Annotated[list[Literal["fixed", "pet"]], Field(min_length=1), AfterValidator(_distinct)]
    seeds: Seeds
    exit_weights: Literal["DESC", "ASC"]
    kd: Literal["ensemble", "e2e"]
    pet_lag: Annotated[int, Field(ge=0, le=1)]
    stale_exits: bool
    training_sizes: Literal["five", "three"]
    tail_scaling: Literal["once", "twice"]
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]


class Warming(Strict):
    """Switches of the warm-up, shared by every study of chapter 6."""

    seeds: Seeds
    exit_weights: Literal["DESC", "ASC"]
    carry_kernel_transforms: bool
    tail_scaling: Literal["once", "twice"]
    search_resolutions: Sides | None
    device: Literal["cpu", "cuda"]


class Predictors(Warming):
    encodings: Annotated[list[Literal["integer", "onehot"]], Field(min_length=1), AfterValidator(_distinct)]
    draw_seed: Annotated[int, Field(ge=0)]


class Natv2Phases(Warming):
    predictor: Literal[*PREDICTORS]
    fallback: Literal[*PREDICTORS]
    mask_after_exit: bool
    depth_prior: Literal["uniform", "author"]
    population: Annotated[int, Field(ge=4)]
    generations: Count
    crossover: Literal["uniform", "two_point"]
    subset_population: Annotated[int, Field(ge=4)]
    subset_generations: Count
    distribution_law: Literal["sse", "uniform_range", "empirical"]
    fit_processes: Annotated[int, Field(ge=1, le=256)]
    latency: Literal["table", "measured"]
    tradeoff_reduce: Literal["min", "max"]
    tradeoff_normalise: bool


class PostProcessing(Strict):
    seeds: Seeds
    post_learning_rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1), AfterValidator(_distinct)]
    post_final: Literal["train+val", "train"]
    device: Literal["cpu", "cuda"]


class ParetoBrowser(Strict):
    front_objectives: Annotated[str, AfterValidator(_objectives)] | None
    export_recommended: bool


class ThesisReport(Strict):
    noise_copies: Annotated[int, Field(ge=100)]
    noise_seed: Annotated[int, Field(ge=0)]


EXPERIMENTS = {"start_here": StartHere, "aep_study": AepStudy, "ofav2_eps": Ofav2Eps, "predictors": Predictors,
               "natv2_phases": Natv2Phases, "post_processing": PostProcessing, "pareto_browser": ParetoBrowser,
               "thesis_report": ThesisReport}
HOW_MUCH = {"aep_study": Pruning, "ofav2_eps": Shrinking, "predictors": Comparing, "natv2_phases": Searching,
            "post_processing": Posting}
RUN_KEYS = ("out", "figures", "sizes")      # where cells live; where tables and figures go; what a profile says

KINDS = {"int_type": "a whole number", "float_type": "a number", "bool_type": "true or false", "string_type": "text",
         "list_type": "a list", "dict_type": "a mapping", "finite_number": "a finite number",
         "missing": "given: it is missing"}


def _validated(model, values, where, changed=()):
    """`values` as the model's plain dict; otherwise a Refusal with one line per key. `changed`: given by options."""
    try:
        return model.model_validate(values).model_dump()
    except ValidationError as error:
        lines = [f"{'command line' if e['loc'] and e['loc'][0] in changed else where}: {_line(e, model)}"
                 for e in error.errors()]
    raise Refusal("\n".join(lines))


def _line(error, model):
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    key = "".join(f"[{part}]" if isinstance(part, int) or i else part for i, part in enumerate(error["loc"])
                  if part != "[key]")
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {_meant(key, model.model_fields)}"
    if kind == "literal_error":
        return f"{key}: {given!r} is not one of {context['expected'].replace(' or ', ', ')}"
    if kind == "value_error":
        return f"{key}: {given!r} {context['error']}" if key else str(context["error"])
    if kind in ("int_type", "float_type") and isinstance(given, str) and _number(given) is not None:
        return f"{key}: {given!r} is text, not a number: write {_number(given)}"
    if kind in KINDS:
        return f"{key}: {'' if kind == 'missing' else repr(given) + ' '}must be {KINDS[kind]}"
    return f"{key}: {given!r} {error['msg'].replace('Input should', 'must').replace('String should', 'must')}"


def _meant(key, known):
    close = get_close_matches(key, known, 1)
    return f"did you mean {close[0]}?" if close else f"the keys are {', '.join(known)}"


def _number(text):
    """A number that YAML 1.1 read as text (1e-3), spelled so that it is read as a number; None if it is no number."""
    try:
        value = float(text)
    except ValueError:
        return None
    spelled = repr(int(value)) if value.is_integer() and abs(value) < 1e15 and "." not in text else repr(value)
    return spelled if "." in spelled or "e" not in spelled else spelled.replace("e", ".0e")


# ---------------------------------------------------------------------------------------------- parameters

def read_yaml(path):
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError):
        raise Refusal(f"{path} cannot be read: check the path") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Refusal(f"{path}, line {mark.line + 1 if mark else '?'}: not valid YAML") from None
    if not isinstance(values, dict):
        raise Refusal(f"{path}: must be lines of 'key: value'")
    return values


def profile_path(profile):
    """File of a profile: its name, or the path of a YAML file of one's own."""
    if Path(profile).suffix in (".yaml", ".yml"):
        return Path(profile)
    path = PARAMS / "profiles" / f"{profile}.yaml"
    if not path.exists():
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise Refusal(f"profile: {profile!r} is not one of {names} and not the path of a .yaml file")
    return path


def load_profile(profile, overrides=None):
    path = profile_path(profile)
    chosen = {k: v for k, v in (overrides or {}).items() if k in Profile.model_fields}
    values = _validated(Profile, read_yaml(path) | chosen, _shown(path), chosen)
    for key in ("data_dir", "target_dir"):
        if values[key]:
            values[key] = str(ROOT / Path(values[key]).expanduser())
    return values


def load_experiment(study, overrides=None):
    if study not in EXPERIMENTS:
        raise Refusal(f"experiment: {study!r} is not one of {', '.join(EXPERIMENTS)}")
    model, path = EXPERIMENTS[study], PARAMS / "experiments" / f"{study}.yaml"
    chosen = {k: v for k, v in (overrides or {}).items() if k in model.model_fields}
    return _validated(model, read_yaml(path) | chosen, _shown(path), chosen)


def assignments(texts):
    """{key: value} of texts such as "lr_factor=2.0"; the value is read as it would be in a YAML file."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not (key and equals):
            raise Refusal(f"--set {text}: write key=value, the value as in a YAML file")
    return found


def load_params(profile, experiment, overrides=None):
    """Profile and experiment as one flat dict of plain values. `overrides` win; each must be a key of some file."""
    check_overrides(overrides or {})
    return load_profile(profile, overrides) | load_experiment(experiment, overrides)


def given(study, namespace):
    """The parameters of a notebook of this study as one flat dict, taken from its namespace and validated again.

    Its parameters cell names a profile, all of the experiment, and `sizes`: what replaces values of the profile. A
    batch run fills `sizes` completely; what somebody writes there by hand is checked like a file.
    """
    model, sizes = HOW_MUCH[study], namespace["sizes"]
    how_much = {"job_hours": 1.0} | sizes
    if set(model.model_fields) - set(how_much):
        how_much = {k: v for k, v in load_profile(namespace["profile"]).items() if k in model.model_fields} | sizes
    what = {name: namespace[name] for name in EXPERIMENTS[study].model_fields if name in namespace}
    return (_validated(model, how_much, "parameters cell, sizes")
            | _validated(EXPERIMENTS[study], what, "parameters cell"))


def check_overrides(overrides):
    known = [*Profile.model_fields, *dict.fromkeys(k for model in EXPERIMENTS.values() for k in model.model_fields)]
    unknown = [key for key in overrides if key not in known]
    if unknown:
        raise Refusal("\n".join(f"--set {key}: unknown key; {_meant(key, known)}" for key in unknown))


def _shown(path):
    """A path as the user would type it."""
    for base in (Path.cwd(), ROOT):
        if Path(path).is_absolute() and Path(path).is_relative_to(base):
            return str(Path(path).relative_to(base))
    return str(path)


# ---------------------------------------------------------------------------------------------- notebooks

def parameters_cell(notebook):
    """{name: default} of the cell tagged `parameters`, which holds nothing but names set to literals."""
    cells = [c for c in read_json(notebook)["cells"]
             if c["cell_type"] == "code" and "parameters" in c["metadata"].get("tags", ())]
    if len(cells) != 1:
        raise Refusal(f"{_shown(notebook)}: one code cell must carry the tag 'parameters', {len(cells)} do")
    found = {}
    try:
        for node in ast.parse(_source(cells[0])).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            found[target.id] = ast.literal_eval(node.value)
    except (SyntaxError, AttributeError, ValueError):
        raise Refusal(f"{_shown(notebook)}: the parameters cell may hold only lines of 'name = literal'") from None
    return found


def _source(cell):
    return "".join(cell["source"])


def cells_until(notebook, tag):
    """The cells of a notebook, up to the code cell that carries `tag` (all, if none does or tag is None)."""
    cells = read_json(notebook)["cells"]
    tagged = [i for i, c in enumerate(cells) if tag in c["metadata"].get("tags", ())]
    return cells[:tagged[0] + 1] if tagged else cells


def _code_hash(notebook, until):
    """Hash of what a part of a notebook does (its code), or for the whole of all it says."""
    return hash_of([[c["cell_type"], _source(c)] for c in cells_until(notebook, until)
                    if not until or c["cell_type"] == "code"])


@lru_cache
def _library_hash():
    """Hash of everything in nat_lib that a table or figure can depend on."""
    library = ROOT / "nat_lib"
    files = sorted([*library.rglob("*.py"), *library.glob("reference/*.csv")])
    return hash_of([[p.relative_to(library), hashlib.sha256(p.read_bytes()).hexdigest()] for p in files])


# ---------------------------------------------------------------------------------------------- jobs

@dataclass(frozen=True)
class Job:
    """One run of a notebook. Paths are relative: the notebook's to the repository, all others to the outputs folder."""

    id: str
    title: str
    notebook: str
    output: str
    params: dict
    needs: tuple[str, ...]
    weight: float               # expected work, in units of some 10 s of smoke: for the order and the estimate
    threads: int
    timeout: float              # seconds
    until: str | None = None    # stop after the cell with this tag
    key: str = ""               # hash of all that decides the result; a finished job carries it in its record

    @property
    def record(self):
        return f"jobs/{self.id}.json"

    @property
    def log(self):
        return f"jobs/{self.id}.log"

    @property
    def params_file(self):
        return f"jobs/{self.id}.params.json"


# Longest first. Rough work of all phases of one supernet at width 1.0, both teachers, in units of the baseline's.
WORK = {"EE_DP": 9.0, "EE_P": 8.8, "EE_D": 4.2, "EE_B": 4.0, "SE_DP": 3.4, "SE_P": 3.2, "SE_D": 1.1, "SE_B": 1.05,
        "BASE": 1.0}
# Of one cell of the AEP study, in the same units.
AEP_WORK = {"MobileNetV3Small": 0.3, "ResNet50": 2.5, "EfficientNetB5": 3.0, "DenseNet169": 3.5, "VGG16": 6.0}


class Part(NamedTuple):
    """A share of a notebook's cells that shares none with the others: what to change to run it alone."""

    label: str
    supernet: str | None
    changes: dict
    weight: float


def _aep_parts(params):
    """One part per data set, networks with a common baseline, and seed."""
    families = {}
    for name in params["aep_networks"]:
        families.setdefault(baseline_of(name), []).append(name)
    return [Part(f"{dataset}_{family}_s{seed}", None,
                 {"aep_datasets": [dataset], "aep_networks": names, "seeds": [seed]},
                 AEP_WORK.get(family, 1.0) * len(params["aep_scenarios"]) * (1 + 4 * len(names)))
            for dataset in params["aep_datasets"] for family, names in families.items() for seed in params["seeds"]]


def _shrinking_parts(params):
    return [Part(f"{name}_w{width}_s{seed}", name,
                 {"supernets": {width: [name]}, "widths": [float(width)], "seeds": [seed]},
                 4 + WORK[name] * float(width) / 2)
            for width, names in params["supernets"].items() if float(width) in params["widths"]
            for name in names for seed in params["seeds"]]


def _predictor_parts(params):
    return [Part(f"{name}_s{seed}", name, {"predictor_supernets": [name], "seeds": [seed]}, 6 + WORK[name])
            for name in params["predictor_supernets"] for seed in params["seeds"]]


def _search_parts(params):
    """One part per supernet and seed; `nat_supernets` says in which phases a supernet takes part."""
    def only(name):
        return {phase: [n for n in names if n == name] for phase, names in params["nat_supernets"].items()}

    names = dict.fromkeys(n for names in params["nat_supernets"].values() for n in names)
    return [Part(f"{name}_s{seed}", name, {"nat_supernets": only(name), "seeds": [seed]}, 15.0)
            for name in names for seed in params["seeds"]]


def _post_parts(params):
    return [part._replace(weight=0.5 + 3.3 * WORK[part.supernet]) for part in _search_parts(params)]


PARTS = {"aep_study": _aep_parts, "ofav2_eps": _shrinking_parts, "predictors": _predictor_parts,
         "natv2_phases": _search_parts, "post_processing": _post_parts}
AFTER = {"predictors": ("ofav2_eps",), "natv2_phases": ("ofav2_eps",), "post_processing": ("natv2_phases",),
         "pareto_browser": ("natv2_phases", "post_processing")}                 # whose cells
UNTIL = "cells"                     # tag of the code cell after which a part has nothing left to do
LAST = "thesis_report"              # reads what all the others leave


def notebooks_in(folder, only=None):
    """[(stem, study)] of a folder's numbered notebooks, in order; `only`: their numbers, e.g. ["02", "04"]."""
    stems = sorted(p.stem for p in Path(folder).glob("[0-9]*_*.ipynb"))
    if not stems:
        raise Refusal(f"{_shown(folder)}: no notebook such as 00_start_here.ipynb is there")
    numbers = {stem.split("_")[0] for stem in stems}
    for number in only or ():
        if number not in numbers:
            raise Refusal(f"--only: there is no notebook {number}; there are {', '.join(sorted(numbers))}")
    return [(s, s.split("_", 1)[1]) for s in stems if not only or s.split("_")[0] in only]


def jobs(profile, overrides=None, only=None, out=None, notebooks=ROOT / "notebooks"):
    """All jobs of a run, each after those it needs; parts of a notebook longest first."""
    check_overrides(overrides or {})
    how_much = load_profile(profile, overrides)
    needed = [(how_much["dataset"], "data_dir"), *((name, "data_dir") for name in how_much["aep_datasets"]),
              (how_much["target"], "target_dir" if how_much["target_dir"] else "data_dir")]
    for name, key in needed:
        if name not in EMBEDDED and not Path(how_much[key]).is_dir():
            raise Refusal(f"{key}: there is no folder {how_much[key]}; put {name} there, or name its place "
                          f"with --{key.replace('_', '-')} DIR")
    out = outputs_folder(how_much, out)
    made, supernet_of = {}, {}
    for stem, study in sorted(notebooks_in(notebooks, only), key=lambda pair: pair[1] == LAST):
        path = Path(notebooks) / f"{stem}.ipynb"
        what = load_experiment(study, overrides)
        cell = parameters_cell(path)
        params = _given_to(path, cell, how_much, what, out, stem, study)
        whole = Job(stem, stem, _shown_from(ROOT, path), f"{stem}.ipynb", params, (), 1.0, how_much["threads"],
                    3600 * how_much["job_hours"])
        split = PARTS.get(study, lambda _: [])(how_much | what)
        before = {id: name for id, (name, of) in supernet_of.items() if of in AFTER.get(study, ())}
        parts = []
        for part in sorted(split, key=lambda part: -part.weight) if len(split) > 1 else []:
            name = f"{stem}-{part.label}"
            figures = {"figures": f"{params['out']}/jobs/{name}"} if "figures" in params else {}
            job = replace(whole, id=name, title=f"{stem}  {part.label}", output=f"jobs/{name}.ipynb", until=UNTIL,
                          weight=part.weight, params=_changed(params, part.changes) | figures,
                          needs=tuple(id for id, supernet in before.items() if supernet in (None, part.supernet)))
            parts.append(_keyed(job, made, _code_hash(path, UNTIL)))
            supernet_of[name] = part.supernet, study
        made |= {part.id: part for part in parts}
        if study == LAST:
            needs = tuple(id for id in made if "-" not in id)
        else:
            needs = tuple(part.id for part in parts) or tuple(before)
        if not parts:
            whole = replace(whole, weight=sum(part.weight for part in split) or whole.weight)
            supernet_of[stem] = None, study
        made[stem] = _keyed(replace(whole, needs=needs), made, _code_hash(path, None) + _library_hash())
    return list(made.values())


def _keyed(job, made, code):
    return replace(job, key=hash_of([job.params, code, [made[need].key for need in job.needs]]))


def _changed(params, changes):
    """Parameters with some values replaced, each where it stands: in `sizes` or beside it."""
    sizes = params.get("sizes", {})
    inside = {k: v for k, v in changes.items() if k in sizes}
    return params | {k: v for k, v in changes.items() if k in params} | ({"sizes": sizes | inside} if inside else {})


def _given_to(notebook, cell, how_much, what, out, stem, study):
    """The parameters a notebook gets: all of its experiment, and of the profile what its parameters cell names."""
    place = _shown_from(ROOT, out)
    sizes = {k: how_much[k] for k in HOW_MUCH.get(study, Machine).model_fields if k != "job_hours"}
    known = how_much | what | {"out": place, "figures": f"{place}/{stem}", "sizes": sizes}
    needed = [*what, "profile", "out"]
    problems = ([f"{name}: the parameters cell knows a name that no file in params/ has" for name in cell
                 if name not in known] + [f"{name}: missing from the parameters cell" for name in needed
                                          if name not in cell])
    if problems:
        raise Refusal("\n".join(f"{_shown(notebook)}: {line}" for line in problems))
    return {name: known[name] for name in cell}


def _shown_from(base, path):
    path = Path(path).resolve()
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()


def outputs_folder(how_much, out=None):
    return Path(out).resolve() if out else ROOT / "outputs" / how_much["profile"]


# ---------------------------------------------------------------------------------------------- what is left to do

def due(all_jobs, out):
    """Ids of the jobs to run: those without a valid record, and those that need one of them."""
    ids = set()
    for job in all_jobs:
        if not finished(job, out) or ids.intersection(job.needs):
            ids.add(job.id)
    return ids


def finished(job, out):
    """Is the record of these very parameters there, and everything that it lists? Times of files do not matter."""
    try:
        record = read_json(out / job.record)
        return (record["key"] == job.key and all((out / file).exists() for file in record["files"])
                and all(read_json(out / folder / "report.json")["hash"] == h for folder, h in record["cells"].items()))
    except (Refusal, KeyError, TypeError):
        return False


def prepare(all_jobs, out, left):
    """Write the plan and each job's parameters, only where they changed; drop the records that no longer hold."""
    for job in all_jobs:
        _write_if_changed(out / job.params_file, job.params)
        if job.id in left:
            (out / job.record).unlink(missing_ok=True)
    longest = chains(all_jobs)
    _write_if_changed(out / "plan.json", {"root": ROOT, "python": sys.executable, "jobs": [
        asdict(job) | {"record": job.record, "log": job.log, "params_file": job.params_file, "chain": longest[job.id]}
        for job in all_jobs]})


def chains(all_jobs):
    """{id: work of the longest chain of jobs that begins with it}. Who starts these first is done soonest."""
    found = {}
    for job in reversed(all_jobs):          # what needs a job stands behind it
        found[job.id] = job.weight + max((found[j.id] for j in all_jobs if job.id in j.needs), default=0.0)
    return found


def _write_if_changed(path, obj):
    try:
        same = read_json(path) == plain(obj)
    except Refusal:
        same = False
    if not same:
        write_json(path, obj)

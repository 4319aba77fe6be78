"""What the studies do: pydantic models of params/experiments, a model each (teachers, seeds,
switches), every value checked, names from the tables. How much they take says
`nat_lib.studies.models`. Importing this takes milliseconds and no torch.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from nat_lib import starts
from nat_lib.curricula import CURRICULA
from nat_lib.distill import DISTILL, TARGETS, TEACHERS, TERMS
from nat_lib.exit_weights import WEIGHT_LAWS
from nat_lib.plans import NETWORKS
from nat_lib.precision import PRECISIONS
from nat_lib.samplers import BY_LOSS, SAMPLERS
from nat_lib.search.predictors import PREDICTORS
from nat_lib.search.strategies import STRATEGIES
from nat_lib.studies.models import (
    Count,
    Objectives,
    Seeds,
    Sides,
    Strict,
    Weight,
    distinct,
    read_by,
)


def _width(value):
    if value not in (1.0, 1.2):
        raise ValueError("is not one of 1.0, 1.2")
    return value


class StartHere(Strict):
    show_supernet: Literal[*NETWORKS]
    show_width: Annotated[float, AfterValidator(_width)]
    samples: Count
    sample_seed: Annotated[int, Field(ge=0)]


Positive = Annotated[float, Field(gt=0)]


def _mixed(weights):
    """Two weights of a loss, not both 0."""
    if len(weights) != 2 or not sum(weights):
        raise ValueError("give the weights of labels and of the teacher, e.g. [0.5, 0.5]")
    return weights


class AepStudy(Strict):
    seeds: Seeds
    hidden: Literal["measured", "proportional"]
    keep_stem: bool
    ties: Literal["smaller", "published"]
    exit_terms: dict[Literal[*TERMS], Weight]  # further terms of the joint loss
    exit_law: Literal[*WEIGHT_LAWS]  # of their loss weights while they train
    weights_dir: str | None  # folder of ImageNet weights; None: torch's own
    download: bool
    device: Literal["cpu", "cuda"]
    precision: Literal[*PRECISIONS]
    compile: bool


class Training(Strict):
    """How supernets are trained, whatever the arm."""

    start: read_by(starts.parsed, "start")  # weights at the beginning
    judge: Literal[BY_LOSS, *PREDICTORS]  # of the candidates of an attentive sampler
    kernel_matrices: bool  # False: smaller kernels are the centres of larger ones
    remember: Weight  # of a penalty on moving weights that mattered to earlier phases
    seeds: Seeds
    exit_weights: Literal["DESC", "ASC"]
    kd: Literal[*TARGETS]
    pet_lag: Annotated[int, Field(ge=0, le=1)]
    stale_exits: bool
    training_sizes: Literal["five", "three", "rising"]
    tail_scaling: Literal["once", "twice"]
    device: Literal["cpu", "cuda"]
    precision: Literal[*PRECISIONS]
    compile: bool


class Ofav2Eps(Training):
    widths: Annotated[
        list[Annotated[float, AfterValidator(_width)]],
        Field(min_length=1),
        AfterValidator(distinct),
    ]
    curriculum: Literal[*CURRICULA]
    teachers: Annotated[list[Literal[*TEACHERS]], Field(min_length=1), AfterValidator(distinct)]
    sampler: Literal[*SAMPLERS] | None  # None, as below: what curriculum and teacher say
    distill: Literal[*DISTILL] | None
    mix: Annotated[list[Weight], AfterValidator(_mixed)] | None
    epochs: dict[str, Positive] | None  # of each phase; None: a share of Table 5.2
    probes: Annotated[int, Field(ge=0)]  # subnets scored after every phase
    probe_every: Annotated[int, Field(ge=0)]  # and after so many of its epochs; 0: not


class TrainingStrategies(Training):
    """The arms say the rest."""


class Warming(Strict):
    """Switches of the warm-up, shared by every study of chapter 6."""

    seeds: Seeds
    curriculum: Literal[*CURRICULA]  # by which the supernets were trained
    exit_weights: Literal["DESC", "ASC"]
    exits: Literal["single", "ensemble"]  # of the subnets searched: the last one answers, or a set
    warm_up: Literal["transfer", "none"]  # to the target; none: it is what they were trained on
    distill: Literal[*DISTILL] | None  # of warm-up and adaptation; None: soft cross-entropy
    carry_kernel_transforms: bool
    tail_scaling: Literal["once", "twice"]
    search_resolutions: Sides | None
    device: Literal["cpu", "cuda"]
    precision: Literal[*PRECISIONS]  # of the fine-tuning of the maximal networks


class Predictors(Warming):
    encodings: Annotated[
        list[Literal["integer", "onehot"]], Field(min_length=1), AfterValidator(distinct)
    ]
    draw_seed: Annotated[int, Field(ge=0)]


class Natv2Phases(Warming):
    strategy: Literal[*STRATEGIES]
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
    fit_processes: Annotated[int, Field(ge=1, le=256)] | None
    latency: Literal["table", "measured"]
    tradeoff_reduce: Literal["min", "max"]
    tradeoff_normalise: bool


class SearchStrategies(Strict):
    seeds: Seeds  # of the supernets; a table is made of the first one's
    curriculum: Literal[*CURRICULA]  # by which they were trained
    teachers: Annotated[list[Literal[*TEACHERS]], Field(min_length=1), AfterValidator(distinct)]
    exit_weights: Literal["DESC", "ASC"]  # by which exits vote
    predictor: Literal[*PREDICTORS]  # of the strategies that have one
    tail_scaling: Literal["once", "twice"]
    device: Literal["cpu", "cuda"]


class TakeHome(Strict):
    seeds: Seeds
    other_outs: list[str]  # outputs folders of the same profile from other starts
    device: Literal["cpu", "cuda"]


class PostProcessing(Strict):
    seeds: Seeds
    post_learning_rates: Annotated[
        list[Annotated[float, Field(gt=0)]], Field(min_length=1), AfterValidator(distinct)
    ]
    post_final: Literal["train+val", "train"]
    device: Literal["cpu", "cuda"]


class ParetoBrowser(Strict):
    front_objectives: Objectives | None
    export_recommended: bool


class ThesisReport(Strict):
    noise_copies: Annotated[int, Field(ge=100)]
    noise_seed: Annotated[int, Field(ge=0)]

"""How much the studies take: pydantic models of params/profiles, every value checked, names from
the tables. The sum of all `sizes` models is `Profile`; what is done with it says
`nat_lib.studies.switches`. Importing this takes milliseconds and no torch.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from nat_lib import baselines, plans, starts
from nat_lib.arms import ARMS
from nat_lib.backbone_table import BACKBONES
from nat_lib.data.catalogue import DATASETS
from nat_lib.errors import Refusal
from nat_lib.plans import NETWORKS
from nat_lib.recipes import RECIPES
from nat_lib.search import objectives
from nat_lib.search.objectives import OBJECTIVES
from nat_lib.search.predictors import PREDICTORS
from nat_lib.search.strategies import tabular
from nat_lib.studies.budgets import BUDGETS

# ---------------------------------------------------------------------------- what may be asked for


def distinct(values):
    if len(set(values)) != len(values):
        raise ValueError("names a value twice")
    return values


def _ascending(values):
    if list(values) != sorted(set(values)):
        raise ValueError("must be ascending, each value once")
    return values


Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Channels = Annotated[int, Field(ge=8, le=4096)]
Side = Annotated[int, Field(ge=8, le=512, multiple_of=4)]
Sides = Annotated[list[Side], Field(min_length=1), AfterValidator(_ascending)]
Width = Literal["1.0", "1.2"]
Names = Annotated[list[Literal[*NETWORKS]], AfterValidator(distinct)]
Seeds = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1), AfterValidator(distinct)
]


AepNames = Annotated[list[Literal[*BACKBONES]], AfterValidator(distinct)]
Scenario = Literal[
    "TR-224", "FT-224", "TR-64", "FT-64"
]  # thesis 4.2.1: from scratch or fine-tuned, pixels
OTHERS = "others"  # in aep_proxy: every data set that has no line of its own

PhaseName = Literal["1", "2", "3", "4"]
Pair = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
# the smallest and the largest subnet are in every archive
Sizes = Annotated[list[Annotated[int, Field(ge=3)]], Field(min_length=2, max_length=2)]


def _objectives(text):
    try:
        objectives.names(text)
    except Refusal:
        raise ValueError(
            f"is not {objectives.ERROR} alone or joined by + with some of "
            f"{', '.join(OBJECTIVES)}, such as {objectives.EXAMPLE}"
        ) from None
    return text


Objectives = Annotated[str, AfterValidator(_objectives)]
Sets = Annotated[list[Objectives], AfterValidator(distinct)]


def read_by(read, what):
    """Text that a function can read; its Refusal is the mistake."""

    def check(text):
        try:
            read(text)
        except Refusal as refusal:
            raise ValueError(f"is no {what}: {refusal}") from None
        return text

    return Annotated[str, AfterValidator(check)]


class Strict(BaseModel):
    """Every key is required, no other key exists, and text is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Machine(Strict):
    """What every study needs."""

    profile: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    data_dir: str | None  # relative to the repository; digits need none
    threads: Annotated[int, Field(ge=1, le=256)]
    workers: Annotated[int, Field(ge=0, le=256)]
    job_hours: Annotated[
        float, Field(gt=0)
    ]  # a job that takes longer is stopped; read by the driver alone


class Pruning(Machine):
    """How much of chapter 4. None (null) means all of it."""

    aep_datasets: Annotated[list[Literal[*DATASETS]], AfterValidator(distinct)]
    aep_networks: AepNames
    aep_scenarios: dict[Scenario, Side]  # which, and at how many pixels here
    aep_proxy: dict[
        Literal[*DATASETS, OTHERS], Literal[*DATASETS]
    ]  # fine-tuned on this: pre-trained on that
    aep_train_images: Count | None
    aep_val_images: Count | None
    aep_test_images: Count | None
    aep_batch_size: Annotated[int, Field(ge=2)]
    aep_eval_batch_size: Count
    aep_epochs: Count
    aep_patience: Count
    aep_max_steps: Count | None  # per epoch
    aep_lr_factor: Annotated[float, Field(gt=0, le=1000)]
    aep_bn_momentum: Share | None  # None: as torchvision builds the network
    aep_latency_runs: Count

    @model_validator(mode="after")
    def _data_sets_lie_somewhere(self):
        for name in self.aep_datasets:
            if not DATASETS[name].embedded and not self.data_dir:
                raise ValueError(
                    f"data_dir: {name} needs the folder its images lie in (--data-dir DIR)"
                )
        return self


class Common(Machine):
    """How much, in every study of chapters 5 and 6. None (null) means all of it."""

    dataset: Literal[*DATASETS]  # on which supernets are trained
    plan: read_by(plans.named, "plan")  # of the networks; or the path of a YAML file
    # None: the plan's
    base_channels: Annotated[list[Channels], Field(min_length=2, max_length=8)] | None
    train_resolutions: Sides
    eval_resolutions: Sides
    calibration_images: Count | None
    recipe: Literal[*RECIPES]  # how networks are optimised, and their images augmented
    supernets: dict[Width, Names]

    @model_validator(mode="after")
    def _images_lie_somewhere(self):
        if not DATASETS[self.dataset].embedded and not self.data_dir:
            raise ValueError(
                f"data_dir: {self.dataset} needs the folder its images lie in (--data-dir DIR)"
            )
        return self


class Shrinking(Common):
    """How much of chapter 5."""

    train_images: Count | None
    val_images: Count | None
    test_images: Count | None
    batch_size: Annotated[int, Field(ge=2)]
    eval_batch_size: Count
    epoch_fraction: Share  # of the epochs in thesis Table 5.2
    min_epochs: Count
    min_full_epochs: Count  # of the Full phase, which starts from random weights
    max_steps_per_epoch: Count | None
    learning_rates: Literal["thesis", "code"]  # Table 5.2, or the published training scripts
    lr_factor: Annotated[float, Field(gt=0, le=1000)]
    val_subnets: Annotated[int, Field(ge=1, le=32)]
    grid_subnets: Count | None


class Arming(Shrinking):
    """How much of the comparison of training strategies."""

    arm_supernet: Literal[*NETWORKS]
    arms: Annotated[list[Literal[*ARMS]], Field(min_length=1), AfterValidator(distinct)]
    # of the largest network alone, whose cost is that of every arm's training
    arm_epochs: Annotated[float, Field(gt=0)]
    arm_checks: Count  # looks at the panel meanwhile; one after every phase comes in addition
    panel: Annotated[int, Field(ge=8)]  # subnets that every arm is looked at with
    alone: Annotated[int, Field(ge=0)]  # of these are trained alone, too
    alone_epochs: Annotated[float, Field(gt=0)]


class Tabling(Shrinking):
    """How much of the comparison of search strategies on exact tables."""

    table_supernet: Literal[*NETWORKS]
    table_start: read_by(starts.parsed, "start") | None  # None: the supernets that are trained
    table_widths: Annotated[list[Width], AfterValidator(distinct)] | None  # None: all trained ones
    table_latency: bool
    # "made" of this supernet, one that ships, or a file
    tables: Annotated[list[str], Field(min_length=1), AfterValidator(distinct)]
    table_strategies: Annotated[
        list[Literal[*tabular()]], Field(min_length=1), AfterValidator(distinct)
    ]
    # standard deviation that is added to an error, in points
    table_noise: Annotated[list[Weight], Field(min_length=1), AfterValidator(distinct)]
    table_seeds: Count
    table_evaluations: Annotated[int, Field(ge=25)]


class Target(Common):
    """The data set that chapter 6 works on."""

    target: Literal[*DATASETS]  # to which the supernets are moved
    # all on which searches run, `target` among them; None: that one
    targets: Annotated[list[Literal[*DATASETS]], AfterValidator(distinct)] | None
    target_dir: str | None  # None: data_dir
    target_train_images: Count | None
    target_val_images: Count | None
    target_test_images: Count | None
    nat_eval_batch_size: Count

    @model_validator(mode="after")
    def _target_lies_somewhere(self):
        if self.targets is not None and self.target not in self.targets:
            raise ValueError(f"targets: {self.target}, the target, is not among them: add it")
        for name in self.targets or [self.target]:
            if not DATASETS[name].embedded and not (self.target_dir or self.data_dir):
                raise ValueError(
                    f"target_dir: {name} needs the folder its images lie in (--target-dir DIR)"
                )
        return self


class Moving(Target):
    """How much of warm-up and adaptation."""

    nat_batch_size: Annotated[int, Field(ge=2)]
    nat_epoch_fraction: Share  # of the epochs of the warm-up
    nat_min_epochs: Count
    nat_max_steps: Count | None  # per epoch
    nat_lr_factor: Annotated[float, Field(gt=0, le=1000)]
    nat_val_subnets: Annotated[int, Field(ge=1, le=32)]


class Comparing(Moving):
    """How much of the comparison of predictors."""

    predictor_supernets: Names
    predictors: Annotated[list[Literal[*PREDICTORS]], Field(min_length=1), AfterValidator(distinct)]
    predictor_sizes: Annotated[
        list[Annotated[int, Field(ge=10)]], Field(min_length=1), AfterValidator(_ascending)
    ]
    predictor_repeats: Count
    predictor_tests: Annotated[int, Field(ge=3)]


class Searching(Moving):
    """How much of the searches. Pairs are (NAT, NATv2): phase 1, and phases 2 to 4."""

    nat_supernets: dict[PhaseName, Names]
    searches: dict[PhaseName, Sets]
    iterations: Count
    adaptation_epochs: Count  # per iteration
    archive_sizes: Sizes
    candidates: Pair  # measured per iteration
    multiplier: Count  # of the archive size that pre-processing samples in phases 3 and 4
    top: Count  # subnets that the distributions of the adaptation are fitted to
    distribution_families: Literal["short", "all"]
    latency_runs: Count


class Posting(Target):
    """How much of post-processing."""

    nat_supernets: dict[PhaseName, Names]
    post_searches: dict[PhaseName, Sets]
    post_subnets: Count  # of each search
    post_epochs: Count
    post_patience: Count
    post_batch_size: Annotated[int, Field(ge=2)]
    post_max_steps: Count | None


class Worth(Searching):
    """How much of what stands beside a search."""

    # rows of BASELINES; "resnet8:2e6" is scaled to 2e6 MACs, "resnet8:match" to those of the most
    # accurate returned subnet
    worth_baselines: Annotated[
        list[read_by(baselines.parsed, "baseline")], AfterValidator(distinct)
    ]
    worth_budgets: Annotated[list[Literal[*BUDGETS]], AfterValidator(distinct)]
    worth_random: bool  # also as many random subnets as the search scored?
    worth_take: Count  # networks that a user takes of a search
    worth_most_epochs: Count  # more are not trained, whatever the budget


class Profile(Pruning, Arming, Tabling, Comparing, Worth, Posting):
    """How much of everything."""

    notebooks: list[Annotated[str, Field(pattern=r"^\d{2}$")]] | None = None  # None: all of them
    switches: dict[str, Any] = Field(default_factory=dict)  # what it does otherwise: {key: value}

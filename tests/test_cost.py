from dataclasses import replace

import numpy as np
import pytest

from nat_lib.arch import Choices, Space
from nat_lib.cost import CHUNK, METRICS, count, layers
from nat_lib.errors import Refusal
from nat_lib.plans import NETWORKS

NARROW = {True: ["EE_B", "EE_D"], False: ["BASE", "SE_B", "SE_D"]}
PARALLEL = {True: ["EE_P", "EE_DP"], False: ["SE_P", "SE_DP"]}
MAX, K5E4D3, MIN = (
    {},
    {"kernel": 5, "expand": 4, "depth": 3},
    {"kernel": 3, "expand": 3, "depth": 2},
)

# names, resolution, values, exits -> params, macs, macs_tp at 200 classes. The two values of
# macs_tp that the thesis' author printed are 50,910,976 and 55,805,824.
WIDTH_1_0 = [
    (NARROW[False], 64, MAX, None, (6_639_960, 49_798_016, 50_910_976)),
    (PARALLEL[False], 64, MAX, None, (6_850_040, 52_616_064, 53_858_048)),
    (NARROW[True], 64, MAX, "all", (8_193_912, 54_539_136, 55_805_824)),
    (PARALLEL[True], 64, MAX, "all", (8_403_992, 57_357_184, 58_752_896)),
    (NARROW[True], 64, {"exit": 1}, None, (123_672, 15_897_088, 16_407_632)),
    (NARROW[True], 64, {"exit": 2}, None, (422_464, 23_454_464, 24_133_392)),
    (NARROW[True], 64, {"exit": 3}, None, (1_095_024, 29_673_984, 30_473_792)),
    (NARROW[True], 64, {"exit": 4}, None, (2_951_008, 42_059_264, 43_085_760)),
    (NARROW[False], 56, K5E4D3, None, (3_526_992, 20_170_144, 20_695_480)),
    (PARALLEL[False], 56, {**K5E4D3, "level": 5}, None, (3_561_328, 20_558_688, 21_126_288)),
    (NARROW[False], 48, MIN, None, (2_385_992, 7_845_736, 8_063_912)),
    (PARALLEL[False], 48, {**MIN, "level": 1}, None, (1_674_952, 2_849_408, 2_917_376)),
    (NARROW[True], 48, {**MIN, "exit": 1}, None, (77_952, 2_304_384, 2_446_992)),
    (PARALLEL[True], 48, {**MIN, "exit": 1, "level": 1}, None, (71_424, 1_098_240, 1_185_552)),
]
# Likewise at width 1.2, then the same with the author's tails.
WIDTH_1_2 = [
    (
        NARROW[False],
        64,
        MAX,
        None,
        (9_472_032, 73_990_080, 75_425_472),
        (10_354_928, 75_006_144, 76_444_392),
    ),
    (
        PARALLEL[False],
        64,
        MAX,
        None,
        (9_776_472, 78_355_392, 79_952_576),
        (10_659_368, 79_371_456, 80_971_496),
    ),
    (
        NARROW[True],
        64,
        MAX,
        "all",
        (11_612_336, 80_910_720, 82_532_336),
        (13_317_136, 83_878_208, 85_550_872),
    ),
    (
        PARALLEL[True],
        64,
        MAX,
        "all",
        (11_916_776, 85_276_032, 87_059_440),
        (13_621_576, 88_243_520, 90_077_976),
    ),
    (
        NARROW[True],
        64,
        {"exit": 1},
        None,
        (178_344, 26_191_040, 26_894_680),
        (224_344, 26_693_888, 27_427_224),
    ),
    (
        NARROW[True],
        64,
        {"exit": 2},
        None,
        (585_744, 36_659_712, 37_571_264),
        (653_568, 36_896_768, 37_816_072),
    ),
    (
        NARROW[True],
        64,
        {"exit": 3},
        None,
        (1_517_232, 45_284_352, 46_340_960),
        (1_749_200, 45_677_376, 46_738_280),
    ),
    (
        NARROW[True],
        64,
        {"exit": 4},
        None,
        (4_205_792, 62_989_312, 64_320_552),
        (4_681_904, 63_807_808, 65_145_496),
    ),
    (
        NARROW[False],
        48,
        MIN,
        None,
        (3_372_856, 12_092_616, 12_382_104),
        (4_255_752, 13_108_680, 13_401_024),
    ),
    (
        PARALLEL[False],
        48,
        {**MIN, "level": 1},
        None,
        (2_350_544, 4_220_160, 4_313_760),
        (3_233_440, 5_236_224, 5_332_680),
    ),
    (
        NARROW[True],
        48,
        {**MIN, "exit": 1},
        None,
        (107_488, 4_157_248, 4_354_456),
        (153_488, 4_459_392, 4_673_528),
    ),
    (
        PARALLEL[True],
        48,
        {**MIN, "exit": 1, "level": 1},
        None,
        (95_928, 1_838_272, 1_955_992),
        (141_928, 2_140_416, 2_275_064),
    ),
]
GOLDEN = [(n, "once", 1.0, r, v, x, c) for names, r, v, x, c in WIDTH_1_0 for n in names]
GOLDEN += [
    (n, "twice", 1.0, r, v, x, c) for names, r, v, x, c in WIDTH_1_0 for n in names
]  # makes no difference
GOLDEN += [(n, "once", 1.2, r, v, x, c) for names, r, v, x, c, _ in WIDTH_1_2 for n in names]
# The author's baseline has ordinary tails; only his staged networks have the wider ones.
GOLDEN += [
    (n, "twice", 1.2, r, v, x, ordinary if n == "BASE" else twice)
    for names, r, v, x, ordinary, twice in WIDTH_1_2
    for n in names
]


@pytest.fixture
def rng():
    return np.random.default_rng(19580801)


@pytest.mark.parametrize(
    ("name", "tails", "width", "resolution", "values", "exits", "expected"), GOLDEN
)
def test_golden_numbers(name, tails, width, resolution, values, exits, expected):
    space = Space(name, tail_scaling=tails)
    arch = space.arch(resolution=resolution, width=width, **values)
    assert tuple(count([arch], space, exits=exits).loc[0, list(METRICS)]) == expected
    assert tuple(count(space.encode([arch]), space, exits=exits).loc[0, list(METRICS)]) == expected
    assert tuple(layers(arch, space, exits=exits)[list(METRICS)].sum()) == expected


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("exits", [None, "all"])
def test_tables_agree_with_the_sum_over_the_layers(name, exits, rng):
    space = Space(name, resolutions=(48, 52, 56, 60, 64))
    archs = space.sample(25, rng, by="architecture")
    table = count(archs, space, n_classes=37, exits=exits)
    assert list(table.columns) == list(METRICS) and (table.dtypes == np.int64).all()
    for arch, row in zip(archs, table.to_numpy(), strict=True):
        assert (layers(arch, space, n_classes=37, exits=exits)[list(METRICS)].sum() == row).all()


@pytest.mark.parametrize("name", ["BASE", "SE_P", "EE_B", "EE_DP"])
def test_genotypes_cost_what_their_subnets_cost(name, rng):
    space = Space(name)
    archs = space.sample(CHUNK + 100, rng)  # two passes
    X = space.encode(archs)
    for exits in (None, "all"):
        assert count(archs, space, exits=exits).equals(count(X, space, exits=exits))


def test_what_has_no_effect_costs_nothing(rng):
    space = Space("EE_DP")
    archs = [space.draw(space.choices, rng, 1.2, 60) for _ in range(300)]
    assert count(archs, space).equals(count([a.canonical() for a in archs], space))
    X = space.encode(archs)
    assert count(X, space).equals(count(space.active(X), space))


def test_several_exits_cost_the_trunk_once(rng):
    space = Space("EE_P")
    archs = space.sample(50, rng, by="architecture")
    assert count(archs, space, exits=(1, 2, 3, 4, 5)).equals(count(archs, space, exits="all"))
    alone = [count([replace(a, exit=x) for a in archs], space) for x in (1, 2, 3)]
    assert count(archs, space, exits=(3,)).equals(alone[2])
    both, last = count(archs, space, exits=(1, 3)), alone[2]
    assert (both > last).all().all() and (both < last + alone[0]).all().all()
    tail = (both - last).nunique()
    assert (
        tail["params"] == 2 and tail["macs"] <= 10
    )  # of width, and of width and resolution, alone
    assert (count(archs, space, exits=(1, 2, 3)) - count(archs, space, exits=(2, 3))).equals(
        both - last
    )
    single = Space("SE_P")
    assert count([single.largest], single, exits="all").equals(count([single.largest], single))


@pytest.mark.parametrize("name", ["SE_D", "EE_DP"])
def test_macs_grow_with_every_choice(name, rng):
    space = Space(name)
    for arch in space.sample(20, rng, by="architecture"):
        arch = replace(
            arch, level=tuple(v | 4 for v in arch.level)
        )  # kernel and expand matter everywhere
        grown = []
        for field in ("kernel", "expand", "depth", "level"):
            legal = sorted(getattr(space, f"{field}s"))
            values = getattr(arch, field)
            behind = arch.exit if field == "depth" else arch.exit * space.slots
            for i, v in enumerate(values[:behind]):
                used = field == "depth" or i % 4 < arch.depth[i // 4]
                larger = [u for u in legal if u > v and (field != "level" or u & v == v)]
                if used and larger:
                    grown.append(
                        replace(arch, **{field: (*values[:i], larger[0], *values[i + 1 :])})
                    )
        if arch.resolution < 64:
            grown.append(replace(arch, resolution=arch.resolution + 4))
        if arch.width < 1.2:
            grown.append(replace(arch, width=1.2))
        costs = count([arch, *grown], space)
        # The transformation branch of levels 2-4 is BN and activation alone: no MAC, but other
        # operations.
        growing = "macs_tp" if space.parallel else "macs"
        assert (costs[growing][1:] > costs[growing][0]).all()
        assert (costs[1:] >= costs.loc[0]).all().all()


def test_exits_grow_in_cost():
    space = Space("EE_D")
    costs = count([space.arch(exit=x) for x in space.exits], space)
    assert (costs.diff()[1:] > 0).all().all()


def test_transformation_branch_by_hand():
    """Max-pooling is free, a biased 1x1 convolution matches the channels, then BN and
    activation."""
    space = Space("SE_P", resolutions=(52,), widths=(1.0,), base_channels=(16, 24))
    rows = layers(space.arch(depth=2, level=1), space, n_classes=10)
    first, second = (row for _, row in rows[rows.block > 0].iterrows())
    assert (first["size"], first.stride, first.params, first.macs) == (
        13,
        2,
        16 * 24 + 24 + 2 * 24,
        16 * 24 * 169,
    )
    assert first.macs_tp - first.macs == 24 * 169  # BN; ReLU is free in this stage
    assert (second.kernel, second.params, second.macs, second.macs_tp) == (0, 48, 0, 24 * 169)


def test_gate_and_pooling_by_hand():
    space = Space("SE_B")
    rows = layers(space.arch(resolution=48, width=1.0, depth=2), space)
    gate = rows[(rows.stage == 2) & (rows.block == 2) & (rows.what == "gate")].iloc[0]
    assert (gate.mid, gate["size"]) == (240, 6)
    assert (gate.params, gate.macs) == (2 * 240 * 64 + 64 + 240, 2 * 240 * 64)
    assert gate.macs_tp - gate.macs == 240 * 6 + 240 + 240 * 36
    tail = rows[(rows.stage == 5) & (rows.block == 0)]
    assert tail.what.tolist() == ["exit conv1", "exit conv2", "exit linear"]
    assert (tail.macs_tp - tail.macs).tolist() == [2 * 960 * 4 + 960 * 2 + 960, 1280, 0]


def test_sides_of_the_feature_maps():
    space = Space("BASE")
    for resolution, sides in (
        (48, [24, 12, 6, 3, 3, 2]),
        (52, [26, 13, 7, 4, 4, 2]),
        (60, [30, 15, 8, 4, 4, 2]),
    ):
        rows = layers(space.arch(resolution=resolution), space)
        blocks = rows[(rows.block > 0) | (rows.stage == 0)]
        assert blocks.groupby("stage")["size"].last().tolist() == sides


def test_any_resolution_and_a_small_space():
    space = Space("EE_DP", resolutions=(16,), widths=(1.0,), base_channels=(8, 8, 16))
    costs = count([space.arch(resolution=r) for r in (7, 16, 32)], space, n_classes=10)
    assert costs.params.nunique() == 1 and costs.macs.is_monotonic_increasing
    assert count([], space).shape == (0, 3) and count(np.empty((0, space.n_var)), space).shape == (
        0,
        3,
    )


def test_kernels_of_a_grid_cost_their_squares():
    space = Space("SE_B")
    grid = space.grid(Choices((3, 5, 7), (6,), (4,), (4,), (5,)), (64,), 1.0)
    params = count(grid, space).params
    assert (params[1] - params[0]) * 24 == (params[2] - params[1]) * 16


@pytest.mark.parametrize("exits", ["some", (), (0,), (2, 1), (1, 1), (6,)])
def test_unknown_exits_are_refused(exits):
    space = Space("EE_B")
    with pytest.raises(Refusal, match="1, 2, 3, 4, 5"):
        count([space.largest], space, exits=exits)


def test_illegal_subnets_are_refused():
    space, other = Space("EE_B"), Space("EE_P")
    with pytest.raises(Refusal, match="one of 4"):
        count([other.largest], space)
    with pytest.raises(Refusal, match="repair"):
        count(np.array([[0, 0, 4, *[1, 1, 0, 1] * 5]]), space)
    with pytest.raises(Refusal, match=r"depth\[1\] = 0"):
        count(
            [space.smallest.canonical()], space, exits="all"
        )  # says nothing about the stages behind exit 1

import json
from dataclasses import replace

import numpy as np
import pytest

from nat_lib.arch import Arch, Choices, Space
from nat_lib.blocks import elastic_bits, middle, round8, se_hidden
from nat_lib.errors import Refusal
from nat_lib.plans import NETWORKS

NAMES = list(NETWORKS)
TINY = {"base_channels": (8, 8, 16)}


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)


# ---- widths of the networks
# ----------------------------------------------------------------------------------------


def test_rounding_to_8_never_loses_more_than_a_tenth():
    assert [round8(v) for v in (1, 8, 8.8, 8.9, 12, 19.2, 20, 112 * 1.2)] == [
        8,
        8,
        8,
        16,
        16,
        24,
        24,
        136,
    ]
    assert all(round8(v) % 8 == 0 and round8(v) >= 0.9 * v for v in np.arange(1, 3000, 0.7))


def test_middle_and_gate_widths():
    assert [middle(112, e) for e in (3, 4, 6)] == [336, 448, 672]
    assert [middle(136, e) for e in (3, 4, 6)] == [408, 544, 816]
    assert [se_hidden(m) for m in (72, 96, 144, 336, 448, 672, 408, 816)] == [
        24,
        24,
        40,
        88,
        112,
        168,
        104,
        208,
    ]


def test_plan_is_thesis_table_3_1():
    layout = Space("EE_B").layout(1.0)
    assert layout.head.out == 16
    assert [s.c_out for s in layout.stages] == [24, 40, 80, 112, 160]
    assert [s.c_in for s in layout.stages] == [16, 24, 40, 80, 112]
    assert [s.stride for s in layout.stages] == [2, 2, 2, 1, 2]
    assert [s.act for s in layout.stages] == ["relu", "relu", "h_swish", "h_swish", "h_swish"]
    assert [bool(s.gate) for s in layout.stages] == [False, True, False, True, True]
    assert [s.tail and s.tail.widths for s in layout.stages] == [
        (144, 192),
        (240, 320),
        (480, 640),
        (672, 896),
        (960, 1280),
    ]
    wide = Space("EE_B").layout(1.2)
    assert (wide.head.out, [s.c_out for s in wide.stages]) == (24, [32, 48, 96, 136, 192])
    assert [s.tail and s.tail.widths for s in wide.stages] == [
        (176, 232),
        (288, 384),
        (576, 768),
        (808, 1072),
        (1152, 1536),
    ]


def test_author_scales_the_tails_of_staged_networks_twice():
    tails = [
        s.tail and s.tail.widths for s in Space("EE_B", tail_scaling="twice").layout(1.2).stages
    ]
    assert tails == [(232, 304), (344, 464), (688, 920), (976, 1304), (1384, 1840)]
    assert Space("BASE", tail_scaling="twice").layout(1.2).stages[-1].tail.widths == (1152, 1536)
    assert Space("EE_B", tail_scaling="twice").layout(1.0) == Space("EE_B").layout(1.0)


def test_single_exit_networks_have_one_tail():
    assert [s.tail and s.tail.widths for s in Space("SE_DP").layout(1.0).stages] == [None] * 4 + [
        (960, 1280)
    ]


def test_flags_are_those_of_thesis_table_5_1():
    assert [n for n in NAMES if Space(n).early_exits] == ["EE_B", "EE_D", "EE_P", "EE_DP"]
    assert [n for n in NAMES if Space(n).dense] == ["SE_D", "SE_DP", "EE_D", "EE_DP"]
    assert [n for n in NAMES if Space(n).parallel] == ["SE_P", "SE_DP", "EE_P", "EE_DP"]
    assert [Space(n).thesis_name for n in ("BASE", "EE_DP")] == [
        "OFAMobileNetV3",
        "EE_DP_OFAMobileNetV3",
    ]


# ---- genotypes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", ["search", "architecture"])
def test_encode_and_decode_are_inverse(name, by, rng):
    space = Space(name)
    archs = space.sample(300, rng, by=by)
    X = space.encode(archs)
    assert X.dtype == np.int64 and X.shape == (300, space.n_var)
    assert space.decode(X) == archs
    assert (space.encode(space.decode(X)) == X).all()
    assert all(space.check(a) is a for a in archs[:5])


@pytest.mark.parametrize("name", NAMES)
def test_a_drawn_subnet_survives_the_round_trip_up_to_what_does_not_matter(name, rng):
    space = Space(name)
    archs = [space.draw(space.choices, rng, 1.2, 56) for _ in range(200)]
    back = space.decode(space.encode(archs))
    assert [a.canonical() for a in back] == [a.canonical() for a in archs]


def test_narrow_code_table():
    space = Space("EE_D")
    rows = {code: tuple(space.code_table[code, :2].tolist()) for code in range(1, 10)}
    assert rows == {
        1: (3, 3),
        2: (5, 3),
        3: (7, 3),
        4: (3, 4),
        5: (5, 4),
        6: (7, 4),
        7: (3, 6),
        8: (5, 6),
        9: (7, 6),
    }


@pytest.mark.parametrize(
    ("kernel", "expand", "level", "code"),
    [(3, 3, 1, 1), (5, 4, 4, 23), (3, 3, 3, 28), (7, 6, 7, 63)],
)
def test_parallel_code_vectors(kernel, expand, level, code):
    space = Space("EE_P")
    X = space.encode([space.arch(kernel=kernel, expand=expand, level=level)])
    assert (X[0, 3:] == code).all()


def test_parallel_codes_run_through_the_levels_by_number_of_branches():
    table = Space("SE_P").code_table
    assert table.shape == (64, 3)
    assert [table[1 + 9 * i, 2] for i in range(7)] == [1, 2, 4, 3, 5, 6, 7]
    assert Space("SE_P").levels == (1, 2, 4, 3, 5, 6, 7)


def test_genotype_written_out():
    space = Space("EE_B")
    arch = space.arch(resolution=56, width=1.2, exit=3, depth=(2, 3, 4, 2, 2), kernel=5, expand=4)
    row = [2, 1, 2, 5, 5, 0, 0, 5, 5, 5, 0, 5, 5, 5, 5, 5, 5, 0, 0, 5, 5, 0, 0]
    assert space.encode([arch]).tolist() == [row]
    assert Space("SE_D").encode([replace(arch, exit=5)]).tolist() == [row[:2] + row[3:]]


@pytest.mark.parametrize("name", NAMES)
def test_bounds_decode_to_the_smallest_and_the_largest_subnet(name):
    space = Space(name)
    assert (len(space.lower), len(space.upper)) == (space.n_var, space.n_var)
    low, high = space.decode(np.array([space.lower, space.upper]))
    assert (low, high) == (space.smallest, space.largest)
    assert (low.resolution, low.width, low.exit) == (48, 1.0, 1 if space.early_exits else 5)
    assert (high.resolution, high.width, high.exit) == (64, 1.2, 5)
    assert {low.depth, low.kernel[:5], low.expand[:5]} == {(2,) * 5, (3,) * 5}
    assert (set(high.depth), set(high.kernel), set(high.expand)) == ({4}, {7}, {6})
    assert (set(low.level), set(high.level)) == (({1}, {7}) if space.parallel else ({4}, {4}))


def test_skipped_blocks_decode_to_the_smallest_values():
    space = Space("SE_P")
    arch = space.decode(space.encode([space.arch(depth=2)]))[0]
    assert (arch.kernel[:4], arch.expand[:4], arch.level[:4]) == (
        (7, 7, 3, 3),
        (6, 6, 3, 3),
        (7, 7, 1, 1),
    )


@pytest.mark.parametrize(
    ("name", "integer", "one_hot_5", "one_hot_3"),
    [
        ("BASE", 22, 197, 195),
        ("SE_DP", 22, 1277, 1275),
        ("EE_D", 23, 202, 200),
        ("EE_DP", 23, 1282, 1280),
    ],
)
def test_feature_lengths(name, integer, one_hot_5, one_hot_3, rng):
    for resolutions, length in (((48, 52, 56, 60, 64), one_hot_5), ((48, 56, 64), one_hot_3)):
        space = Space(name, resolutions=resolutions)
        X = space.encode(space.sample(40, rng))
        hot = space.features(X, "one_hot")
        assert space.features(X, "integer").shape == (40, integer)
        assert hot.shape == (40, length) and space.categories.sum() == length
        assert (hot.sum(axis=1) == integer).all() and set(np.unique(hot)) == {0.0, 1.0}
        ends = np.cumsum(space.categories)
        found = [
            hot[:, e - c : e].argmax(axis=1) for e, c in zip(ends, space.categories, strict=True)
        ]
        assert (np.column_stack(found) + space.lower == X).all()


def test_number_of_genotypes():
    assert Space("BASE").size == 10 * 7371**5
    assert Space("EE_DP").size == 50 * 16_006_977**5
    assert f"{Space('EE_B').size:.2e} {Space('SE_P').size:.2e}" == "1.09e+21 1.05e+37"


# ---- repair, equal subnets
# -----------------------------------------------------------------------------------------


def test_repair_pushes_or_fills():
    space = Space("BASE", **TINY)
    X = np.array([[0, 1, 1, 2, 0, 4, 5, 6, 7, 0], [0, 1, 1, 2, 0, 0, 5, 6, 7, 8]])
    assert space.repair(X, how="push").tolist() == [[0, 1, 1, 2, 4, 0, 5, 6, 7, 0], X[1].tolist()]
    assert space.repair(X, how="fill").tolist() == [[0, 1, 1, 2, 0, 0, 5, 6, 7, 0], X[1].tolist()]
    assert X[0, 4] == 0 and X[0, 5] == 4  # the argument is left alone


@pytest.mark.parametrize("how", ["push", "fill"])
def test_repair_agrees_with_a_loop_and_changes_nothing_twice(how, rng):
    space = Space("EE_DP")
    X = rng.integers(space.lower, space.upper + 1, size=(400, space.n_var))
    X[:, 5::4] *= rng.integers(0, 2, size=(400, 5))  # many holes
    fixed = space.repair(X, how)
    for before, after in zip(X[:, 3:].reshape(-1, 4), fixed[:, 3:].reshape(-1, 4), strict=True):
        used = [c for c in before if c]
        kept = used if how == "push" else before[: [*before, 0].index(0)].tolist()
        assert after.tolist() == kept + [0] * (4 - len(kept))
    assert (fixed[:, :3] == X[:, :3]).all()
    assert (space.repair(fixed, how) == fixed).all()


@pytest.mark.parametrize("name", NAMES)
def test_canonical_is_one_name_for_equal_subnets(name, rng):
    space = Space(name)
    for arch in [space.draw(space.choices, rng, 1.0, 64) for _ in range(100)]:
        other = space.draw(space.choices, rng, 1.0, 64)
        used = [b < d and s < arch.exit for s, d in enumerate(arch.depth) for b in range(4)]
        level = tuple(v if u else o for u, v, o in zip(used, arch.level, other.level, strict=True))
        free = [not (u and v & elastic_bits()) for u, v in zip(used, level, strict=True)]
        twin = replace(
            arch,
            level=level,
            kernel=tuple(
                o if f else v for f, v, o in zip(free, arch.kernel, other.kernel, strict=True)
            ),
            expand=tuple(
                o if f else v for f, v, o in zip(free, arch.expand, other.expand, strict=True)
            ),
            depth=arch.depth[: arch.exit] + other.depth[arch.exit :],
        )
        one = arch.canonical()
        assert twin.canonical() == one == one.canonical() and hash(twin.canonical()) == hash(one)
        genotypes = space.active(space.encode([arch, twin, one]))
        assert (genotypes == genotypes[0]).all()
        assert space.decode(genotypes)[0].canonical() == one


def test_active_rows_are_equal_exactly_when_subnets_are(rng):
    space = Space("EE_P", resolutions=(48,), widths=(1.0,), base_channels=(8, 8))
    X = np.unique(space.encode(space.sample(4000, rng, by="architecture")), axis=0)
    subnets = {a.canonical() for a in space.decode(X)}
    assert len(np.unique(space.active(X), axis=0)) == len(subnets) < len(X)


def test_different_subnets_keep_different_names():
    space = Space("EE_P")
    arch = space.arch(exit=3, level=5)
    changed = [
        replace(arch, resolution=48),
        replace(arch, width=1.0),
        replace(arch, exit=2),
        replace(arch, depth=(4, 4, 3, 4, 4)),
        replace(arch, kernel=(*arch.kernel[:11], 3, *arch.kernel[12:])),
        replace(arch, expand=(*arch.expand[:11], 3, *arch.expand[12:])),
        replace(arch, level=(*arch.level[:11], 4, *arch.level[12:])),
    ]
    assert len({a.canonical() for a in [arch, *changed]}) == 8


def test_masked_features_are_constant_behind_the_exit(rng):
    space = Space("EE_B")
    X = space.encode(space.sample(50, rng))
    X[:, 2] = 1
    shown = space.features(X, "integer", mask_after_exit=True)
    assert (shown[:, 3 + 8 :] == space.lower[3 + 8 :]).all() and (
        shown[:, : 3 + 8] == X[:, : 3 + 8]
    ).all()


# ---- samples and grids
# ---------------------------------------------------------------------------------------------


def depth_shares(archs):
    depths = np.array([a.depth for a in archs])
    return np.array([(depths == d).mean() for d in (2, 3, 4)])


@pytest.mark.parametrize(
    ("name", "law", "expected"),
    [
        ("EE_B", {"by": "search"}, (0.01, 0.18, 0.81)),
        ("EE_P", {"by": "search"}, (1 / 64**2, 2 * 63 / 64**2, 63**2 / 64**2)),
        ("EE_B", {"by": "architecture"}, (1 / 3, 1 / 3, 1 / 3)),
        ("EE_DP", {"by": "architecture"}, (1 / 3, 1 / 3, 1 / 3)),
        ("EE_B", {"by": "architecture", "depth_prior": "author"}, (1 / 3, 2 / 9, 4 / 9)),
    ],
)
def test_depths_follow_the_sampling_law(name, law, expected, rng):
    shares = depth_shares(Space(name).sample(10_000, rng, **law))
    deviation = np.sqrt(np.array(expected) * (1 - np.array(expected)) / 50_000)
    assert (np.abs(shares - expected) <= 5 * deviation).all()


@pytest.mark.parametrize("by", ["search", "architecture"])
def test_other_variables_are_uniform(by, rng):
    space = Space("EE_B")
    X = space.encode(space.sample(10_000, rng, by=by))
    for v in (0, 1, 2, 3, 4, 22):  # resolution, width, exit, a first, a second and a fourth block
        counts = np.bincount(X[:, v], minlength=space.upper[v] + 1)
        counts = counts[max(1, space.lower[v]) if v > 2 else 0 :]
        p = 1 / len(counts)
        assert (np.abs(counts / counts.sum() - p) <= 5 * np.sqrt(p * (1 - p) / counts.sum())).all()


def test_push_and_fill_differ_in_depth_only_as_they_should(rng):
    space = Space("SE_B")
    filled = depth_shares(space.sample(10_000, rng, by="search", repair="fill"))
    assert np.abs(filled - [0.1, 0.09, 0.81]).max() < 0.01


def test_same_seed_same_sample():
    space = Space("EE_DP")
    one, two = (space.sample(20, np.random.default_rng(3), by="architecture") for _ in range(2))
    assert one == two


def test_draw_stays_inside_what_a_phase_has_opened(rng):
    space = Space("EE_P")
    opened = Choices(kernel=(3, 5, 7), expand=(6,), depth=(3, 4), level=(3, 5, 6, 7), exit=(4, 5))
    archs = [space.draw(opened, rng, 1.0, 52) for _ in range(400)]
    assert {(a.resolution, a.width) for a in archs} == {(52, 1.0)}
    for name in ("kernel", "expand", "depth", "level"):
        drawn = np.array([getattr(a, name) for a in archs])
        assert set(np.unique(drawn).tolist()) == set(getattr(opened, name))
        assert (
            drawn[:, 0] != drawn[:, -1]
        ).any() or name == "expand"  # slots are drawn independently
    assert {a.exit for a in archs} == {4, 5}


def test_every_level_code_is_drawn_equally_often(rng):
    space = Space("SE_P")
    levels = np.array([space.draw(space.choices, rng, 1.0, 64).level for _ in range(500)]).ravel()
    shares = np.array([(levels == code).mean() for code in space.levels])
    assert np.abs(shares - 1 / 7).max() < 5 * np.sqrt(6 / 49 / 10_000)


@pytest.mark.parametrize(
    ("name", "size"), [("BASE", 81), ("SE_D", 81), ("SE_P", 567), ("EE_B", 405), ("EE_DP", 2835)]
)
def test_grid_sizes_at_the_end_of_shrinking(name, size):
    space = Space(name)
    grid = space.grid(space.choices, (48, 56, 64), 1.2)
    assert len(grid) == len(set(grid)) == size
    assert [a.resolution for a in grid] == sorted(a.resolution for a in grid)
    assert all(
        len({*a.kernel}) == len({*a.expand}) == len({*a.level}) == len({*a.depth}) == 1
        for a in grid
    )
    assert {a.width for a in grid} == {1.2}


def test_grid_of_a_phase():
    space = Space("EE_B")
    after_nd2 = Choices(kernel=(3, 5, 7), expand=(6,), depth=(4,), level=(4,), exit=(3, 4, 5))
    assert len(space.grid(after_nd2, (48, 56, 64), 1.0)) == 27


# ---- values
# --------------------------------------------------------------------------------------------------


def test_dictionaries_go_through_json_and_back(rng):
    for space in (Space("EE_DP"), Space("SE_B", (32,), (1.0,), (8, 8, 16), "twice")):
        assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space
        for arch in space.sample(5, rng):
            assert Arch.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch


def test_spaces_are_equal_when_made_alike():
    assert (
        Space("EE_B") == Space("EE_B", resolutions=[48, 52, 56, 60, 64])
        and len({Space("EE_B"), Space("EE_B")}) == 1
    )
    others = [
        Space("EE_D"),
        Space("EE_B", (48, 56, 64)),
        Space("EE_B", tail_scaling="twice"),
        Space("EE_B", **TINY),
    ]
    assert len({Space("EE_B"), *others}) == 5


def test_numpy_numbers_become_plain_ones():
    arch = Space("EE_B").arch(kernel=np.full(20, 5), exit=np.int64(2), width=np.float64(1.0))
    assert json.loads(json.dumps(arch.to_dict()))["kernel"] == [5] * 20
    assert type(arch.exit) is int and type(arch.width) is float


def test_a_space_of_two_stages(rng):
    space = Space("EE_DP", resolutions=(16,), widths=(1.0,), **TINY)
    archs = space.sample(50, rng)
    assert (space.n_stages, space.n_var, space.exits) == (2, 11, (1, 2))
    assert space.decode(space.encode(archs)) == archs and len(space.largest.kernel) == 8
    assert space.encode([]).shape == (0, 11) and space.decode(np.empty((0, 11))) == []


# ---- bad input names the legal values
# ------------------------------------------------------------------------------

REFUSED = {
    "unknown space": (lambda: Space("EE_X"), "BASE, SE_B.*EE_DP"),
    "unknown tail scaling": (lambda: Space("EE_B", tail_scaling="thrice"), "once, twice"),
    "descending widths": (lambda: Space("EE_B", widths=(1.2, 1.0)), "ascending"),
    "repeated resolution": (lambda: Space("EE_B", resolutions=(48, 48)), "distinct"),
    "resolution that is text": (lambda: Space("EE_B", resolutions=("48",)), "positive numbers"),
    "no resolution": (lambda: Space("EE_B", resolutions=()), "positive numbers"),
    "channels below one": (lambda: Space("EE_B", base_channels=(0, 8)), "positive numbers"),
    "too many stages": (lambda: Space("EE_B", base_channels=(8,) * 7), "1 to 5 stages"),
    "kernel": (lambda: Space("EE_B").arch(kernel=4), r"kernel\[0\] = 4 .*3, 5, 7"),
    "one expand": (
        lambda: Space("EE_B").arch(expand=[3] * 7 + [5] + [3] * 12),
        r"expand\[7\] = 5 .*3, 4, 6",
    ),
    "depth": (lambda: Space("EE_B").arch(depth=(2, 5, 2, 2, 2)), r"depth\[1\] = 5 .*2, 3, 4"),
    "level": (lambda: Space("EE_P").arch(level=0), r"level\[0\] = 0 .*1, 2, 4, 3, 5, 6, 7"),
    "level without parallel": (lambda: Space("EE_B").arch(level=7), r"level\[0\] = 7 .*one of 4"),
    "exit": (lambda: Space("EE_B").arch(exit=6), "exit = 6 .*1, 2, 3, 4, 5"),
    "early exit of a single-exit net": (lambda: Space("SE_B").arch(exit=2), "exit = 2 .*one of 5"),
    "width": (lambda: Space("EE_B").arch(width=1.1), "width = 1.1 .*1.0, 1.2"),
    "plan of another width": (lambda: Space("EE_B").layout(1.1), "1.0, 1.2"),
    "resolution": (
        lambda: Space("EE_B").encode([Space("EE_B").arch(resolution=50)]),
        "48, 52, 56, 60, 64",
    ),
    "no resolution at all": (lambda: Space("EE_B").arch(resolution=0), "positive number of pixels"),
    "19 kernels": (lambda: Space("EE_B").arch(kernel=[3] * 19), "kernel has 19 .* 20"),
    "4 depths": (
        lambda: Space("EE_B").check(Arch(48, 1.0, 1, (2,) * 4, (3,) * 16, (3,) * 16, (4,) * 16)),
        "give 5",
    ),
    "half an exit": (lambda: Space("EE_B").arch(exit=2.5), "exit.*whole"),
    "kernel that is text": (lambda: Space("EE_B").arch(kernel=["a"] * 20), "kernel.*whole"),
    "missing key": (
        lambda: Arch.from_dict({"resolution": 48}),
        "exactly resolution, width, exit, depth",
    ),
    "genotype too short": (lambda: Space("EE_B").decode(np.ones((2, 22))), r"\(n, 23\)"),
    "one genotype alone": (lambda: Space("EE_B").decode(np.ones(23)), r"\(n, 23\)"),
    "code out of bounds": (lambda: Space("EE_B").decode(np.full((1, 23), 10)), "legal are 0..4"),
    "skipped second block": (
        lambda: Space("BASE", **TINY).decode([[0, 0, 1, 0, 0, 0, 1, 1, 0, 0]]),
        "3 = 0, .* 1..9",
    ),
    "hole in a stage": (
        lambda: Space("BASE", **TINY).decode([[0, 0, 1, 1, 0, 1, 1, 1, 0, 0]]),
        "repair",
    ),
    "fractions": (lambda: Space("BASE", **TINY).decode(np.full((1, 10), 0.5)), "integers"),
    "repair": (lambda: Space("BASE").repair(np.zeros((1, 22)), "pull"), "push, fill"),
    "features": (lambda: Space("BASE").features(np.zeros((1, 22)), "binary"), "integer, one_hot"),
    "law": (
        lambda: Space("BASE").sample(1, np.random.default_rng(0), by="depth"),
        "search, architecture",
    ),
    "prior": (
        lambda: Space("BASE").sample(1, np.random.default_rng(0), depth_prior="flat"),
        "uniform, author",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_the_legal_values(case):
    call, words = REFUSED[case]
    with pytest.raises(Refusal, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)

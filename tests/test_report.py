"""Tables, figures and drawings from reports: written here by hand, no training behind them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torchvision

from nat_lib import arch, cost, curricula, files
from nat_lib.arch import Space
from nat_lib.cells import open_cell
from nat_lib.data import catalogue
from nat_lib.errors import Refusal
from nat_lib.report import figures5, schematics, structure, style, tables, tables5
from nat_lib.report.schematics import stages
from nat_lib.results import chapter5, claims, names, stats, stores
from nat_lib.results.printed import printed

PRINTED = (
    pd.concat([printed("table_5_3"), printed("table_5_4")])
    .query("applicable == '1'")
    .set_index(["wm", "supernet", "teacher", "step", "stat"])
    .top1_pct.astype(float)
)


def write_phases(
    out, supernet="EE_D", width=1.0, seeds=(0,), dataset="digits", profile="smoke", shift=0.0, n=9
):
    """Finished phase cells whose results are the printed numbers plus `shift` plus a tenth of the
    seed."""
    space = Space(supernet)
    for seed in seeds:
        for i, phase in enumerate(curricula.phases_for(space)):
            for teacher in ["any"] if i < 2 else ["fixed", "pet"]:
                avg, best = (
                    PRINTED[
                        str(width), supernet, "pet" if teacher == "any" else teacher, phase.step, k
                    ]
                    + shift
                    + seed / 10
                    for k in ("avg", "best")
                )
                cell = open_cell(
                    out,
                    "ofav2_eps",
                    f"{dataset}/{supernet}_w{width}_s{seed}/{teacher}-{phase.name}",
                    {
                        "supernet": supernet,
                        "width": width,
                        "teacher": teacher,
                        "phase": phase.name,
                        "dataset": dataset,
                        "seed": seed,
                        "profile": profile,
                        "recipe": {
                            "lr": phase.lr,
                            "epochs": phase.epochs,
                            "warmup": phase.warmup,
                            "subnets": phase.subnets,
                            "batch_size": 200,
                        },
                    },
                )
                files.write_csv(
                    cell.path("history.csv"),
                    pd.DataFrame({"epoch": [1, 2], "val_top1": [avg - 5, avg]}),
                )
                exits = [avg - 5 + e for e in space.exits]
                if i:
                    files.write_csv(
                        cell.path("teacher.csv"),
                        pd.DataFrame({"exit": [0, *space.exits], "top1": [avg, *exits]}),
                    )
                cell.finish(
                    {
                        "grid": {"avg": avg, "best": best, "n": n, "n_full": 9},
                        "val_top1": avg,
                        "epochs": 2,
                        "steps": 8,
                        "n_test": 10_000,
                        "seconds": 1.0,
                        "teacher": {"ensemble_top1": avg, "exit_top1": exits} if i else None,
                    },
                    seconds=1.0,
                )


def one(cells, **key):
    rows = cells
    for k, v in key.items():
        rows = rows[rows[k] == v]
    return rows.squeeze(axis=0)


# ------------------------------------------------------------------------------ what the cells left


def test_shared_phases_appear_under_both_teachers_and_the_last_phase_of_a_step_counts(tmp_path):
    write_phases(tmp_path)
    results = chapter5.eps_results(tmp_path)
    assert len(chapter5.eps_phases(tmp_path)) == 2 + 2 * 8
    assert len(results) == 2 * (2 * 2 + 2 * 8)
    shared = results[results.shared]
    assert set(shared.phase) == {"Full", "KS"} and set(shared.teacher) == {"fixed", "pet"}
    assert set(results[results["last"]].phase) == {"Full", "KS", "ND4", "D2", "E2"}


def test_cells_on_another_data_set_are_shown_and_not_judged(tmp_path):
    write_phases(tmp_path)
    cells = chapter5.eps_cells(chapter5.eps_results(tmp_path))
    assert len(cells) == 384
    mine = one(cells, wm="1.0", supernet="EE_D", teacher="pet", step="EW", stat="best")
    assert (
        mine.ours == pytest.approx(51.90) and mine.verdict == names.NOT_JUDGED and mine.seeds == 1
    )
    assert mine.uncertainty == pytest.approx(stats.binomial_se(51.90, 10_000))
    assert (
        one(cells, wm="1.0", supernet="EE_D", teacher="pet", step="EL", stat="best").verdict == "X"
    )
    assert (
        one(cells, wm="1.2", supernet="EE_D", teacher="pet", step="EW", stat="best").verdict
        == names.NOT_RUN
    )


@pytest.mark.parametrize(
    ("shift", "n", "verdict"),
    [
        (1.4, 9, "reproduced"),
        (-1.4, 9, "reproduced"),
        (3, 9, "above"),
        (-3, 9, "below"),
        (0, 5, names.NOT_JUDGED),
    ],
)
def test_paper_sized_cells_are_judged_within_a_point_and_a_half(tmp_path, shift, n, verdict):
    write_phases(tmp_path, "BASE", dataset="tiny_imagenet", profile="paper", shift=shift, n=n)
    cells = chapter5.eps_cells(chapter5.eps_results(tmp_path))
    assert (
        one(cells, wm="1.0", supernet="BASE", teacher="fixed", step="EW", stat="avg").verdict
        == verdict
    )


def test_seeds_give_a_mean_and_its_noise(tmp_path):
    write_phases(tmp_path, "BASE", seeds=(0, 1, 2))
    cells = chapter5.eps_cells(chapter5.eps_results(tmp_path))
    cell = one(cells, wm="1.0", supernet="BASE", teacher="fixed", step="EW", stat="avg")
    assert (cell.ours, cell.seeds) == (pytest.approx(38.21), 3)
    assert (cell.uncertainty, cell.noise) == (pytest.approx(0.1), pytest.approx(0.1 / np.sqrt(3)))


def test_nothing_run_gives_full_tables_and_no_verdicts(tmp_path):
    results = chapter5.eps_results(tmp_path)
    cells = chapter5.eps_cells(results, "digits")
    assert set(cells.verdict) == {"X", names.NOT_RUN}
    assert "No finished run" in tables5.provenance(results)
    judged = claims.judge(
        stores.eps_store(cells), printed("claims").query("metric == 'eps.top1' and rule != ''")
    )
    assert set(judged.verdict) == {"not run in this profile"}
    assert "51.90" in tables5.table_eps(cells, "1.0").to_html()
    tables.show_claims(judged).to_html()


@pytest.mark.parametrize("judged", [True, False])
def test_printed_diamonds_stand_on_bars_of_the_same_data_set_only(tmp_path, judged):
    write_phases(tmp_path, "BASE")
    cells = chapter5.eps_cells(chapter5.eps_results(tmp_path)).assign(comparable=judged)
    figure = figures5.best_bars(cells)
    diamonds = [line for ax in figure.axes for line in ax.lines if line.get_marker() == "D"]
    assert bool(diamonds) == judged
    assert len(figure.axes) == (2 if judged else 4)  # else a row of their own
    plt.close(figure)


def test_a_budget_that_is_too_small_is_said_beside_the_steps(tmp_path):
    write_phases(tmp_path, "BASE")
    cells = chapter5.eps_cells(chapter5.eps_results(tmp_path))
    assert figures5.best_per_step(cells, "1.0").get_supxlabel() == ""  # ours are the printed ones
    ours = cells.supernet == "BASE"
    falling = cells.assign(ours=cells.ours.where(~(ours & (cells.step == "EW")), 10.0))
    said = figures5.best_per_step(falling, "1.0").get_supxlabel()
    assert said.startswith("In 2 of 2 runs of ours") and "too few training steps" in said
    plt.close("all")


def test_what_the_thesis_does_not_have_is_drawn_and_never_dropped(tmp_path):
    write_phases(tmp_path, "BASE")
    phases = chapter5.eps_phases(tmp_path)
    other = phases[phases.phase == "E2"].assign(phase="Sandwich", teacher="in_place")
    curves = figures5.learning_curves(pd.concat([phases, other], ignore_index=True), "1.0")
    assert "Sandwich" in {t.get_text() for ax in curves.axes for t in ax.texts}
    assert "in_place" in set(curves.rows.teacher)
    quality = figures5.teacher_quality(pd.concat([phases, other], ignore_index=True), "1.0")
    assert "in_place" in set(quality.rows.teacher)
    assert style.palette(["mine", "BASE"]) == {"BASE": style.COLOURS["BASE"], "mine": style.GREY}
    plt.close("all")


# ------------------------------------------------------------------------- one entry, one table


def test_noise_has_the_decimals_of_its_value():
    assert tables.number(51.904, 0.518) == "51.90&plusmn;0.52"
    assert tables.decimals(0.0426) == 4 and tables.decimals(4.045) == 2 == tables.decimals(1.0)
    assert tables.number(0.0426, 0.0011, tables.decimals(0.0426)) == "0.0426&plusmn;0.0011"
    assert tables.number(np.nan) is None and tables.number(1.0, sign="+") == "+1.00"


def test_not_run_and_nothing_printed_are_words():
    assert tables.entry(None, "51.90").startswith(tables.NO_RUN) and "51.90" in tables.entry(
        None, "51.90"
    )
    assert tables.NO_PRINT in tables.entry("1.00") and "nothing" not in tables.entry("1.00", "")
    bold = tables.entry("1.00&plusmn;0.10", "2.00", verdict="above", bold=True)
    assert "font-weight:bold" in bold and ">1.00</span>&plusmn;0.10" in bold


EVIL = "acc+<img src=x onerror=alert(1)>"


def test_markup_from_files_is_text_in_tables():
    frame = pd.DataFrame({"name": [EVIL], EVIL: ["x"]}, index=[EVIL])
    rows = pd.DataFrame({"a": [EVIL], "b": [EVIL], "entry": ["1"]})
    told = tables.finished({"name": EVIL, "metrics": {EVIL: {EVIL: 1}}}).data
    provenance = tables.provenance(pd.DataFrame({"profile": [EVIL], "dataset": EVIL, "seed": 0}))
    for text in (
        tables.plain(frame, EVIL).to_html(),
        tables.paired(rows, ["a"], ["b"], "").to_html(),
        tables.side_by_side(frame, frame.assign(name="y"), EVIL).to_html(),
        tables.facts(EVIL, **{EVIL: EVIL}).to_html(),
        tables.entry("1", "2", tip=EVIL, verdict=EVIL),
        tables.sentence(provenance).data,
        told,
    ):
        assert "<img" not in text and "&lt;img" in text


def test_a_finished_cell_is_one_sentence():
    report = {
        "name": "03_predictors",
        "metrics": {"fits": 12, "gain": {"a/b": 0.25}, "best": "RBF"},
    }
    told = tables.finished(report).data
    assert told == "<p>Finished 03_predictors: fits 12; gain (a/b 0.250); best RBF.</p>"


def test_a_table_scrolls_under_a_caption_that_does_not():
    text = tables.plain(pd.DataFrame({"a": [1.234]}), "A caption").to_html()
    assert text.index("A caption") < text.index("overflow-x:auto") < text.index("<table")
    assert "<caption" not in text and "1.23" in text


def test_two_data_sets_are_not_mixed(tmp_path):
    write_phases(tmp_path, "BASE")
    write_phases(tmp_path, "BASE", dataset="cifar10")
    with pytest.raises(Refusal, match="cifar10, digits"):
        chapter5.eps_cells(chapter5.eps_results(tmp_path))
    assert chapter5.eps_cells(chapter5.eps_results(tmp_path), "digits").ours.notna().sum() == 16


def test_claims_on_cells_move_shared_rows_together(tmp_path):
    write_phases(tmp_path, "BASE")
    store = stores.eps_store(chapter5.eps_cells(chapter5.eps_results(tmp_path)))
    copies = store.copies(50)
    pairs = [store.select("eps.top1", {"step": step, "stat": "best"}) for step in ("EKS", "EW")]
    assert all(len(pair) == 2 for pair in pairs)
    assert (copies[:, pairs[0][0]] == copies[:, pairs[0][1]]).all()
    assert not np.allclose(np.diff(copies[:, pairs[1]], axis=1), np.diff(copies[0, pairs[1]]))


# ------------------------------------------------------------------------------------------- tables


def test_table_5_2_of_the_code_is_the_printed_one(tmp_path):
    write_phases(tmp_path, "BASE")
    table = tables5.table_5_2(curricula.PHASES, chapter5.eps_phases(tmp_path))
    assert len(table) == 12 and table.same.all()
    assert table.set_index("phase").epochs_run.to_dict() | {"NW1": "", "ND4": ""} == {
        p.name: f"{p.epochs:g}" if p.opens not in ("level", "exit") else ""
        for p in curricula.PHASES
    } | {p: names.MISSING for p in ("NW2", "ND1", "ND2", "ND3")}
    tables5.show_table_5_2(table).to_html()
    changed = [curricula.PHASES[0]._replace(lr=0.08), *curricula.PHASES[1:]]
    assert (
        tables5.table_5_2(changed, chapter5.eps_phases(tmp_path)).same.tolist()
        == [False] + [True] * 11
    )


def test_the_thesis_layout_shows_x_dash_ours_and_printed(tmp_path):
    write_phases(tmp_path)
    table = tables5.table_eps(chapter5.eps_cells(chapter5.eps_results(tmp_path)), "1.0").data
    assert table.shape == (16, 12)
    row = table.loc["EE_D", "progressive"]
    assert ">X<" in row["Level", "best"] and "51.90" in row["Width", "best"]
    assert table.loc["BASE", "fixed"]["Width", "best"].startswith(tables.NO_RUN)


def differing(ours, paper):
    assert ours.shape == paper.shape and list(ours.columns) == list(paper.columns)
    places = np.argwhere(ours.to_numpy(str) != paper.to_numpy(str))
    return [(i + 1, ours.columns[j]) for i, j in places]


def test_structure_tables_are_the_printed_ones_but_for_known_misprints():
    assert differing(structure.table_3_1(Space("BASE")), printed("table_3_1")) == []
    assert differing(structure.table_5_1(arch.NETWORKS), printed("table_5_1")) == []
    ours = structure.table_2_1(torchvision.models.mobilenet_v3_large(init_weights=False))
    # The stem's kernel is not printed; the last 1x1 convolution has no squeeze-and-excitation.
    assert differing(ours, printed("table_2_1")) == [(1, "kernel_size"), (17, "squeeze_excite")]
    assert (
        "218 of 220 entries"
        in tables.side_by_side(ours, printed("table_2_1"), "Table 2.1").to_html()
    )


def test_split_sizes_are_the_printed_ones_but_for_known_misprints():
    official = {name: d.official for name, d in catalogue.DATASETS.items()}
    aep = official | {name: d["official"] for name, d in catalogue.AEP.items()}
    ours, paper, remarks = structure.table_splits(official, aep)
    wrong = [
        (ours.table[i - 1], ours["data set"][i - 1], column) for i, column in differing(ours, paper)
    ]
    assert set(wrong) == set(structure.MISPRINTS) | {("3.2", "ImageNet", "test")}
    assert len(remarks) == len(structure.MISPRINTS)


# ----------------------------------------------------------------------------- figures and drawings


def test_saved_figures_and_tables_are_equal_to_the_byte(tmp_path):
    write_phases(tmp_path)
    phases = chapter5.eps_phases(tmp_path)
    for folder in ("a", "b"):
        picture = style.save(figures5.learning_curves(phases, "1.0"), tmp_path / folder, "curves")
        style.save(chapter5.eps_cells(chapter5.eps_results(tmp_path)), tmp_path / folder, "cells")
    assert len(pd.read_csv(tmp_path / "a" / "curves.csv")) == 18 * 2
    assert (
        picture.data == (tmp_path / "a" / "curves.png").read_bytes()
    )  # a notebook shows the very file
    by_seed = pd.read_csv(tmp_path / "a" / "cells.csv").by_seed.dropna()
    assert len(by_seed) and by_seed.str.fullmatch(r"\d+: [\d.]+(; \d+: [\d.]+)*").all()
    for name in ("curves.png", "curves.csv", "cells.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_figures_exist_for_some_runs_and_for_none(tmp_path):
    write_phases(tmp_path / "some", seeds=(0, 1))
    write_phases(tmp_path / "some", "BASE")
    for out in (tmp_path / "some", tmp_path / "none"):
        phases, cells = chapter5.eps_phases(out), chapter5.eps_cells(chapter5.eps_results(out))
        for figure in (
            figures5.teacher_quality(phases, "1.0"),
            figures5.learning_curves(phases, "1.2"),
            figures5.best_bars(cells),
            figures5.best_per_step(cells, "1.0"),
        ):
            style.save(figure, tmp_path, "figure")
            assert (tmp_path / "figure.png").stat().st_size > 1000


def test_a_step_is_carried_on_only_where_the_supernet_has_none(tmp_path):
    write_phases(tmp_path, "BASE")
    rows = figures5.best_per_step(chapter5.eps_cells(chapter5.eps_results(tmp_path)), "1.0").rows
    base, other = (
        rows[(rows.supernet == s) & (rows.teacher == "fixed")].set_index("step")
        for s in ("BASE", "SE_P")
    )
    assert base.ours["EX"] == base.ours["EL"] == base.ours["EKS"] and base.printed["EX"] == 38.97
    assert other.ours.isna().all() and other.printed["EX"] == other.printed["EL"] == 39.89


def test_the_dense_rule_that_is_drawn_is_the_rule_of_the_thesis():
    for depth in (2, 3, 4):
        expected = {k: (k - 1, *range(1, k - 2)) for k in range(2, depth + 1)} | {
            "out": (depth, *range(1, depth - 1))
        }
        assert stages.dense_sources(depth) == expected
    assert stages.dense_sources(3, dense=False) == {2: (1,), 3: (2,), "out": (3,)}


@pytest.mark.parametrize("name", ["EE_D", "SE_P"])
def test_drawings_follow_the_space(name, tmp_path):
    space = Space(name, base_channels=(8, 16, 24))
    subnet = space.sample(1, np.random.default_rng(0), by="architecture")[0].canonical()
    figures = [
        schematics.draw_subnet(subnet, space),
        schematics.draw_supernet(space, 1.2),
        schematics.draw_phases(space),
        schematics.draw_teachers(space),
        schematics.draw_block(space, 1, 1),
        schematics.draw_costs([subnet], space),
    ]
    assert figures[0].rows.params.sum() == cost.count([subnet], space).params[0]
    assert list(figures[2].rows.phase) == [p.name for p in curricula.phases_for(space)]
    for figure in figures:
        style.save(figure, tmp_path, "figure")


def test_general_drawings_can_be_saved(tmp_path):
    figures = [
        schematics.draw_stages(),
        schematics.draw_networks(),
        schematics.draw_encoding(),
        schematics.draw_activations(),
        schematics.draw_parallel_level(Space("EE_P"), 2),
        *map(schematics.draw_flow, schematics.FLOWS),
    ]
    for figure in figures:
        style.save(figure, tmp_path, "figure")
        assert len(figure.rows)
    with pytest.raises(Refusal, match="P networks"):
        schematics.draw_parallel_level(Space("EE_D"))


def test_phases_of_another_curriculum_follow_the_printed_places(tmp_path):
    write_phases(tmp_path, "BASE")
    folder = next(tmp_path.glob("ofav2_eps/*/*/pet-D2"))
    report = files.read_json(folder / "report.json")
    report["params"] |= {"phase": "Mine", "supernet": "SE_B"}
    other = folder.parent / "pet-Mine"
    other.mkdir()
    files.write_json(other / "report.json", report)
    results = chapter5.eps_results(tmp_path)
    cells = chapter5.eps_cells(results)
    extra = cells.iloc[384:]
    assert set(extra.step) == {"Mine"} and set(extra.supernet) == {"SE_B"}
    assert set(extra.verdict) == {names.NOT_PRINTED} and extra.ours.notna().all()
    kept = {v.dims["supernet"] for v in stores.eps_store(cells).values}
    assert kept == {"BASE"}  # no rule of the thesis ranks what it does not have
    assert len(tables5.table_eps(cells, "1.0").data)

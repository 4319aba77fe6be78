"""The Pareto browser without a browser: its table, its choices, its figure, and the widgets called
from Python."""

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from laboratory import lay_search

from nat_lib import files
from nat_lib.blocks import elastic_bits
from nat_lib.browser import handmade, picking, printed, static, table, words
from nat_lib.browser.picking import Choices
from nat_lib.browser.plot import FIELDS, MANY
from nat_lib.browser.widget import Browser, app
from nat_lib.cells import open_cell
from nat_lib.cost import count
from nat_lib.errors import Refusal
from nat_lib.export import sources
from nat_lib.genotypes import from_text
from nat_lib.report import shapes, style
from nat_lib.run.jobs import plan_jobs
from nat_lib.search import objectives
from nat_lib.search.pareto import hypervolume
from nat_lib.studies import searches

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Outputs with four searches: two supernets over two objectives, three objectives, and accuracy
    alone."""
    out, rng = tmp_path_factory.mktemp("browse") / "outputs", np.random.default_rng(0)
    lay_search(out, rng, "BASE", 1, archive=16)
    lay_search(out, rng, "EE_D", 4, archive=20, iterations=3)
    lay_search(out, rng, "EE_D", 4, "acc+params+latency")
    lay_search(out, rng, "SE_P", 2, "acc")
    return out


@pytest.fixture(scope="module")
def points(out):
    return table.load(out)


@pytest.fixture
def browser(points, tmp_path):
    """Both searches over accuracy and MACs."""
    browser = Browser(points, tmp_path / "export", "digits_turned", "acc+macs")
    for name in ("supernet", "phase"):
        browser.controls.of[name].value = browser.controls.of[name].options
    return browser


def dominated(F, i):
    return any((F[j] <= F[i]).all() and (F[j] < F[i]).any() for j in range(len(F)))


# ---------------------------------------------------------------------------------------- the table


def test_every_archived_subnet_of_every_iteration_has_its_costs(out, points):
    archives = {p.parent: pd.read_csv(p) for p in out.glob("natv2_phases/*/*/archive.csv")}
    assert len(archives) == 4 and len(points) == sum(map(len, archives.values()))
    for folder, rows in points.groupby("folder"):
        space, X = table.space_of(folder), from_text(rows.code)
        archs, costs = space.decode(X), count(X, space, 5)
        assert [a.exit for a in archs] == rows.exit.tolist() and [
            a.width for a in archs
        ] == rows.width.tolist()
        assert [a.resolution for a in archs] == rows.resolution.tolist()
        assert np.allclose(rows.macs, costs.macs_tp / 1e6) and np.allclose(
            rows.params, costs.params / 1e6
        )
        assert rows.iteration.tolist() == archives[folder].iteration.tolist()
        assert np.allclose(rows.val_top1, 100 - archives[folder].error)
        assert (rows["last"] == rows.iteration.max()).all() and rows.search.nunique() == 1
    assert (
        table.arch_of(points.iloc[0])
        == table.space_of(points.folder[0]).decode(from_text([points.code[0]]))[0]
    )


def test_flags_are_those_of_the_objectives_that_were_searched(out, points):
    for (folder, _), rows in points.groupby(["folder", "iteration"]):
        reference = np.array(files.read_json(folder / "report.json")["metrics"]["reference"])
        F = np.column_stack(
            [100 - rows.val_top1, *(rows[name] for name in rows.objectives.iloc[0].split("+")[1:])]
        )
        assert rows.front.tolist() == [not dominated(F, i) for i in range(len(F))]
        whole = hypervolume(F[rows.front], reference)
        for i in range(len(F)):
            without = F[rows.front & (np.arange(len(F)) != i)]
            lost = whole - (hypervolume(without, reference) if len(without) else 0)
            assert rows.contribution.iloc[i] == pytest.approx(100 * lost, abs=1e-9)
        assert sorted(rows.knee[rows.knee > 0]) == list(range(1, min(4, rows.front.sum()) + 1))
        assert rows.front[rows.knee > 0].all()


def test_knees_are_the_subnets_that_a_search_returned(searching, tmp_path):
    params, data, lay = searching
    searches.run_search(params, "EE_D", 1, "acc+params", 0, data, lay(tmp_path, "EE_D"))
    points = table.load(tmp_path)
    last = (
        points[(points.iteration == points["last"]) & points.front]
        .drop_duplicates("code")
        .set_index("code")
    )
    told = pd.read_csv(points.folder[0] / "subnets.csv").set_index("code")
    assert set(told.index[told.returned]) == set(last.index[last.knee > 0]) and set(
        told.index
    ) <= set(last.index)
    for ours, theirs in (("val_top1", "val_top1"), ("test_top1", "test_top1")):
        assert np.allclose(last[ours][told.index], told[theirs])
    assert (last.latency_from[told.index] == "measured").all()
    assert np.allclose(last.latency[told.index], told.latency_ms)


def test_a_prediction_belongs_to_the_iteration_that_proposed_it(out, points):
    assert (
        points.predicted[points.born == 0].isna().all()
        and points.predicted[points.born > 0].notna().all()
    )
    for folder, rows in points[points.born > 0].groupby("folder"):
        told = pd.read_csv(folder / "candidates.csv").set_index(["iteration", "code"])
        for row in rows.itertuples():
            assert row.predicted == pytest.approx(100 - told.predicted[row.born, row.code])
            assert row.measured == pytest.approx(100 - told.error[row.born, row.code])


def test_test_top1_is_known_of_the_last_front_only_and_latency_says_where_it_is_from(points):
    assert points.test_top1[points.iteration < points["last"]].isna().all()
    assert points.test_top1[points.iteration == points["last"]].notna().any()
    timed = points.objectives == "acc+params+latency"
    assert (points.latency_from[timed] == "search").all() and points.latency[timed].notna().all()
    assert set(points.latency_from[~timed]) == {"measured", ""}
    assert (points.latency.isna() == (points.latency_from == "")).all()


def test_post_processing_is_told_of_the_last_iteration(tmp_path):
    folder = lay_search(tmp_path, np.random.default_rng(1))
    code = pd.read_csv(folder / "subnets.csv").code[0]
    for lr, val, test in ((1e-4, 70.0, 71.0), (1e-5, 72.0, 69.0)):
        before = {k: 1.0 for k in ("val_top1", "test_top1", "params", "macs_tp", "latency_ms")}
        open_cell(
            tmp_path,
            "post_processing",
            f"digits_turned/{folder.name}/0-{lr}",
            {
                "supernet": "EE_D",
                "phase": 4,
                "objectives": "acc+macs",
                "dataset": "digits_turned",
                "seed": 0,
                "profile": "smoke",
                "study": "final",
                "subnet": 0,
                "code": code,
                "method": "std",
                "optimizer": "SGD",
                "lr": lr,
                "weights": None,
            },
        ).finish(
            {
                "original": before,
                "after": {"val_top1": val, "test_top1": test},
                "params": 1,
                "macs_tp": 1,
                "best_epoch": 1,
                "n_test": 181,
            },
            seconds=0.0,
        )
    points = table.load(tmp_path)
    told = points[points.post_top1.notna()]
    assert len(points) == 36 and told.code.tolist() == [code] and (told.iteration == 2).all()
    assert told.post_top1.tolist() == [69.0]  # the setting that validation prefers
    assert "69.00" in words.words(told.iloc[0])["post-processed, test"]


def test_what_cannot_be_read_is_refused_in_a_line(tmp_path):
    with pytest.raises(Refusal, match="run notebooks 02 and 04 first"):
        table.load(tmp_path)
    folder = lay_search(tmp_path, np.random.default_rng(0))
    for name, content in (
        ("archive.csv", "iteration,code\n0,1 x 2\n"),
        ("candidates.csv", ""),
        ("subnets.csv", None),
    ):
        kept = (folder / name).read_text()
        (folder / name).write_text(content) if content is not None else (folder / name).unlink()
        table._archive.cache_clear()
        with pytest.raises(Refusal, match="delete it and run notebook 04 again"):
            table.load(tmp_path)
        (folder / name).write_text(kept)
    assert len(table.load(tmp_path)) == 36


# ------------------------------------------------------------------------------------------ choices


def test_choices_pick_rows_and_an_early_end_stays(points):
    shown = picking.select(points, Choices())
    assert (shown.iteration == shown["last"]).all() and shown.search.nunique() == 4
    third = picking.select(points, Choices(iteration=3))
    assert (
        third.groupby("search").iteration.first().tolist()
        == shown.groupby("search").iteration.first().tolist()
    )
    first = picking.select(
        points, Choices(iteration=0, supernets=("EE_D",), objectives=("acc+macs",))
    )
    assert len(first) == 20 and set(first.iteration) == {0}
    few = picking.select(
        points,
        Choices(
            "digits_turned",
            phases=(4,),
            seeds=(0,),
            max_macs=4.0,
            max_params=0.3,
            min_top1=40,
            exits=(1, 4),
            resolutions=(32, 40),
        ),
    )
    kept = (
        (shown.phase == 4)
        & (shown.macs <= 4)
        & (shown.params <= 0.3)
        & (shown.val_top1 >= 40)
        & (shown.exit <= 4)
        & shown.resolution.between(32, 40)
    )
    assert 0 < kept.sum() < len(shown) and few.index.tolist() == shown.index[kept].tolist()
    assert (
        picking.select(points, Choices(seeds=())).empty
        and picking.select(points, Choices("mars")).empty
    )


def test_the_recommended_subnet_is_the_best_knee_of_the_widest_front(points):
    assert picking.most_searched(points, "digits_turned") == "acc+macs"
    row = picking.recommended(points, "digits_turned", "acc+macs")
    here = picking.select(points, Choices(objectives=("acc+macs",)))
    corner = 1.01 * np.array([100 - here.val_top1.min(), here.macs.max()])
    volume = {
        k: hypervolume(np.column_stack([100 - r.val_top1, r.macs]), corner)
        for k, r in here.groupby("search")
    }
    assert volume[row.search] == max(volume.values()) and row.knee > 0
    assert row.val_top1 == here.val_top1[(here.search == row.search) & (here.knee > 0)].max()
    with pytest.raises(Refusal, match="there are digits_turned acc"):
        picking.recommended(points, "digits_turned", "acc+params")
    with pytest.raises(Refusal, match="there are some on digits_turned"):
        picking.most_searched(points, "cifar10")


def test_neighbours_lie_next_to_a_subnet_on_its_own_front(points):
    rows = picking.select(points, Choices(supernets=("EE_D",)))
    for _, row in rows.iterrows():
        below, above = picking.neighbours(picking.archive_of(points, row), row)
        line = rows[rows.front & (rows.search == row.search) & (rows.code != row.code)]
        between = line.val_top1.between(
            *(end.val_top1 if end is not None else row.val_top1 for end in (below, above)),
            inclusive="neither",
        )
        assert not between.any()
        assert (below is None) == (line.val_top1 > row.val_top1).all()
        assert (above is None) == (line.val_top1 <= row.val_top1).all()


# ------------------------------------------------------------------------------------------- static


def test_the_static_figure_carries_what_it_shows(points, tmp_path):
    rows = picking.select(points, Choices(objectives=("acc+macs",)))
    best = picking.recommended(points, "digits_turned", "acc+macs")
    fig = static.figure(rows, "macs", "val_top1", printed.printed("tiny_imagenet"), best)
    style.save(fig, tmp_path, "front")
    assert len(pd.read_csv(tmp_path / "front.csv")) == len(rows) == len(fig.rows)
    (ax,) = fig.axes
    names = ("dominated", "front", "knee", "ring", "printed")
    drawn = {
        name: len(group.get_offsets()) for name, group in zip(names, ax.collections, strict=True)
    }
    knees = int((rows.knee > 0).sum())
    assert drawn == {
        "dominated": int((~rows.front).sum()),
        "front": int(rows.front.sum()) - knees,
        "knee": knees,
        "ring": 1,
        "printed": 2,
    }
    assert len(ax.lines) == 2 + 2  # two fronts, two printed groups
    assert ax.get_xscale() == static.scale(rows, "macs")
    markers = {text.get_text() for text in fig.legends[0].get_texts()}
    assert {
        "BASE",
        "EE_D",
        "phase 1",
        "phase 4",
        "dominated",
        "front",
        "high trade-off",
        "recommended",
    } <= markers


def test_networks_made_by_hand_are_filled_squares(points, tmp_path):
    made = pd.DataFrame([["digits_turned", "s", 0, "ResNet-8", 60.0, 59.0, 0.08, 1.5]])
    made = made.set_axis(handmade.COLUMNS, axis=1)
    assert handmade.on_axes(made, "digits_turned", "macs", "test_top1")[
        ["x", "y"]
    ].values.tolist() == [[1.5, 59.0]]
    for elsewhere in (("digits", "macs"), ("digits_turned", "latency")):  # not measured
        assert handmade.on_axes(made, *elsewhere, "val_top1").empty
    rows = picking.select(points, Choices(objectives=("acc+macs",)))
    beside = handmade.on_axes(made, "digits_turned", "macs", "val_top1")
    fig = static.figure(rows, "macs", "val_top1", made=beside)
    square = fig.axes[0].collections[-1]
    assert square.get_offsets().tolist() == [[1.5, 60.0]] and square.get_facecolor().any()
    assert "made by hand" in {text.get_text() for text in fig.legends[0].get_texts()}
    browser = Browser(points, tmp_path, "digits_turned", "acc+macs", made)
    assert (list(browser.by_hand.x), list(browser.by_hand.y)) == ([1.5], [60.0])
    assert browser.by_hand.marker.symbol == "square" and browser.by_hand.showlegend
    low, high = browser.figure.layout.yaxis.range
    assert low < 60 < high
    browser.controls.x.value = "latency"
    assert not browser.by_hand.showlegend


def test_printed_points_are_those_of_the_text():
    paper = printed.printed("tiny_imagenet")
    base = paper[(paper.supernet == "BASE") & paper.macs.notna()].iloc[0]
    assert (base.top1, base.macs) == (42.0, 17.006)
    points, lines = printed.on_axes(paper, "latency", "test_top1")
    assert sorted(points.x) == [2.825, 5.16] and sorted(lines.top1) == [43.45, 54.31]
    points, lines = printed.on_axes(paper, "macs", "params")
    assert points.empty and lines.empty
    assert printed.printed("digits").empty
    assert set(printed.printed_names()) == {"Tiny ImageNet", "CIFAR-10", "CIFAR-100"}


def test_words_give_a_top1_with_its_noise_and_a_dash_where_nothing_is_known(points):
    told = words.words(points[points.iteration < points["last"]].iloc[0])
    assert "&plusmn;" in told["validation top-1"] and told["test top-1"] == "\N{EN DASH}"
    assert set(words.words(points.iloc[-1])) == set(told)
    row = points[points.knee == 1].iloc[-1]
    text = words.side_by_side([None, row], ["less", "<chosen>"], "Two")
    assert "less" not in text and "&lt;chosen&gt;" in text and f"{row.val_top1:.2f}" in text
    front = static.front_table(picking.select(points, Choices()))
    assert (
        len(front) == points[(points.iteration == points["last"])].front.sum()
        and (front.val_noise > 0).all()
    )


def test_a_drawing_shows_every_block_that_is_used(points):
    for _, row in points.drop_duplicates("folder").iterrows():
        svg, arch, space = (
            ElementTree.fromstring(words.drawing(row)),
            table.arch_of(row),
            table.space_of(row.folder),
        )
        written = [e.text for e in svg.iter() if e.tag == f"{SVG}text"]
        used = [
            (arch.kernel[i], arch.expand[i], arch.level[i])
            for s in range(arch.exit)
            for i in range(s * space.slots, s * space.slots + arch.depth[s])
        ]
        blocks = [(k, e) for k, e, level in used if level & elastic_bits()]
        assert [t for t in written if t[0] == "k" and t[1:].isdigit()] == [
            f"k{k}" for k, _ in blocks
        ]
        assert [t for t in written if t[0] == "e" and t[1:].isdigit()] == [
            f"e{e}" for _, e in blocks
        ]
        assert written.count("stem") == 1 and f"{arch.resolution} pixels" in svg.get("aria-label")
        assert sum("not computed" in t for t in written) == space.n_stages - arch.exit
        solid = [e for e in svg.iter(f"{SVG}rect") if e.get("fill") == shapes.EXIT]
        assert len(solid) == 1


# ------------------------------------------------------------------------------------------ widgets


def shown_points(browser):
    return sum(x is not None for trace in browser.kinds.values() for x in trace.x)


def test_of_many_dominated_subnets_those_on_top_of_each_other_are_drawn_once(tmp_path):
    lay_search(tmp_path, np.random.default_rng(2), archive=3000, iterations=1)
    points = table.load(tmp_path)
    browser = Browser(points, tmp_path, "digits_turned", "acc+macs")
    rows = picking.select(points, Choices())
    cloud, whole = browser.kinds["dominated"], rows[~rows.front]
    assert len(whole) > MANY and 100 < len(cloud.x) < len(whole) / 2
    assert f"{len(rows)} subnets shown" in browser.status.value
    every, drawn = (
        np.column_stack([np.log10(x), y])
        for x, y in ((whole.macs, whole.val_top1), (cloud.x, cloud.y))
    )
    cell = np.ptp(every, axis=0) / FIELDS
    assert all(
        (np.abs(drawn - point) <= cell).all(axis=1).any() for point in every
    )  # a drawn one lies on each
    assert len(browser.kinds["front"].x) + len(browser.kinds["knee"].x) == rows.front.sum()


def test_a_batch_run_makes_no_widget(points, tmp_path, monkeypatch):
    monkeypatch.setenv("NAT_BATCH", "1")
    assert app(points, tmp_path) is None
    monkeypatch.delenv("NAT_BATCH")
    assert isinstance(app(points, tmp_path), Browser)


def test_it_begins_with_the_search_of_the_recommended_subnet(points, tmp_path):
    """N8: one supernet, one version, few stars; the chosen subnet's numbers at the top."""
    browser = Browser(points, tmp_path, "digits_turned", "acc+macs")
    best = picking.recommended(points, "digits_turned", "acc+macs")
    controls = browser.controls
    assert {name: widget.value for name, widget in controls.of.items()} == {
        name: (best[name],) for name in ("supernet", "phase", "objectives", "seed")
    }
    assert set(browser.shown.search) == {best.search} and browser.chosen.code == best.code
    assert len(browser.kinds["knee"].x) <= 4
    middle = browser.children[1].children[1]
    assert middle.children[0] is browser.line
    assert f"{best.val_top1:.2f}" in browser.line.value and best.supernet in browser.line.value
    assert f"{best.macs:.4g} M MACs" in browser.line.value


def test_a_dominated_pick_is_said_to_be_dominated_and_by_which_point(browser, points):
    rows = browser.shown[~browser.shown.front]
    for at in rows.index[:6]:
        row = points.loc[at]
        browser.choose(row)
        better = picking.dominating(picking.archive_of(points, row), row)
        assert better.front and better.search == row.search and better.iteration == row.iteration
        assert better.val_top1 >= row.val_top1 and better.macs <= row.macs
        text = browser.numbers.value
        assert "is dominated" in text and "dominates it" in text and "neighbours" not in text
        assert f"{better.val_top1:.2f}" in text
    row = points.loc[browser.shown.index[browser.shown.front][0]]
    browser.choose(row)
    assert "neighbours on the front" in browser.numbers.value
    assert picking.dominating(points, row) is None


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """A search of a version, a supernet colour, a strategy and an objective that no table has."""
    out, rng = tmp_path_factory.mktemp("strangers") / "outputs", np.random.default_rng(5)
    folder = lay_search(out, rng, "EE_D", 7)
    other = lay_search(out, rng, "EE_D", 4)
    for name in ("archive.csv", "candidates.csv"):
        text = (other / name).read_text().replace("macs", "blocks")
        (other / name).write_text(text)
    report = files.read_json(other / "report.json")
    report["params"] |= {"objectives": "acc+blocks", "strategy": "annealing", "supernet": "XX"}
    files.write_json(other / "report.json", report)
    return out, folder, other


def test_what_no_table_knows_is_drawn_in_grey(strangers, tmp_path):
    out, _, other = strangers
    table._archive.cache_clear()
    points = table.load(out)
    lines = static.lines_of(points)
    assert {line.colour for line in lines.values()} == {style.GREY}
    assert [line.label for line in lines.values()] == ["annealing, phase 4", "phase 7"]
    rows = points[(points.folder == other) & (points.iteration == points["last"])]
    assert np.allclose(rows.blocks, pd.read_csv(other / "archive.csv")["blocks"][-len(rows) :])
    assert points.blocks[points.folder != other].isna().all()
    fig = static.figure(picking.select(points, Choices()), "blocks", "val_top1")
    assert fig.axes[0].get_xlabel() == "blocks"
    texts = {text.get_text() for text in fig.legends[0].get_texts()}
    assert {"XX", "annealing, phase 4", "phase 7"} <= texts
    style.plt.close(fig)
    browser = Browser(points, tmp_path, "digits_turned", "acc+blocks")
    assert browser.controls.x.value == "blocks" and shown_points(browser) == len(rows)
    assert "blocks" in browser.numbers.value
    browser.controls.of["phase"].value = (7,)
    browser.controls.of["supernet"].value = ("EE_D",)
    browser.controls.of["objectives"].value = ("acc+macs",)
    browser.controls.x.value = "macs"
    assert shown_points(browser) == 12


def test_a_new_objective_is_an_axis_and_a_number(out, monkeypatch, tmp_path):
    def depth(subject, X):
        return np.array([sum(a.depth[: a.exit]) for a in subject.space.decode(X)], float)

    row = objectives.Objective(depth, "depth <b>", "blocks")
    monkeypatch.setitem(objectives.OBJECTIVES, "depth", row)
    table._archive.cache_clear()
    points = table.load(out)
    table._archive.cache_clear()
    assert points.depth.between(2, 20).all()
    assert table.axes(points)["depth"] == "depth <b> (blocks)"
    told = words.words(points.iloc[0])
    assert told["depth <b>"] == f"{points.depth[0]:.4g} blocks"


@pytest.mark.parametrize("key", ["objectives", "supernet", "dataset", "profile", "strategy"])
def test_markup_among_the_names_of_a_search_is_refused(tmp_path, key):
    """R6: a colleague's outputs folder is not trusted input."""
    folder = lay_search(tmp_path, np.random.default_rng(0))
    report = files.read_json(folder / "report.json")
    report["params"][key] = "acc+<img src=x onerror=alert(1)>"
    files.write_json(folder / "report.json", report)
    table._archive.cache_clear()
    with pytest.raises(Refusal, match=f"its {key} .* is no name") as refused:
        table.load(tmp_path)
    assert str(refused.value).count("\n") == 0


def test_words_of_strangers_are_escaped(points):
    nasty = "<img src=x onerror=alert(1)>&"
    row = points.iloc[-1].copy()
    row["post_top1"] = 50.0
    for key in ("objectives", "supernet", "strategy", "post_method"):
        row[key] = nasty if key != "objectives" else f"acc+{nasty}"
    row[nasty] = 1.0
    for text in (
        words.side_by_side([row], [nasty], nasty),
        words.in_a_line(row),
        *words.words(row).values(),
    ):
        assert "<img" not in text
    exported = {"files": [nasty], "folder": nasty, "checks": {}, "taken": nasty}
    assert "<img" not in words.summary(row, exported).to_html()


def test_a_perfect_archive_is_flagged(points):
    """W9: objectives without a range, and a reference point that leaves no room."""
    p = {"tradeoff_reduce": "min", "tradeoff_normalise": True}
    active = np.arange(4)[:, None]
    for F in (
        np.column_stack([np.zeros(4), [1.0, 2, 3, 4]]),
        np.column_stack([[1.0, 2, 3, 4], np.zeros(4)]),
        np.zeros((4, 2)),
        np.zeros((4, 1)),
        np.column_stack([np.zeros(4), [4.0, 3, 2, 1], [1.0, 2, 3, 4]]),
    ):
        found = table.flags(F, active, p, 1.01 * F.max(axis=0))
        assert np.isfinite(found).all() and (found[2] >= 0).all()
        assert found[0].tolist() == [not dominated(F, i) for i in range(len(F))]


def test_the_browser_shows_what_is_chosen(browser, points):
    here = picking.select(points, Choices(objectives=("acc+macs",)))
    assert (
        shown_points(browser) == len(here) and f"{len(here)} subnets shown" in browser.status.value
    )
    knees = here[here.knee > 0]
    assert sorted(browser.kinds["knee"].x) == pytest.approx(sorted(knees.macs))
    symbols = {trace.marker.symbol for trace in browser.kinds.values()}
    assert len(symbols) == 3  # told apart without their colours
    browser.controls.limits["macs"].value = here.macs.median()
    assert shown_points(browser) == (here.macs <= browser.controls.limits["macs"].value).sum()
    browser.controls.limits["macs"].value = browser.controls.limits["macs"].max
    browser.controls.of["supernet"].value = ("BASE",)
    assert shown_points(browser) == 16
    browser.controls.of["supernet"].value = ()
    assert shown_points(browser) == 0 and "Nothing to show" in browser.status.value
    browser.controls.of["supernet"].value = ("BASE", "EE_D")
    browser.controls.x.value, browser.controls.y.value = "latency", "contribution"
    assert shown_points(browser) == here.latency.notna().sum()
    assert browser.figure.layout.xaxis.title.text == "latency (ms)"


def test_the_iteration_slider_moves_the_points_and_keeps_the_axes(browser, points):
    before = browser.figure.layout.xaxis.range
    chosen = browser.chosen
    browser.controls.iteration.value = 0
    assert shown_points(browser) == len(
        picking.select(points, Choices(objectives=("acc+macs",), iteration=0))
    )
    assert browser.figure.layout.xaxis.range == before
    assert browser.chosen.code == chosen.code  # nobody clicked


def test_walking_pinning_and_clicking(browser):
    order = picking.ordered_front(browser.shown, "macs")
    browser.place.value = 0
    seen = [browser.chosen.name]
    for _ in range(len(order) + 2):
        browser.walk.children[2].click()
        seen.append(browser.chosen.name)
    assert (
        list(dict.fromkeys(seen)) == order.index.tolist() and browser.place.value == len(order) - 1
    )
    assert (browser.ring.x, browser.ring.y) == ((browser.chosen.macs,), (browser.chosen.val_top1,))
    assert (
        f"{browser.chosen.val_top1:.2f}" in browser.numbers.value and "<svg" in browser.drawn.value
    )
    pin, unpin, _ = browser.buttons.children
    for _ in range(6):
        pin.click()
        pin.click()  # the same again: once
        browser.walk.children[1].click()
    assert len(browser.pins) == 4 and browser.pinned.value.count("scope='col'") == 4
    assert browser.squares.text == ("A", "B", "C", "D")
    assert "Four are pinned" in browser.said.value
    unpin.click()
    assert browser.pins == [] and browser.pinned.value == "" and browser.squares.x == (None,)
    from plotly.callbacks import Points

    at = len(browser.indices["dominated"]) - 1
    browser.kinds["dominated"]._dispatch_on_click(Points(point_inds=[at]), None)
    assert browser.chosen.name == browser.indices["dominated"][at]


def test_export_tells_its_result_or_its_refusal_in_one_line(browser, monkeypatch, tmp_path):
    asked = []

    def from_search(cell, code, folder):
        asked.append((cell, code, folder))
        if len(asked) == 2:
            raise Refusal("no images <here>: say where")
        return {
            "folder": str(folder),
            "files": ["subnet.json"],
            "checks": {"pt2": 1e-6, "onnx": None},
        }

    monkeypatch.setattr(sources, "from_search", from_search)
    button = browser.buttons.children[2]
    button.click()
    assert (
        "subnet.json" in browser.said.value
        and "1.0e-06" in browser.said.value
        and "onnx" not in browser.said.value
    )
    button.click()
    assert "Not exported: no images &lt;here&gt;" in browser.said.value
    (cell, code, folder), again = asked
    assert (cell, code) == (
        browser.chosen.folder,
        browser.chosen.code,
    ) and folder.parent == tmp_path / "export"
    assert again[2] == folder and browser.chosen.folder.name in folder.name


def test_the_fine_tuned_network_is_exported_where_validation_prefers_it(
    points, monkeypatch, tmp_path
):
    asked = []
    for name in ("from_search", "from_post"):

        def made(cell, *rest, name=name):
            return asked.append((name, cell, rest[-1])) or {}

        monkeypatch.setattr(sources, name, made)
    row = points.iloc[-1].copy()
    cell = row.folder.parents[2] / "post_processing/digits_turned/EE_D/0-std"
    for better in (np.nan, -1.0, 0.0, 1.0):
        row["post_val_top1"] = row.val_top1 + better
        row["post_cell"] = "digits_turned/EE_D/0-std"
        words.exported(row, tmp_path)
    assert asked == [("from_search", row.folder, tmp_path)] * 3 + [("from_post", cell, tmp_path)]


def test_every_control_has_a_name(browser):
    controls = [
        browser.controls.dataset,
        *browser.controls.of.values(),
        browser.controls.x,
        browser.controls.y,
        *browser.controls.limits.values(),
        browser.controls.paper,
        browser.controls.iteration,
        browser.place,
        *browser.buttons.children,
        *browser.walk.children,
    ]
    assert all(control.description for control in controls)


def test_the_browser_runs_after_every_search_and_post_processing():
    jobs = {job.id: job for job in plan_jobs("smoke")}
    parts = {name for name in jobs if name.startswith(("04_natv2_phases-", "05_post_processing-"))}
    parts |= {"10_take_home"}
    assert len(parts) > 2 and parts <= set(jobs["06_pareto_browser"].needs)
    assert "06_pareto_browser" in jobs["07_thesis_report"].needs
    assert list(jobs).index("06_pareto_browser") > max(map(list(jobs).index, parts))

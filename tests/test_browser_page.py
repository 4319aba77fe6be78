"""Notebook 06 in JupyterLab, in a real browser: run, move a slider, pick a point, pin, export; page
and files agree."""

import pandas as pd
import pytest
from laboratory import PAGE, REMEDY, button, opened, run_all, slider, tools, wait, with_parameters

from nat_lib import files
from nat_lib.export import load_subnet
from nat_lib.studies import searches

pytestmark = pytest.mark.skipif(tools() is None, reason=REMEDY)


@pytest.fixture(scope="module")
def out(tmp_path_factory, searching):
    """A real search, tiny, and what the driver leaves beside it, from which an export finds the
    images."""
    params, data, lay = searching
    out = lay(tmp_path_factory.mktemp("page") / "outputs", "EE_D")
    searches.run_search(params, "EE_D", 1, "acc+macs", 0, data, out)
    files.write_json(out / "jobs/04.params.json", params)
    return out


@pytest.fixture(scope="module")
def page(out, tmp_path_factory):
    """A driver with the executed notebook; `nat` holds what PAGE defines."""
    folder = tmp_path_factory.mktemp("lab")
    with_parameters(
        files.ROOT / "notebooks/06_pareto_browser.ipynb",
        folder / "browser.ipynb",
        out=str(out),
        figures=str(out / "06_pareto_browser"),
        export_recommended=False,
    )
    with opened(folder / "browser.ipynb", folder, (1400, 1500)) as driver:
        run_all(driver)
        driver.execute_script(PAGE)
        wait(
            lambda: driver.execute_script(
                "return !!(nat.figure() && nat.figure()._fullData && nat.trace('chosen'))"
            ),
            120,
            "the figure with all its traces",
        )
        driver.execute_script("document.querySelector('.nat-browser').scrollIntoView()")
        yield driver


@pytest.fixture(scope="module")
def archive(out):
    return pd.read_csv(next(out.glob("natv2_phases/*/*/archive.csv")))


def xs(page, name):
    return sorted(page.execute_script(f"return nat.xs('{name}')"))


def shown(page):
    return sorted(xs(page, "dominated") + xs(page, "front") + xs(page, "high trade-off"))


def marked(page, symbol):
    return page.execute_script(f"return nat.marked('{symbol}')")


def text(page, selector):
    return page.execute_script(f"return nat.text('{selector}')")


def front_of(rows):
    better = [
        (
            (rows.error <= r.error)
            & (rows.macs <= r.macs)
            & ((rows.error < r.error) | (rows.macs < r.macs))
        ).any()
        for r in rows.itertuples()
    ]
    return rows[[not b for b in better]]


def test_the_page_shows_the_last_archive(page, archive, out):
    last = archive[archive.iteration == archive.iteration.max()]
    assert shown(page) == pytest.approx(sorted(last.macs))
    assert f"{len(last)} subnets shown" in text(page, ".nat-status")
    assert sorted(xs(page, "front") + xs(page, "high trade-off")) == pytest.approx(
        sorted(front_of(last).macs)
    )
    left = {p.name for p in (out / "06_pareto_browser").iterdir()}
    assert {"front.png", "front.csv", "front_subnets.csv", "recommended.png"} <= left
    assert (out / "notebooks/06_pareto_browser/report.json").exists()


def test_the_chosen_subnet_is_told_beside_and_above_the_figure(page):
    """N8: its numbers are on the screen together with the figure."""

    def place(selector):
        of = f"document.querySelector('.nat-browser {selector}').getBoundingClientRect().toJSON()"
        return page.execute_script(f"return {of}")

    line, figure, table = (place(s) for s in (".nat-line", ".js-plotly-plot", ".nat-table"))
    assert "M MACs" in text(page, ".nat-line")
    assert line["bottom"] <= figure["top"] and table["left"] >= figure["right"] - 1
    assert table["top"] < figure["bottom"] and table["bottom"] - line["top"] < 700


def test_a_slider_moved_by_the_keyboard_shows_another_iteration(page, archive):
    from selenium.webdriver.common.keys import Keys

    handle = slider(page, "iteration")
    for k in range(archive.iteration.max() - 1, -1, -1):
        handle.send_keys(Keys.ARROW_LEFT)
        then = archive[archive.iteration == k]
        wait(lambda then=then: shown(page) == pytest.approx(sorted(then.macs)), 20, "its subnets")
        wait(
            lambda then=then: f"{len(then)} subnets shown" in text(page, ".nat-status"),
            20,
            "their number",
        )
        assert len(xs(page, "dominated")) == len(then) - len(front_of(then))
    handle.send_keys(Keys.END)
    wait(
        lambda: (
            f"{archive.iteration.max()} of {archive.iteration.max()}" in text(page, ".nat-table")
        ),
        20,
        "the last",
    )


def test_what_was_hidden_comes_back_looking_the_same(page, archive):
    from selenium.webdriver.common.keys import Keys

    looks = (
        "return nat.figure()._fullData.filter(t => t.marker && t.visible === true).map(t => "
        "[t.name, t.marker.symbol, t.marker.size, (t.marker.line || {}).width, t.showlegend, "
        "(t.marker.line || {}).color, "
        "typeof t.marker.color === 'string' ? t.marker.color : 'by supernet'])"
    )
    before, handle = page.execute_script(looks), slider(page, "MACs ≤")
    look = {name: (symbol, color) for name, symbol, *_, color in before}
    assert look["chosen"] == ("circle-open", "black") and look["high trade-off"] == (
        "star",
        "by supernet",
    )
    handle.send_keys(Keys.HOME)
    wait(lambda: len(shown(page)) <= 1, 20, "an almost empty figure")
    handle.send_keys(Keys.END)
    wait(
        lambda: len(shown(page)) == (archive.iteration == archive.iteration.max()).sum(),
        20,
        "all subnets",
    )
    assert page.execute_script(looks) == before


def test_a_clicked_point_is_told_and_drawn(page, archive):
    from selenium.webdriver.common.action_chains import ActionChains

    told = [""]
    for name in ("dominated", "high trade-off"):
        x, y = map(round, page.execute_script(f"return nat.at('{name}', 0)"))
        error = 100 - page.execute_script(f"return nat.trace('{name}').y[0]")
        mouse = ActionChains(page)
        mouse.w3c_actions.pointer_action.move_to_location(x, y)
        mouse.w3c_actions.pointer_action.click()
        mouse.perform()
        wait(
            # the numbers of a dominated point stand beside those of what dominates it
            lambda error=error: f"{100 - error:.2f}±" in text(page, ".nat-table") != told[-1],
            20,
            f"the numbers of {name}",
        )
        told.append(text(page, ".nat-table"))
    assert len(set(told)) == 3
    image = page.find_element("css selector", ".nat-browser svg.nat-subnet")
    assert (
        "M MACs" in image.get_attribute("aria-label")
        and image.size["width"] > 500
        and image.size["height"] > 100
    )


def test_the_front_is_walked_with_keys_pinned_and_compared(page):
    from selenium.webdriver.common.keys import Keys

    handle = slider(page, "front point")
    handle.send_keys(Keys.HOME)
    front = sorted(xs(page, "front") + xs(page, "high trade-off"))
    for x in front:
        wait(lambda x=x: marked(page, "circle-open") == pytest.approx([x]), 20, f"the point at {x}")
        button(page, "Pin").click()
        handle.send_keys(Keys.ARROW_RIGHT)
    pinned = min(4, len(front))
    wait(lambda: marked(page, "square-open") == pytest.approx(front[:pinned]), 20, "the squares")
    tables = page.find_elements("css selector", ".nat-browser .nat-table")
    assert (
        len(tables) == 2 and len(tables[1].find_elements("css selector", "th[scope=col]")) == pinned
    )
    button(page, "Unpin all").click()
    wait(
        lambda: len(page.find_elements("css selector", ".nat-browser .nat-table")) == 1,
        20,
        "an empty comparison",
    )


def test_an_export_leaves_a_network_that_loads(page, out):
    button(page, "Export").click()
    said = wait(
        lambda: next((t for t in [text(page, ".nat-said")] if "xported" in t), None),
        180,
        "the export",
    )
    assert said.startswith("Exported README.md, subnet.json"), said
    (folder,) = (
        p for p in (out / "06_pareto_browser/export").iterdir() if not p.name.startswith(".")
    )
    assert {"subnet.json", "subnet.safetensors", "subnet.pt2", "README.md"} <= {
        p.name for p in folder.iterdir()
    }
    assert sum(p.numel() for p in load_subnet(folder).parameters()) > 1000
    assert str(folder) in said

"""Tables for a notebook: ours above the printed value, a caption that wraps, a box that scrolls.

Whatever a chapter shows goes through `entry` (one place of a table), `paired` (rows and columns in
the order of the thesis) and `Table` (what a notebook and the page show). What was not run says so,
what the thesis does not print says so, and X is a step that a supernet does not have. Text that
comes from files is escaped here: labels by `Table`, entries by whoever makes them HTML.
"""

import html
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from IPython.display import HTML

from nat_lib import files
from nat_lib.report.style import GREY
from nat_lib.results.names import NOT_PRINTED, NOT_RUN, name_of

VERDICT_COLOUR = {"reproduced": "#1b7837", "above": "#b35806", "below": "#b35806"}
CSS = [
    {"selector": "th", "props": "text-align:center; font-weight:600; padding:2px 4px"},
    {"selector": "td", "props": "text-align:center; padding:2px 4px; white-space:nowrap"},
    {"selector": "", "props": "font-size:86%; border-collapse:collapse; margin:0"},
]
BLANK = ""
MOST = 12  # numbers in a sentence


def grey(text):
    """HTML in grey."""
    return f'<span style="color:{GREY}">{text}</span>'


NO_RUN, NO_PRINT, X = grey("not run"), grey(NOT_PRINTED), grey("X")


@dataclass(frozen=True)
class Table:
    """A frame of HTML under a caption that is as wide as the page, in a box that scrolls.

    data    : what stands in the table; labels of rows and columns are plain text
    caption : HTML
    text    : columns of prose, by place: they wrap and get the width that is left
    index   : show the labels of the rows
    """

    data: pd.DataFrame
    caption: str
    text: tuple = ()
    index: bool = True

    def to_html(self):
        """The whole as HTML; equal input gives equal bytes."""
        styler = self.data.style.set_uuid(files.hash_of(self.caption))
        css = list(CSS)
        if self.text:
            prose = ", ".join(f"td.col{i}" for i in self.text)
            css.append({"selector": prose, "props": "white-space:normal; text-align:left"})
            css.append({"selector": f"td.col{self.text[0]}", "props": "width:40%; min-width:16em"})
            css.append({"selector": "", "props": "width:100%"})
        styler = styler.set_table_styles(css)
        for axis in (0, 1):
            styler = styler.format_index(escape="html", axis=axis)
        if not self.index:
            styler = styler.hide(axis="index")
        caption = f'<figcaption style="padding-bottom:6px">{self.caption}</figcaption>'
        return (
            f'<figure class="nat-table" style="margin:.7em 0">{caption}'
            f'<div style="overflow-x:auto">{styler.to_html()}</div></figure>'
        )

    def _repr_html_(self):
        return self.to_html()


# -------------------------------------------------------------------------------- places of a table


def number(value, noise=np.nan, digits=2, sign=""):
    """HTML of a value and its noise with the same decimals; None for no value.

    sign : "+" shows the sign of positive values as well
    """
    if value is None or math.isnan(value):
        return None
    spread = "" if math.isnan(noise) else f"&plusmn;{noise:.{digits}f}"
    return f"{value:{sign}.{digits}f}{spread}"


def decimals(value, digits=3):
    """After how many decimals a value has so many significant digits; at least 0."""
    if not value or math.isnan(value):
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def entry(
    ours, printed=None, *, after="", verdict="", tip="", bold=False, bold_printed=False, small=()
):
    """One place of a table: ours above the printed value in grey.

    ours    : HTML, see `number`; what follows a plus-minus sign is not coloured.  None: not run
    after   : HTML behind ours, in plain type
    printed : HTML.  None: the thesis prints nothing; "": the table compares with nothing
    verdict : colours ours;  tip : what the pointer shows, plain text;  small : notes behind ours
    """
    below = NO_PRINT if printed is None else grey(f"<b>{printed}</b>" if bold_printed else printed)
    below = BLANK if printed == "" else f"<br>{below}"
    if ours is None:
        return NO_RUN + below
    value, sign, noise = ours.partition("&plusmn;")
    colour, weight = VERDICT_COLOUR.get(verdict, "inherit"), "bold" if bold else "normal"
    notes = f" <small>{', '.join(small)}</small>" if small else ""
    about = "; ".join(part for part in (verdict, tip) if part)
    return (
        f'<span style="color:{colour}; font-weight:{weight}" title="{html.escape(about)}">'
        f"{value}</span>{sign}{noise}{after}{notes}{below}"
    )


def of_seeds(seeds):
    """The note that a number is a mean over several seeds."""
    return (f"({int(seeds)})",) if seeds > 1 else ()


# --------------------------------------------------------------------------------------- the tables


def paired(rows, index, columns, caption, heads=None, order=None, missing=NO_RUN):
    """A table of entries, in the order in which rows and columns first occur: `Table`.

    rows           : DataFrame with the labels and `entry`
    index, columns : names of the columns of `rows` that become rows and columns of the table
    heads, order   : columns and rows that come first, in this order; missing ones are filled
    missing        : what stands where there is no entry
    """

    def labels(names, first):
        found = rows[names].itertuples(index=False, name=None) if len(names) > 1 else rows[names[0]]
        return list(dict.fromkeys([*(first or ()), *found]))

    view = rows.pivot(index=index, columns=columns, values="entry")
    view = view.reindex(index=labels(index, order), columns=labels(columns, heads))
    view.index.names, view.columns.names = [None] * len(index), [None] * len(columns)
    return Table(view.astype(object).where(view.notna(), missing), caption)


def nothing(title):
    """The table of a study that has no results yet."""
    return Table(pd.DataFrame({"": [NOT_RUN]}), title, index=False)


def plain(frame, caption, digits=2, index=True, text=()):
    """A frame as a small table: numbers rounded, text escaped, names of the index dropped.

    caption : plain text;  text : columns of prose, by place
    """

    view = frame.apply(lambda column: _shown(column, digits)).astype(object)
    view.index.names, view.columns.names = (
        [None] * view.index.nlevels,
        [None] * view.columns.nlevels,
    )
    return Table(view, f"<b>{html.escape(caption)}</b>", text, index)


def _shown(column, digits):
    """The values of a column as HTML; whole numbers have no decimals."""
    numbers = pd.to_numeric(column, errors="coerce").dropna()
    whole = (numbers % 1 == 0).all()

    def text(value):
        if isinstance(value, float | np.floating):
            return BLANK if math.isnan(value) else f"{value:.{0 if whole else digits}f}"
        if isinstance(value, list | tuple | set):
            return html.escape(", ".join(map(str, value)))
        if isinstance(value, dict):
            return html.escape(", ".join(f"{k} {v}" for k, v in value.items()))
        return BLANK if value is None else html.escape(str(value))

    return column.map(text)


def facts(caption, **pairs):
    """Names and what they are, as a table of two columns.  caption : plain text"""
    frame = pd.DataFrame({"": pairs.values()}, index=[name.replace("_", " ") for name in pairs])
    return plain(frame, caption)


def sentence(text):
    """A line of plain text that a notebook shows as prose."""
    return HTML(f"<p>{html.escape(text)}</p>")


def finished(report):
    """A finished cell as one sentence: its name and what it counted.

    report : what `cell.finish` returns; metrics may hold one level of {name: number}
    """

    def said(name, value):
        if isinstance(value, dict):
            parts = ", ".join(f"{k} {said('', v).strip()}" for k, v in value.items())
            return f"{name} ({parts})"
        if isinstance(value, float):
            value = f"{value:.{min(decimals(value), 6)}f}"
        return f"{name} {value}"

    metrics = report["metrics"].items()
    told = "; ".join(said(name.replace("_", " "), value) for name, value in metrics)
    if len(metrics) > MOST:
        told = f"{len(metrics)} numbers recorded"
    return sentence(f"Finished {report['name']}: {told}.")


def provenance(rows, *more):
    """One line of plain text on where numbers come from.

    rows : DataFrame with profile, dataset, seed and, if known, n_test;  more : further parts
    """
    if rows.empty:
        return f"No finished run: {NOT_RUN}."
    parts = [
        f"Profile: {listed(sorted(set(rows.profile)))}",
        f"data set: {listed(rows.dataset.map(name_of))}",
        f"seeds: {listed(sorted(set(rows.seed)))}",
        *more,
    ]
    if "n_test" in rows:
        parts.append(f"{listed(sorted(set(rows.n_test)))} test images")
    return "; ".join(parts) + "."


def listed(items):
    """Each once, in order of appearance, with commas."""
    return ", ".join(str(item) for item in dict.fromkeys(items))


def side_by_side(ours, paper, caption, remarks=None):
    """Our table with every place that differs from the printed one in colour: `Table`.

    ours, paper : DataFrames of text with equal rows and columns;  caption : plain text
    remarks     : {(row from 0, column): why it differs}, e.g. a known misprint
    """
    paper = paper.reset_index(drop=True).reindex(range(len(ours))).fillna("")  # rows only we have
    different = ours.to_numpy(str) != paper.to_numpy(str)
    view = ours.astype(str).map(html.escape).astype(object)
    for i, j in np.argwhere(different):
        struck = grey(f"<s>{html.escape(str(paper.iat[i, j]))}</s>")
        view.iat[i, j] = f'<b style="color:{VERDICT_COLOUR["above"]}">{view.iat[i, j]}</b> {struck}'
    view.index = range(1, len(view) + 1)
    agree = f"all {different.size} entries as printed"
    if different.any():
        agree = (
            f"{(~different).sum()} of {different.size} entries as printed, "
            "the others in colour with the printed text struck out"
        )
    notes = "".join(
        f"<br>{grey(html.escape(f'row {i + 1}, {column}: {why}'))}"
        for (i, column), why in (remarks or {}).items()
    )
    return Table(view, f"<b>{html.escape(caption)}</b>: {agree}.{notes}", index="row" not in ours)


def show_claims(judged, thesis=None, cheapest=None):
    """Verdicts for a notebook, one row per claim: `Table`.

    thesis   : `claims.judge` of the printed numbers (`claims.as_printed`), shown as what the same
               rule says of them
    cheapest : `coverage.cheapest`; None: what the claim needs, as the reference names it
    """
    shares = {} if thesis is None else dict(zip(thesis.id, thesis.share, strict=True))
    rows = [_claim(row, shares.get(row.id, np.nan), cheapest) for row in judged.itertuples()]
    tally = "; ".join(f"{n} {v}" for v, n in judged.verdict.value_counts().sort_index().items())
    caption = (
        f"<b>{len(judged)} claims</b>: {html.escape(tally)}. Counted claim by claim they ask for "
        f"{judged.asked.sum()} values, of which {judged.have.sum()} exist. The percentage is the "
        "share of noisy copies of our values on which a claim holds; margin: by how much it holds "
        "(negative: fails), and where 95 % of the copies lie."
    )
    return Table(pd.DataFrame(rows), caption, text=(0, 1, 2), index=False)


CLAIM_COLOUR = {"reproduced": "#1b7837", "contradicted": "#b2182b", "tie within noise": "#8c6d1f"}


def _claim(row, printed_share, cheapest):
    """One row of `show_claims`."""

    def text(value):
        return html.escape(str(value))

    verdict = f'<b style="color:{CLAIM_COLOUR.get(row.verdict, GREY)}">{text(row.verdict)}</b>'
    if not np.isnan(row.share):
        verdict += f" <small>{100 * row.share:.0f} %</small>"
    thesis, margin = text(row.paper_value), BLANK
    if row.holds_on_paper == "no":
        thesis += " <i>(its own numbers say no)</i>"
    if not np.isnan(printed_share):
        thesis += f"<br>{grey(f'printed numbers: {100 * printed_share:.0f} %')}"
    if not np.isnan(row.margin):
        margin = f"{row.margin:+.2f} <small>[{row.low:.2f}, {row.high:.2f}]</small>"
    return {
        "claim": f"<b>{text(row.id)}</b> {text(row.statement)} {grey(text(row.reference))}",
        "thesis": thesis,
        "ours": text(row.ours),
        "verdict": verdict,
        "margin": margin,
        "seeds": BLANK if np.isnan(row.seeds) else int(row.seeds),
        "values": f"{row.have}/{row.asked}",
        "needs": text(cheapest[row.id] if cheapest else row.needs),
    }

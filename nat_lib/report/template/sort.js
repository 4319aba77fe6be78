// Tables whose body is a plain grid: a click (or Enter) on a heading sorts by that column, numbers
// as numbers.
const keyOf = cell => {
  const text = cell.innerText.trim().split("\n")[0];
  const number = parseFloat(text.replace("\u2212", "-"));
  return [isNaN(number), isNaN(number) ? text : number];
};
const compare = (a, b) => {
  if (a[0] !== b[0]) return a[0] - b[0];
  return a[1] < b[1] ? -1 : a[1] > b[1] ? 1 : 0;
};

function makeSortable(table) {
  const body = table.tBodies[0];
  const head = table.tHead && table.tHead.rows[table.tHead.rows.length - 1];
  if (!body || !head || body.rows.length < 3) return;
  if (body.querySelector("[rowspan], [colspan]")) return;
  if (head.cells.length !== body.rows[0].cells.length) return;
  [...head.cells].forEach((th, i) => {
    th.classList.add("sorts");
    th.tabIndex = 0;
    th.title = "sort by this column";
    const sort = () => {
      const up = th.getAttribute("aria-sort") !== "ascending";
      [...head.cells].forEach(other => other.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map(row => [keyOf(row.cells[i]), row]);
      rows.sort((a, b) => (up ? 1 : -1) * compare(a[0], b[0]));
      body.append(...rows.map(row => row[1]));
    };
    th.onclick = sort;
    th.onkeydown = event => { if (event.key === "Enter") sort(); };
  });
}
document.querySelectorAll("table").forEach(makeSortable);

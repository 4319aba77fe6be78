"""params/ -> parameters: read, overridden by options, checked, told in one line per mistake.

A profile says how much (images, epochs, subnets), an experiment says what (teachers, seeds,
switches); a notebook gets both, flat. The models behind them are in `nat_lib.studies.models`.
"""

import ast
from collections.abc import Container, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Any

import yaml
from pydantic import ValidationError

from nat_lib import starts
from nat_lib.errors import Refusal
from nat_lib.files import ROOT, read_json
from nat_lib.studies import STUDIES
from nat_lib.studies.models import Machine, Profile

PARAMS = ROOT / "params"
# where cells live; where tables and figures go; what a profile says
RUN_KEYS = ("out", "figures", "sizes")
LARGEST = 1_000_000  # bytes of a file of parameters

Values = dict[str, Any]

KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "missing": "given: it is missing",
}


_short = Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 4, 80, 80
_short.maxlist = _short.maxdict = 12


def _validated(model: Any, values: Values, where: str, changed: Container[str] = ()) -> Values:
    """`values` as the model's plain dict; otherwise a Refusal with one line per key.

    changed : keys that options of the command line gave
    """
    try:
        return model.model_validate(values).model_dump()
    except ValidationError as error:
        lines = []
        for mistake in error.errors():
            place = mistake["loc"]
            source = "command line" if place and place[0] in changed else where
            lines.append(f"{source}: {_line(mistake, model)}")
    raise Refusal("\n".join(lines))


def _line(error: Any, model: Any) -> str:
    """One mistake that pydantic found, as a line that names key, value and legal values."""
    kind, context = error["type"], error.get("ctx", {})
    given = _short.repr(error["input"])
    key = _key_of(error["loc"])
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {_meant(key, model.model_fields)}"
    if kind == "literal_error":
        line = f"{key}: {given} is not one of {context['expected'].replace(' or ', ', ')}"
        quoted = isinstance(error["input"], int | float) and f"'{error['input']}'" in line
        return f"{line}; write it in quotes" if quoted else line
    if kind == "value_error":
        return f"{key}: {given} {context['error']}" if key else str(context["error"])
    number = _number(error["input"]) if kind in ("int_type", "float_type") else None
    if number is not None:
        return f"{key}: {given} is text, not a number: write {number}"
    if kind == "missing":
        return f"{key}: must be {KINDS[kind]}"
    if kind in KINDS:
        return f"{key}: {given} must be {KINDS[kind]}"
    said = error["msg"].replace("Input should", "must").replace("String should", "must")
    return f"{key}: {given} {said}"


def _key_of(place: Iterable[Any]) -> str:
    """The place of a mistake as a user writes it: `supernets[1.0][0]`."""
    first, *others = [part for part in place if part != "[key]"] or [""]
    return str(first) + "".join(f"[{part}]" for part in others)


def _meant(key: str, known: Iterable[str]) -> str:
    close = get_close_matches(key, known, 1)
    return f"did you mean {close[0]}?" if close else f"the keys are {', '.join(known)}"


def _number(text: Any) -> str | None:
    """A number that YAML 1.1 read as text (1e-3), spelled so that it is read as a number.

    None if it is no such text.
    """
    if not isinstance(text, str):
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    if value.is_integer() and abs(value) < 1e15 and "." not in text:
        return repr(int(value))
    spelled = repr(value)
    return spelled if "." in spelled else spelled.replace("e", ".0e")


# --------------------------------------------------------------------------------------- parameters


def read_yaml(path: str | Path) -> Values:
    """A file of `key: value` lines, or a Refusal that says what is wrong with it."""
    try:
        with open(path, "rb") as file:
            blob = file.read(LARGEST + 1)
    except (OSError, ValueError):
        raise Refusal(f"{path} cannot be read: check the path") from None
    if len(blob) > LARGEST:
        raise Refusal(f"{path} is larger than {LARGEST} bytes: it is no file of parameters")
    try:
        values = _yaml(blob.decode())
    except UnicodeDecodeError:
        raise Refusal(f"{path} is not UTF-8 text: save it in that encoding") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Refusal(f"{path}, line {mark.line + 1 if mark else '?'}: not valid YAML") from None
    if not isinstance(values, dict):
        raise Refusal(f"{path}: must be lines of 'key: value'")
    return values


def _yaml(text: str) -> Any:
    """The value of a YAML text; what nests too deeply to be read is a YAMLError, too."""
    try:
        return yaml.safe_load(text)
    except (RecursionError, ValueError) as error:  # ValueError: a date such as 2024-99-99
        raise yaml.YAMLError(str(error)) from None


def profile_path(profile: str | Path) -> Path:
    """File of a profile: its name, or the path of a YAML file of one's own."""
    if Path(profile).suffix in (".yaml", ".yml"):
        return Path(profile)
    path = PARAMS / "profiles" / f"{profile}.yaml"
    if not path.exists():
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise Refusal(
            f"profile: {profile!r} is not one of {names} and not the path of a .yaml file"
        )
    return path


def load_profile(profile: str | Path, overrides: Values | None = None) -> Values:
    """All keys of a profile; `overrides` win, and those it has no key for are left alone."""
    path = profile_path(profile)
    chosen = _known(overrides, Profile)
    found = settled(read_yaml(path) | chosen, overrides or {})
    values = _validated(Profile, found, as_shown(path), chosen)
    check_overrides(values["switches"], f"{as_shown(path)}, switches: ")
    for key in ("data_dir", "target_dir"):
        if values[key]:
            values[key] = str(ROOT / Path(values[key]).expanduser())
    return values


def load_experiment(
    study: str, overrides: Values | None = None, profile: Values | None = None
) -> Values:
    """All switches of a study; the `switches` of a profile win, then `overrides`; those it has no
    key for are left alone."""
    if study not in STUDIES:
        raise Refusal(f"experiment: {study!r} is not one of {', '.join(STUDIES)}")
    model, path = STUDIES[study].switches, PARAMS / "experiments" / f"{study}.yaml"
    chosen = _known(overrides, model)
    of_profile = _known(profile and profile["switches"], model)
    values = read_yaml(path) | of_profile | chosen
    if "start" in values:
        values["start"] = starts.settled(values["start"])
    return _validated(model, values, as_shown(path), chosen)


def settled(values: Values, overrides: Values) -> Values:
    """The values of a profile; what is `auto` in it chosen from what is at hand: the plan by the
    start, resolutions by the images."""
    if values.get("plan") == starts.AUTO:
        switches = values.get("switches")
        given = switches if isinstance(switches, dict) else {}
        start = starts.settled(str((given | overrides).get("start", "scratch")))
        values = values | {"plan": starts.plan_of(start)}
    return _sized(values)


def _sized(values: Values) -> Values:
    """Resolutions that are `auto` chosen from the images at hand."""
    asked = [key for key in ("train_resolutions", "eval_resolutions") if values.get(key) == "auto"]
    if not asked:
        return values
    from nat_lib.data.sides import training_sides

    folder = values.get("data_dir")
    if not folder:
        raise Refusal(f"{asked[0]}: auto asks the images, and data_dir names none: give --data-dir")
    return values | dict.fromkeys(asked, training_sides(ROOT / Path(str(folder)).expanduser()))


def _known(overrides: Values | None, model: Any) -> Values:
    return {key: value for key, value in (overrides or {}).items() if key in model.model_fields}


def assignments(texts: Iterable[str]) -> Values:
    """{key: value} of texts such as "lr_factor=2.0"; a value is read as in a YAML file."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            found[key] = _yaml(value)
        except yaml.YAMLError:
            equals = ""
        if not (key and equals):
            raise Refusal(f"--set {text[:200]}: write key=value, the value as in a YAML file")
    return found


def load_params(profile: str | Path, study: str, overrides: Values | None = None) -> Values:
    """Profile and experiment as one flat dict of plain values.

    overrides : win; each must be a key of some file
    """
    check_overrides(overrides or {})
    sizes = load_profile(profile, overrides)
    return sizes | load_experiment(study, overrides, sizes)


def sizes_of(study: str, profile: Values) -> Values:
    """What a study takes of a profile; `job_hours` is for the driver alone."""
    model = STUDIES[study].sizes or Machine
    return {key: profile[key] for key in model.model_fields if key != "job_hours"}


def given(study: str, namespace: Mapping[str, Any]) -> Values:
    """The parameters of a notebook of this study as one flat dict, validated again.

    Its parameters cell names a profile, all of the experiment, and `sizes`: what replaces values of
    the profile. A batch run fills `sizes` completely; what somebody writes there by hand is checked
    like a file.
    """
    row, sizes = STUDIES[study], namespace["sizes"]
    model = row.sizes or Machine
    how_much = {"job_hours": 1.0} | sizes
    if set(model.model_fields) - set(how_much):
        start = {"start": namespace["start"]} if "start" in namespace else {}
        how_much = _known(load_profile(namespace["profile"], sizes | start), model) | sizes
    what = {key: namespace[key] for key in row.switches.model_fields if key in namespace}
    return _validated(model, how_much, "parameters cell, sizes") | _validated(
        row.switches, what, "parameters cell"
    )


def check_overrides(overrides: Iterable[str], where: str = "--set ") -> None:
    """Each must be a key of some file in params/; otherwise a Refusal names the closest."""
    known = dict.fromkeys(Profile.model_fields)
    for row in STUDIES.values():
        known |= dict.fromkeys(row.switches.model_fields)
    unknown = [key for key in overrides if key not in known]
    if unknown:
        lines = [f"{where}{key}: unknown key; {_meant(key, known)}" for key in unknown]
        raise Refusal("\n".join(lines))


def as_shown(path: str | Path) -> str:
    """A path as the user would type it."""
    for base in (Path.cwd(), ROOT):
        if Path(path).is_absolute() and Path(path).is_relative_to(base):
            return str(Path(path).relative_to(base))
    return str(path)


# ---------------------------------------------------------------------------------------- notebooks


def parameters_cell(notebook: str | Path) -> Values:
    """{name: default} of the cell tagged `parameters`, which only sets names to literals."""
    cells = [
        c
        for c in read_json(notebook)["cells"]
        if c["cell_type"] == "code" and "parameters" in c["metadata"].get("tags", ())
    ]
    if len(cells) != 1:
        raise Refusal(
            f"{as_shown(notebook)}: one code cell must carry the tag 'parameters', {len(cells)} do"
        )
    found: Values = {}
    try:
        for node in ast.parse(source_text(cells[0])).body:
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
                raise ValueError
            found[node.targets[0].id] = ast.literal_eval(node.value)
    except (SyntaxError, ValueError):
        raise Refusal(
            f"{as_shown(notebook)}: the parameters cell may hold only lines of 'name = literal'"
        ) from None
    return found


def source_text(cell: Values) -> str:
    """The source of a notebook's cell, which may be stored as lines."""
    return "".join(cell["source"])


# ----------------------------------------------------------------------------- values that must fit


def check_together(sizes: Values, switches: Mapping[str, Values]) -> None:
    """Refuse combinations that only a later notebook would, before hours are spent on an earlier.

    switches : {study: its switches} of the studies that are to run
    """
    problems: list[str] = []
    for study, check in TOGETHER.items():
        if study in switches:
            problems += check(sizes, switches)
    if problems:
        raise Refusal("\n".join(dict.fromkeys(problems)))


def _untrained(
    sizes: Values, switches: Mapping[str, Values], names: Iterable[str], key: str
) -> Iterator[str]:
    """A line for each supernet that a study wants and no other trains."""
    widths = switches.get("ofav2_eps", {}).get("widths", [float(w) for w in sizes["supernets"]])
    trained = [
        name
        for width, named in sizes["supernets"].items()
        if float(width) in widths
        for name in named
    ]
    for name in dict.fromkeys(names):
        if name not in trained:
            yield (
                f"{key}: {name} is trained at no width: list it under supernets (and its width "
                f"under widths), or take it out of {key}"
            )


def _predictors_fit(sizes: Values, switches: Mapping[str, Values]) -> Iterator[str]:
    yield from _untrained(sizes, switches, sizes["predictor_supernets"], "predictor_supernets")


def _searches_fit(sizes: Values, switches: Mapping[str, Values]) -> Iterator[str]:
    from nat_lib.search.archive import VERSIONS

    versions = [
        v for v, names in sizes["nat_supernets"].items() if names and sizes["searches"].get(v)
    ]
    names = [name for version in versions for name in sizes["nat_supernets"][version]]
    yield from _untrained(sizes, switches, names, "nat_supernets")
    for version in versions:
        teacher = VERSIONS[int(version)].teacher
        if teacher not in switches.get("ofav2_eps", {}).get("teachers", [teacher]):
            yield (
                f"teachers: the searches of version {version} start from supernets that the "
                f"{teacher} teacher trained: add it, or empty version {version} of searches"
            )


def _posts_fit(sizes: Values, switches: Mapping[str, Values]) -> Iterator[str]:
    for version, wanted in sizes["post_searches"].items():
        if not sizes["nat_supernets"].get(version):
            continue
        for objectives in wanted:
            if objectives not in sizes["searches"].get(version, ()):
                yield (
                    f"post_searches[{version}]: {objectives} is not among searches[{version}]: "
                    "add it there, or take it out here"
                )


TOGETHER = {
    "predictors": _predictors_fit,
    "natv2_phases": _searches_fit,
    "post_processing": _posts_fit,
}

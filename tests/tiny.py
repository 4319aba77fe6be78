"""The one small profile of the tests, tests/tiny.yaml, and what is changed of it."""

from pathlib import Path

import yaml

from nat_lib.run import params

PROFILE = Path(__file__).with_name("tiny.yaml")


def tiny(study, **changes):
    """The parameters of a study at tiny size, as a notebook gets them."""
    return params.load_params(PROFILE, study, changes)


def write_profile(path, **changes):
    """A profile of one's own at `path`: the tiny one with some keys changed."""
    values = yaml.safe_load(PROFILE.read_text())
    path.write_text(yaml.safe_dump(values | changes, sort_keys=False))
    return path

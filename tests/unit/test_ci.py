"""The build server runs what developers run, on every Python that the package allows."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_it_runs_the_targets_of_the_makefile_on_all_versions() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    main = jobs["check-and-test"]
    targets = [step["run"] for step in main["steps"] if step.get("run", "").startswith("make ")]
    assert targets == ["make setup", "make check", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target.removeprefix('make ')}:" in makefile for target in targets)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = main["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={versions[0]}"
    assert project["classifiers"] == [f"Programming Language :: Python :: {v}" for v in versions]
    scripts = [
        step["run"] for job in jobs.values() for step in job["steps"]
        if step.get("run", "").startswith("deploy/")
    ]  # fmt: skip
    assert scripts
    assert all((ROOT / script).stat().st_mode & 0o100 for script in scripts)
